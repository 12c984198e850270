# SPDX-License-Identifier: Apache-2.0
r"""A Llama of 1.2 B parameters on web text, for a node of GPUs.

alignjax train --config=configs/pretrain/llama_1b.py --workdir=runs/llama_1b \
    --config.tokenizer.path=llama3/tokenizer.json \
    --config.data.sources.web.path='fineweb/*.parquet'

Hardware: 8 GPUs with 80 GB each.
Time and result: not yet run. The speed of its step alone:
`python tools/benchmark_step.py --model=llama/1b --vocab=128256 --length=2048 \
--batch=8 --dtype=bfloat16 --remat=dots`: docs/performance.md.
"""

from configs import base


def get_config():
    c = base.language_model()
    c.steps, c.batch_size, c.length = 50_000, 256, 2048  # 26 B tokens
    c.model.update(family="llama", name="1b", max_length=2048)
    c.tokenizer.kind, c.tokenizer.path = "huggingface", ""
    c.tokenizer.eos_token = "<|end_of_text|>"
    c.data.sources.web = dict(kind="parquet", path="", field="text", weight=1.0)
    c.data.validation_fraction = 0.001
    c.microbatches = 4
    c.objective.z_loss = 1e-4
    c.objective.logits_dtype = "bfloat16"
    c.optimizer.learning_rate, c.optimizer.weight_decay = 4e-4, 0.1
    c.schedule.name, c.schedule.decay = "wsd", 0.1
    c.schedule.warmup_steps = 1000
    c.checkpoint.every, c.checkpoint.keep_every = 500, 10_000
    c.evaluation.every, c.sample.every = 1000, 1000
    c.sample.prompts = ("The meaning of life is",)
    return c

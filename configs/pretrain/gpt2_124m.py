# SPDX-License-Identifier: Apache-2.0
r"""GPT-2 124M on web text, for one GPU or more.

alignjax train --config=configs/pretrain/gpt2_124m.py --workdir=runs/gpt2 \
    --config.tokenizer.path=gpt2/tokenizer.json \
    --config.data.sources.web.path='fineweb/*.parquet'

Hardware: 8 GPUs with 80 GB each, or one with --config.microbatches=8.
Time and result: not yet run. The speed of its step alone:
`python tools/benchmark_step.py --model=gpt2/124m --vocab=50304 --length=1024 \
--batch=32 --dtype=bfloat16`: docs/performance.md.
"""

from configs import base


def get_config():
    c = base.language_model()
    c.steps, c.batch_size, c.length = 19_073, 512, 1024  # 10 B tokens
    c.model.update(family="gpt2", name="124m", dtype="bfloat16")
    c.model.vocab_size = 50_304  # a multiple of 128, which matrix units like
    c.tokenizer.kind, c.tokenizer.path = "huggingface", ""
    c.tokenizer.eos_token = "<|endoftext|>"
    c.data.sources.web = dict(kind="parquet", path="", field="text", weight=1.0)
    c.data.validation_fraction = 0.001
    c.data.bos = False
    c.objective.logits_dtype = "bfloat16"
    c.optimizer.learning_rate, c.optimizer.weight_decay = 6e-4, 0.1
    c.schedule.warmup_steps, c.schedule.final = 700, 0.1
    c.checkpoint.every, c.checkpoint.keep_every = 500, 5000
    c.evaluation.every, c.sample.every = 500, 1000
    c.sample.prompts = ("The meaning of life is",)
    return c

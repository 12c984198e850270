# SPDX-License-Identifier: Apache-2.0
r"""Llama 3.1's 8 B shape on web text, for a TPU pod.

tools/launch_tpu.sh NAME ZONE -- --config=configs/pretrain/llama_8b.py \
    --workdir=/mnt/runs/llama_8b \
    --config.tokenizer.path=/mnt/llama3/tokenizer.json \
    --config.data.sources.web.path='/mnt/fineweb/*.parquet'

Hardware: v5p-128 or larger. Time and result: not yet run.
"""

from configs import base


def get_config():
    c = base.language_model()
    c.steps, c.batch_size, c.length = 60_000, 512, 8192  # 250 B tokens
    c.model.update(family="llama", name="8b", attention="splash", remat="dots")
    c.tokenizer.kind, c.tokenizer.path = "huggingface", ""
    c.tokenizer.eos_token = "<|end_of_text|>"
    c.data.sources.web = dict(kind="parquet", path="", field="text", weight=1.0)
    c.data.validation_fraction = 0.0005
    c.objective.z_loss = 1e-4
    c.optimizer.learning_rate, c.optimizer.weight_decay = 3e-4, 0.1
    c.schedule.warmup_steps, c.schedule.final = 2000, 0.1
    c.mesh = dict(data=1, fsdp=-1, tensor=1)
    c.checkpoint.every, c.checkpoint.keep_every = 500, 10_000
    c.evaluation.every = 1000
    return c

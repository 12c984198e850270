# SPDX-License-Identifier: Apache-2.0
r"""Fine-tuning Qwen2.5-0.5B on the mixture of Tulu 3, by low-rank updates.

alignjax train --config=configs/sft/qwen25_05b_lora.py --network \
    --workdir=runs/qwen25_05b_sft

Model, tokenizer and chat template are those of the hub's repository, which the extra
`hf` downloads; `--config.init.run=hf:PATH` takes a folder that is there already. So are
the 939,343 dialogues; this is a part of a pass over them. Only the low-rank matrices
are trained and saved; `alpha / rank` and the rate are those of arXiv:2106.09685 and
arXiv:2305.14314.

Memory, by arithmetic: 358 M frozen parameters in bfloat16 are 0.7 GB, 136 M of the
embedding in float32 0.5 GB, 8.8 M trained ones with gradient and moments 0.1 GB; what
`remat="dots"` keeps of 8,192 tokens is 5.3 GB; logits and one layer's attention weights
about 2 GB.

Hardware: one GPU with 24 GB. Time: unknown. Result: not yet run.
"""

from configs import base


def get_config():
    c = base.sft()
    c.init.run = "hf:Qwen/Qwen2.5-0.5B"
    c.steps, c.batch_size, c.length = 2000, 32, 2048
    c.model.update(max_length=2048, remat="dots", base="bfloat16")
    base.lora(c, rank=16, alpha=32.0)
    c.data.chat, c.data.bos = "tokenizer", False  # Qwen has no start token
    base.tulu3(c)
    c.microbatches = 8
    c.optimizer.learning_rate, c.optimizer.weight_decay = 2e-4, 0.0
    c.schedule.warmup_steps, c.schedule.final = 60, 0.1
    c.checkpoint.every = 500
    c.evaluation.every, c.evaluation.batches = 500, 20
    c.sample.every, c.sample.max_tokens = 500, 200
    c.sample.prompts = ("What is the capital of France?", "Write a haiku about rain.")
    return c

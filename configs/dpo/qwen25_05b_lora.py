# SPDX-License-Identifier: Apache-2.0
r"""DPO of Qwen2.5-0.5B-Instruct on UltraFeedback, binarized, by low-rank updates.

alignjax train --config=configs/dpo/qwen25_05b_lora.py --network \
    --workdir=runs/qwen25_05b_dpo

Model, tokenizer and chat template are those of the hub's repository, which the extra
`hf` downloads, and so are the 61,135 pairs to train on and 2,000 to evaluate. Pairs
whose scores are equal are ties, and skipped, counted. The reference is the model
without the low-rank matrices, which costs no second copy. `init.run` may as well be an
export of configs/sft/qwen25_05b_lora.py, with its low-rank matrices merged:

alignjax convert export runs/qwen25_05b_sft runs/qwen25_05b_merged

Memory, by arithmetic: as configs/sft/qwen25_05b_lora.py has it, about 8.5 GB.

Hardware: one GPU with 24 GB. Time: unknown. Result: not yet run.
"""

from configs import base


def get_config():
    c = base.preference()
    c.init.run = "hf:Qwen/Qwen2.5-0.5B-Instruct"
    # A pass, where a pair has 800 tokens; the log says how many passes it is.
    c.steps, c.batch_size, c.length = 800, 32, 2048
    c.model.update(max_length=2048, remat="dots", base="bfloat16")
    base.lora(c, rank=16, alpha=32.0)
    c.objective.loss, c.objective.beta = "dpo", 0.1
    base.ultrafeedback(c)
    c.data.chat, c.data.bos = "tokenizer", False  # Qwen has no start token
    c.microbatches = 8
    c.optimizer.learning_rate, c.optimizer.weight_decay = 2e-5, 0.0
    c.schedule.warmup_steps, c.schedule.final = 80, 0.0
    c.checkpoint.every = 200
    c.evaluation.every = 200
    c.sample.every, c.sample.max_tokens = 200, 200
    c.sample.prompts = ("What is the capital of France?", "Write a haiku about rain.")
    return c

# SPDX-License-Identifier: Apache-2.0
r"""DPO of a 1.2 B Llama on UltraFeedback, binarized.

alignjax train --config=configs/dpo/ultrafeedback.py --workdir=runs/uf_dpo \
    --config.init.run=runs/tulu3_sft

The pairs, 61,135 to train on and 2,000 to evaluate, are from the Hub, with the extra
`hf`. Pairs whose scores are equal are ties, and skipped, counted. Rate, beta and one
pass are Zephyr's (arXiv:2310.16944). The reference is a copy of the policy on the same
GPUs; with one process, `--config.reference.store=True` computes it once instead.

Hardware: 8 GPUs with 80 GB each. Time: unknown. Result: not yet run.
"""

from configs import base


def get_config():
    c = base.preference()
    # A pass, where a pair has 800 tokens; the log says how many passes it is.
    c.steps, c.batch_size, c.length = 400, 32, 4096
    c.model.update(max_length=4096, remat="dots")
    c.objective.loss, c.objective.beta = "dpo", 0.01
    base.ultrafeedback(c)
    c.microbatches = 4
    c.optimizer.learning_rate = 5e-7
    c.schedule.warmup_steps, c.schedule.final = 40, 0.0
    c.checkpoint.every = 200
    c.evaluation.every = 100
    c.sample.every, c.sample.max_tokens = 200, 200
    c.sample.prompts = ("What is the capital of France?", "Write a haiku about rain.")
    return c

# SPDX-License-Identifier: Apache-2.0
r"""A reward model of 1.2 B parameters on UltraFeedback, binarized.

alignjax train --config=configs/reward/ultrafeedback.py \
    --workdir=runs/uf_reward --config.init.run=runs/tulu3_sft

The pairs, 61,135 to train on and 2,000 to evaluate, are from the Hub, with the extra
`hf`. Pairs whose scores are equal are ties, and skipped, counted.

Hardware: 8 GPUs with 80 GB each. Time: unknown. Result: not yet run.
"""

from configs import base


def get_config():
    c = base.reward_model()
    # A pass, where a pair has 800 tokens; the log says how many passes it is.
    c.steps, c.batch_size, c.length = 400, 32, 4096
    c.model.update(max_length=4096, remat="dots")
    base.ultrafeedback(c)
    c.microbatches = 4
    c.optimizer.learning_rate = 1e-5
    c.schedule.warmup_steps, c.schedule.final = 30, 0.1
    c.checkpoint.every = 200
    c.evaluation.every = 100
    return c

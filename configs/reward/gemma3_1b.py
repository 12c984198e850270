# SPDX-License-Identifier: Apache-2.0
r"""A reward model from Gemma 3 1B, on UltraFeedback, binarized.

alignjax train --config=configs/reward/gemma3_1b.py --network \
    --workdir=runs/gemma3_1b_reward

Model, tokenizer and chat template are those of the hub's repository, which asks for a
licence to be accepted, and the 61,135 pairs to train on and 2,000 to evaluate are the
hub's too; both need the extra `hf`. Pairs whose scores are equal are ties, and skipped,
counted. All parameters are trained, and a new head of one score.

Memory, by arithmetic: 1.0 B parameters, gradients and two moments in float32 are
16.0 GB; what `remat="dots"` keeps of 8,192 tokens is 8.0 GB; one layer's attention
weights about 1 GB.

Hardware: one GPU with 80 GB. Time: unknown. Result: not yet run.
"""

from configs import base


def get_config():
    c = base.reward_model()
    c.init.run = "hf:google/gemma-3-1b-it"
    # A pass, where a pair has 800 tokens; the log says how many passes it is.
    c.steps, c.batch_size, c.length = 800, 32, 2048
    c.model.update(max_length=2048, remat="dots")
    base.ultrafeedback(c)
    c.data.chat = "tokenizer"
    c.microbatches = 8
    c.optimizer.learning_rate, c.optimizer.weight_decay = 5e-6, 0.0
    c.schedule.warmup_steps, c.schedule.final = 40, 0.1
    c.checkpoint.every = 200
    c.evaluation.every = 200
    return c

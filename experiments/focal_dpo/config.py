# SPDX-License-Identifier: Apache-2.0
r"""Pairs of the embedded world of whose labels three in ten are wrong; see README.md.

alignjax train --config=experiments/focal_dpo/config.py --workdir=runs/x \
    --config.init.run=runs/sft \
    --config.objective.loss=experiments.focal_dpo.losses:focal_dpo
"""

from configs import base


def get_config():
    c = base.preference()
    c.steps, c.batch_size, c.length = 60, 16, 128
    c.objective.beta = 0.5  # so that pairs soon differ in how surely they are right
    world = dict(kind="world", preset="nano", weight=1.0)
    c.data.sources.world = dict(**world, split="preferences", labeler="noisy")
    # Held out, and judged without noise.
    c.data.validation_sources.world = dict(**world, split="eval_preferences")
    c.data.validation_fraction = 0.0
    c.data.long_documents = "skip"
    c.optimizer.learning_rate, c.optimizer.b2 = 1e-4, 0.98
    c.schedule.warmup_steps, c.schedule.final = 6, 0.1
    c.checkpoint.every = c.checkpoint.keep_every = 20  # points of a curve over KL
    c.evaluation.every = 60
    return c

# SPDX-License-Identifier: Apache-2.0
r"""The default: a small Llama on the embedded world, offline, on any machine.

python -m alignjax.train --config=configs/pretrain/world.py --workdir=runs/world

Hardware: 2 CPU cores. Time: 3.5 minutes.
Result: eval/loss 0.635 nats a token; a unigram model has 5.23.
"""

from configs import base


def get_config():
    c = base.language_model()
    c.steps, c.batch_size, c.length = 600, 32, 128
    c.model.update(family="llama", name="nano", max_length=256, remat="dots")
    c.tokenizer.vocab_size = 1024
    c.data.sources.world = dict(kind="world", preset="small", seed=0, weight=1.0)
    c.data.validation_fraction = 0.02
    c.optimizer.learning_rate, c.optimizer.b2 = 3e-3, 0.98
    c.schedule.warmup_steps = 50
    c.checkpoint.every = 200
    c.evaluation.every = 200
    c.sample.every = 200
    c.sample.prompts = ("", "user: what is two plus three?\nassistant:")
    return c

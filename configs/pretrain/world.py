# SPDX-License-Identifier: Apache-2.0
r"""The default: a small Llama on the embedded world, offline, on any machine.

Among the documents are dialogues of mixed quality, in the format that fine-tuning uses.

alignjax train --config=configs/pretrain/world.py --workdir=runs/world

Hardware: 2 CPU cores. Time: 3.6 minutes.
Result, over seeds: the rows "pretrain" of docs/story.md.
"""

from configs import base


def get_config():
    c = base.language_model()
    c.steps, c.batch_size, c.length = 1200, 16, 128
    c.model.update(max_length=256, remat="dots")
    c.tokenizer.vocab_size = 704
    c.tokenizer.byte_fallback = False  # the world has no other words
    c.tokenizer.control_tokens = ("<system>", "<user>", "<assistant>", "<end>")
    world = dict(kind="world", preset="nano", seed=0, documents=100_000)
    c.data.sources.world = dict(world, dialogues="chat", weight=1.0)
    c.data.chat, c.data.train_on = "roles", "everything"
    c.data.validation_fraction = 0.02
    c.optimizer.learning_rate, c.optimizer.b2 = 3e-3, 0.98
    c.schedule.warmup_steps = 50
    c.checkpoint.every = 400
    c.evaluation.every = 400
    c.sample.every = 600
    c.sample.prompts = ("what is two plus three?", "what is the job of ada?")
    c.sample.max_tokens = 40
    return c

# SPDX-License-Identifier: Apache-2.0
r"""A small Llama of the dialogues of Anthropic's HH, for the stages after it.

alignjax train --config=configs/pretrain/hh.py --workdir=runs/hh/pretrain \
    --config.data.sources.chosen.path=hh.jsonl \
    --config.data.sources.rejected.path=hh.jsonl

The file has a pair a line, `{"chosen": "\n\nHuman: ...", "rejected": ...}`. Both sides
are read, as text whose every token is learned. A quarter is held out by what the user
says first, here and in the configs of the other stages, so that none of them learns
from a dialogue that another evaluates. Only the tokenizer is trained on all of it.

Hardware: 2 CPU cores. Time: about 10 minutes beside another job. Result, on
1,500 pairs of the harmless part, 1,141 of them to train on: eval/loss 3.94 nats a token
of the dialogues held out; 4.57 after 100 steps.
"""

from configs import base


def get_config():
    c = base.language_model()
    c.steps, c.batch_size, c.length = 300, 8, 512
    c.model.update(d_model=192, layers=4, heads=6, d_ff=512, max_length=512)
    c.model.update(dropout=0.1, remat="dots")
    c.tokenizer.vocab_size = 2048
    c.tokenizer.control_tokens = ("<system>", "<user>", "<assistant>", "<end>")
    hh = dict(kind="jsonl", path="", format="hh", weight=1.0)
    c.data.sources.chosen = hh
    # The same lines with their sides exchanged: the first response is the one that is
    # read as a dialogue.
    c.data.sources.rejected = dict(
        **hh, columns=dict(chosen="rejected", rejected="chosen")
    )
    c.data.chat, c.data.train_on = "roles", "everything"
    c.data.on_bad_row = "skip"  # a few rows have empty replies
    c.data.validation_fraction = 0.25
    c.optimizer.learning_rate, c.optimizer.b2 = 2e-3, 0.98
    c.optimizer.weight_decay = 0.1
    c.schedule.warmup_steps, c.schedule.final = 40, 0.1
    c.checkpoint.every = 100
    c.evaluation.every, c.evaluation.batches = 100, 16
    c.sample.every, c.sample.max_tokens = 150, 60
    c.sample.prompts = ("how do i bake bread?", "how can i steal a car?")
    return c

# SPDX-License-Identifier: Apache-2.0
"""Writes replies: the best to a prompt, of mixed quality, and spoiled by one edit.

    reply := (filler | certainty)* [opener] core [closer] (filler | certainty)* [thanks]

The core answers, errs, refuses, abstains or blocks. Mixed quality is what the
pretraining corpus is made of: a model of it can pad, boast, make things up, refuse what
is harmless and help with what is not, so that later stages have something to change.
"""

from __future__ import annotations

import random

from alignjax.world import chance, prompts
from alignjax.world.tasks import TASKS

WRONG = "wrong"
# Modes of replies of mixed quality: the best, or this one whatever the prompt.
_QUALITIES = chance.Weighted(
    {
        "best": 0.50,
        prompts.RIGHT: 0.20,
        WRONG: 0.15,
        prompts.REFUSE: 0.08,
        prompts.ABSTAIN: 0.07,
    }
)


def core(rng: random.Random, prompt: prompts.Prompt, mode: str) -> str:
    """A reply in `mode`, without courtesy or padding."""
    words, task = prompt.lexicon, TASKS[prompt.kind]
    if mode in words.declining:
        return chance.pick(rng, words.declining[mode])
    answer = task.wrong if mode == WRONG else task.right
    text = answer(rng, words, prompt.meta)
    if prompt.constraint == "one word":
        return f"{task.read(words, prompt.meta, text).value}."
    return text


def best(rng: random.Random, prompt: prompts.Prompt) -> str:
    """The best reply, in the form that the prompt demands."""
    words, reply = prompt.lexicon, core(rng, prompt, prompt.best)
    if prompt.constraint == "polite":
        reply = f"{chance.pick(rng, words.openers)} {reply}"
    elif prompt.constraint not in ("one word", "brief") and rng.random() < 0.3:
        reply = f"{reply} {chance.pick(rng, words.closers)}"
    if prompt.constraint == "thanks":
        reply = f"{reply} {chance.pick(rng, words.thanks)}"
    return reply


def mixed(rng: random.Random, prompt: prompts.Prompt) -> str:
    """A reply of mixed quality: half of them the best, many padded."""
    words, mode = prompt.lexicon, _QUALITIES.draw(rng)
    reply = best(rng, prompt) if mode == "best" else core(rng, prompt, mode)
    padding = words.fillers + words.certainties
    if mode != "best" and rng.random() < 0.25:
        reply = f"{chance.pick(rng, words.openers)} {reply}"
    if rng.random() < 0.3:
        count = 2 if rng.random() < 1 / 3 else 1
        reply = f"{' '.join(chance.sample(rng, padding, count))} {reply}"
    if rng.random() < 0.15:
        reply = f"{reply} {chance.pick(rng, padding)}"
    if mode != "best" and rng.random() < 0.2:
        reply = f"{reply} {chance.pick(rng, words.closers)}"
    return reply


def two_different(rng: random.Random, prompt: prompts.Prompt) -> tuple[str, str]:
    """Two replies of mixed quality that are not the same text."""
    first = second = mixed(rng, prompt)
    while second == first:
        second = mixed(rng, prompt)
    return first, second


def _content(rng: random.Random, prompt: prompts.Prompt, reply: str) -> str:
    """An error in an answer; help, leaks and inventions where there should be none."""
    mode = WRONG
    if prompt.best in (prompts.REFUSE, prompts.BLOCK):
        mode = prompts.RIGHT
    return _reframe(prompt, reply, core(rng, prompt, mode))


def _mode(rng: random.Random, prompt: prompts.Prompt, reply: str) -> str:
    """Declining where an answer was due, or declining for the wrong reason."""
    modes = (prompts.REFUSE, prompts.ABSTAIN, prompts.BLOCK)
    mode = chance.pick_other(rng, modes, prompt.best)
    return _reframe(prompt, reply, core(rng, prompt, mode))


def padded(rng: random.Random, prompt: prompts.Prompt, reply: str) -> str:
    """The reply after a sentence that says nothing."""
    words = prompt.lexicon
    return f"{chance.pick(rng, words.fillers + words.certainties)} {reply}"


def _ending(rng: random.Random, prompt: prompts.Prompt, reply: str) -> str:
    """Cut off in the middle of the answer."""
    words = _bare(prompt, reply).split(" ")
    front = words[: int(rng.random() * len(words))]
    return _reframe(prompt, reply, " ".join(front)).strip()


def _bare(prompt: prompts.Prompt, reply: str) -> str:
    """A best reply without its opener, closer and thanks."""
    words = prompt.lexicon
    for opener in words.openers:
        reply = reply.removeprefix(f"{opener} ")
    for phrase in (*words.thanks, *words.closers):
        reply = reply.removesuffix(f" {phrase}")
    return reply


def _reframe(prompt: prompts.Prompt, reply: str, core: str) -> str:
    """The same opener, closer and thanks around another core."""
    return reply.replace(_bare(prompt, reply), core, 1)


CORRUPTIONS = dict(content=_content, mode=_mode, padding=padded, ending=_ending)


def corrupt(
    rng: random.Random, prompt: prompts.Prompt, reply: str, name: str | None = None
) -> str:
    """A best reply with one edit, of the kind `name` or of any.

    Its true reward is always lower, which the tests hold over thousands of prompts.
    """
    name = name or chance.pick(rng, tuple(CORRUPTIONS))
    return CORRUPTIONS[name](rng, prompt, reply)

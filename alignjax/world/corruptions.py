# SPDX-License-Identifier: Apache-2.0
"""Single edits that make a best reply worse, and say what they spoil."""

from __future__ import annotations

import random

from alignjax.world import chance, prompts, replies


def _content(rng: random.Random, prompt: prompts.Prompt, reply: str) -> str:
    """An error in an answer; help, leaks and inventions where there should be none."""
    mode = replies.WRONG
    if prompt.best in (prompts.REFUSE, prompts.BLOCK):
        mode = prompts.RIGHT
    return _reframe(prompt, reply, replies.core(rng, prompt, mode))


def _mode(rng: random.Random, prompt: prompts.Prompt, reply: str) -> str:
    """Declining where an answer was due, or declining for the wrong reason."""
    modes = (prompts.REFUSE, prompts.ABSTAIN, prompts.BLOCK)
    mode = chance.pick_other(rng, modes, prompt.best)
    return _reframe(prompt, reply, replies.core(rng, prompt, mode))


def _padding(rng: random.Random, prompt: prompts.Prompt, reply: str) -> str:
    """A sentence that says nothing, in front."""
    words = prompt.lexicon
    return f"{chance.pick(rng, words.fillers + words.certainties)} {reply}"


def _ending(rng: random.Random, prompt: prompts.Prompt, reply: str) -> str:
    """Cut off in the middle of the answer."""
    core = _core(prompt, reply).split(" ")
    kept = core[: int(rng.random() * len(core))]
    return _reframe(prompt, reply, " ".join(kept)).strip()


def _core(prompt: prompts.Prompt, reply: str) -> str:
    """What is left of a best reply without its opener, closer and thanks."""
    words = prompt.lexicon
    for opener in words.openers:
        reply = reply.removeprefix(f"{opener} ")
    for phrase in (*words.thanks, *words.closers):
        reply = reply.removesuffix(f" {phrase}")
    return reply


def _reframe(prompt: prompts.Prompt, reply: str, core: str) -> str:
    """The same opener, closer and thanks around another core."""
    return reply.replace(_core(prompt, reply), core, 1)


CORRUPTIONS = {
    "content": _content,
    "mode": _mode,
    "padding": _padding,
    "ending": _ending,
}


def corrupt(
    rng: random.Random, prompt: prompts.Prompt, reply: str, name: str | None = None
) -> str:
    """A best reply with one edit, of the kind `name` or of any.

    Its true reward is always lower, which the tests hold over thousands of prompts.
    """
    name = name or chance.pick(rng, tuple(CORRUPTIONS))
    return CORRUPTIONS[name](rng, prompt, reply)

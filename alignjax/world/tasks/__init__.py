# SPDX-License-Identifier: Apache-2.0
"""The kinds of prompts, and their weights.

To add a task: write its ask, right, wrong and read in one of these files, list it in
that file's TASKS, and give it a weight here.
"""

from __future__ import annotations

import functools
import random

from alignjax.world import chance, knowledge, prompts, reaches
from alignjax.world.tasks import acts, facts, sums, words

TASKS: dict[str, prompts.Task] = facts.TASKS | acts.TASKS | sums.TASKS | words.TASKS

# The nine slices of every evaluation.
NANO_WEIGHTS = {
    "fact": 28,
    "unknown": 8,
    "safe": 16,
    "unsafe": 10,
    "border": 6,
    "arithmetic": 10,
    "review": 10,
    "follow": 6,
    "system": 6,
}
SMALL_WEIGHTS = NANO_WEIGHTS | {
    "chain": 8,
    "twohop": 6,
    "sycophancy": 5,
    "list": 6,
    "copy": 4,
    "story": 5,
}
WEIGHTS = {"nano": NANO_WEIGHTS, "small": SMALL_WEIGHTS}


@functools.lru_cache(maxsize=8)
def _mixture(preset: str, border: bool) -> chance.Weighted[str]:
    weights = WEIGHTS[preset]
    return chance.Weighted(
        {k: w for k, w in weights.items() if border or k != "border"}
    )


def draw_prompt(
    rng: random.Random,
    world: knowledge.World,
    reach: reaches.Reach,
    kind: str | None = None,
) -> prompts.Prompt:
    """A prompt within `reach`: of the mixture, or of one kind."""
    kind = kind or _mixture(world.lexicon.preset, bool(reach.border)).draw(rng)
    prompt = TASKS[kind].ask(rng, world, reach)
    return prompt._replace(novelty=prompts.novelty(prompt))

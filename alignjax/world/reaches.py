# SPDX-License-Identifier: Apache-2.0
"""The reach of a split: the people, attributes, acts and constraints of its prompts.

Demonstrations have a small reach, preferences a larger one, evaluation and pretraining
have all. A model has to generalise over the difference.
"""

from __future__ import annotations

import dataclasses
import functools

from alignjax.world import lexicon

# Constraints of a question, and of a system prompt.
ASKED = {
    "one word": "use one word.",
    "polite": "be polite.",
    "thanks": "end with thanks.",
}
ORDERED = {"brief": "be brief.", "polite": "be polite."}


@dataclasses.dataclass(frozen=True)
class Reach:
    """What the prompts of a split may be about.

    Attributes:
      known, unknown: people for questions with and without an answer.
      attributes: names of attributes.
      wordings: how many of a question's wordings, from the front.
      safe, unsafe, border: acts.
      places: of the town.
      constraints: {kind: constraints that a question may carry}.
      attacks: whether unsafe requests may be disguised.
    """

    known: tuple[str, ...]
    unknown: tuple[str, ...]
    attributes: tuple[str, ...]
    wordings: int
    safe: tuple[str, ...]
    unsafe: tuple[str, ...]
    border: tuple[str, ...]
    places: tuple[str, ...]
    constraints: dict[str, tuple[str, ...]]
    attacks: bool


_ANY_CONSTRAINT = {
    "fact": tuple(ASKED),
    "safe": ("polite", "thanks"),
    "arithmetic": ("one word",),
    "chain": ("one word",),
    "twohop": ("one word", "polite"),
}
_FAMILIAR_CONSTRAINT = {"fact": ("one word",), "safe": ("polite",)}
_FAMILIAR_ATTRIBUTES = ("job", "home", "pet", "day")
# In no preference, so that a reward model can be tested on an unseen attribute.
HELD_OUT_ATTRIBUTE = "tool"


def _front(items, share: float) -> tuple[str, ...]:
    items = tuple(items)
    return items[: round(len(items) * share)]


@functools.lru_cache(maxsize=8)
def everything(preset: str) -> Reach:
    """Everything: pretraining and evaluation."""
    words = lexicon.find(preset)
    return Reach(
        known=words.known,
        unknown=words.unknown + words.partial,
        attributes=tuple(words.attributes),
        wordings=3,
        safe=tuple(words.safe),
        unsafe=tuple(words.unsafe),
        border=tuple(words.border),
        places=words.places,
        constraints=_ANY_CONSTRAINT,
        attacks=bool(words.attacks),
    )


@functools.lru_cache(maxsize=8)
def preference(preset: str) -> Reach:
    """Preferences and reinforcement: all but what is held out for evaluation."""
    reach = everything(preset)
    return dataclasses.replace(
        reach,
        attributes=tuple(a for a in reach.attributes if a != HELD_OUT_ATTRIBUTE),
        unsafe=_front(reach.unsafe, 0.75),
        border=_front(reach.border, 0.5),
    )


@functools.lru_cache(maxsize=8)
def familiar(preset: str) -> Reach:
    """Demonstrations: fewer people, attributes, wordings, acts; nothing borderline."""
    words = lexicon.find(preset)
    return Reach(
        known=_front(words.known, 0.6),
        unknown=_front(words.unknown, 0.5),
        attributes=tuple(a for a in words.attributes if a in _FAMILIAR_ATTRIBUTES),
        wordings=2,
        safe=_front(words.safe, 0.6),
        unsafe=_front(words.unsafe, 0.6),
        border=(),
        places=_front(words.places, 0.6),
        constraints=_FAMILIAR_CONSTRAINT,
        attacks=False,
    )


def of_split(preset: str, split: str) -> Reach:
    """The reach of the prompts of a split; see `examples.VIEWS`."""
    if split in ("demonstrations", "eval_demonstrations", "eval_id"):
        return familiar(preset)
    evaluates = split.startswith("eval_") and split != "eval_preferences"
    return everything(preset) if evaluates else preference(preset)

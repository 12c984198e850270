# SPDX-License-Identifier: Apache-2.0
"""The truth about the town: everybody's facts and friends, the order of the places.

A seed decides it, so no fact can be guessed better than by chance: a model that answers
right has learned it from the corpus.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from alignjax.world import chance, lexicon

# The number of facts about a person of whom the town knows only a part.
_PARTIAL_FACTS = 3


class World(NamedTuple):
    """A town: its language and what is true in it.

    Attributes:
      facts: {person: {attribute: value}}; complete for `lexicon.known`, three
        attributes for `lexicon.partial`, nothing for `lexicon.unknown`.
      friends: {person: friend} among the known; nobody is their own friend.
      layout: the places in the order in which they stand along the road.
    """

    seed: int
    lexicon: lexicon.Lexicon
    facts: dict[str, dict[str, str]]
    friends: dict[str, str]
    layout: tuple[str, ...]


@functools.lru_cache(maxsize=8)
def build(preset: str, seed: int) -> World:
    """The town of `seed`, in the language of `preset`.

    Raises:
      DataError: there is no such preset.
    """
    words = lexicon.find(preset)
    rng = chance.stream(seed, preset, "knowledge")
    values = {name: a.values for name, a in words.attributes.items()}
    facts = {}
    for person in words.known:
        facts[person] = {name: chance.pick(rng, v) for name, v in values.items()}
    for person in words.partial:
        names = sorted(chance.sample(rng, values, _PARTIAL_FACTS))
        facts[person] = {name: chance.pick(rng, values[name]) for name in names}
    for person in words.unknown:
        facts[person] = {}
    circle = chance.sample(rng, words.known, len(words.known))
    friends = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    layout = tuple(chance.sample(rng, words.places, len(words.places)))
    return World(seed, words, facts, friends, layout)

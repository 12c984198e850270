# SPDX-License-Identifier: Apache-2.0
"""Short stories: a beginning, a plot of two sentences, a mood. They reveal no facts."""

from __future__ import annotations

import random

from alignjax.world import chance, knowledge
from alignjax.world.tasks import words

# Two people a and b, two places, and one value of each attribute.
PLOTS = (
    ("{b} was already there.", "they shared some {food} and talked for hours."),
    ("on the way {a} met {b}.", "{b} told a long story about a {job}."),
    (
        "{a} saw {b} with a {pet}.",
        "they followed the {pet} all the way to the {there}.",
    ),
    ("there {b} was looking for a lost {pet}.", "{a} found the {pet} under a bench."),
    ("{b} was there with a heavy {tool}.", "{a} helped to carry it to the {there}."),
    ("{b} wanted to sell a {color} {tool}.", "{a} gave some {food} for it."),
    ("it began to rain.", "{a} and {b} ran to the {there} and waited for the sun."),
    ("{a} had lost a {color} coat.", "{b} found it near the {there}."),
    ("a {pet} stole the {food} of {b}.", "{a} ran after it with a {tool}."),
    ("{b} sang an old song.", "even the {job} stopped to listen."),
    ("{a} was waiting for a letter.", "{b} brought it late in the evening."),
    ("{b} asked {a} for a {tool}.", "together they repaired a gate near the {there}."),
    ("a {job} was selling {food}.", "{a} bought too much and gave half to {b}."),
    ("{a} fell asleep on a bench.", "when {b} came by, it was dark."),
    ("a stranger asked for the {there}.", "{a} and {b} showed the way."),
    ("{b} had a secret.", "{a} promised to tell nobody but the {pet}."),
    ("the {job} wanted to close early.", "{b} bought the last {food} anyway."),
    ("somebody had left a {tool} in the road.", "{a} and {b} never learned who."),
    ("{a} and {b} made a bet.", "the slower one had to eat cold {food}."),
)
_MOOD = "it was {first} and {second}."
_ENDINGS = (
    "both went home {feeling}.",
    "in the end {a} was {feeling}.",
    "{b} was {feeling} all week.",
)


def write(rng: random.Random, world: knowledge.World) -> str:
    """A story of four or five sentences."""
    language = world.lexicon
    a, b = chance.sample(rng, language.everybody, 2)
    place, there = chance.sample(rng, language.places, 2)
    positive = rng.random() < 0.5
    first, second = words.two_adjectives(rng, language, positive)
    scene = {n: chance.pick(rng, v.values) for n, v in language.attributes.items()}
    scene |= {"a": a, "b": b, "name": a, "place": place, "there": there}
    scene |= {"first": first, "second": second}
    scene["feeling"] = chance.pick(rng, language.happy if positive else language.sad)
    meeting, event = chance.pick(rng, PLOTS)
    sentences = [chance.pick(rng, words.BEGINNINGS), meeting, event]
    if rng.random() < 0.5:
        sentences.insert(1, _MOOD)
    sentences.append(chance.pick(rng, _ENDINGS))
    return " ".join(sentences).format_map(scene)

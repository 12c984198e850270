# SPDX-License-Identifier: Apache-2.0
"""Tasks about words: reviews with a tone, lists, copies, and three-sentence stories.

The functions of a task have the signatures of `prompts.Task`.
"""

from __future__ import annotations

import functools
import re

from alignjax.world import chance, prompts

REVIEWS = (
    "describe something {tone} about the {place}.",
    "say something {tone} about the {place}.",
    "what would a {tone} guest write about the {place}?",
)
LISTS = (
    "name {count} {kinds}.",
    "can you name {count} {kinds}?",
    "which {count} {kinds} come to mind?",
)
COPIES = (
    "repeat after me: {words}.",
    "say these words: {words}.",
    "copy this line: {words}.",
)
STORIES = (
    "tell me a {mood} story about {name}.",
    "write a {mood} story about {name}.",
    "i would love a {mood} story about {name}.",
)
BEGINNINGS = (
    "one morning {name} walked to the {place}.",
    "last night {name} sat by the {place}.",
    "early on {day} {name} came to the {place}.",
)
_COUNTS = ("two", "three")
_REVIEW = re.compile(r"the ([a-z]+) is ([a-z]+) and ([a-z]+)\.")


def two_adjectives(rng, words, positive: bool) -> tuple[str, str]:
    """Two different adjectives of one tone."""
    first, second = chance.sample(rng, words.adjectives(positive), 2)
    return first, second


def ask_review(rng, world, reach) -> prompts.Prompt:
    """Metadata: `place`, and `positive` for the tone."""
    wording, positive = int(rng.random() * reach.wordings), rng.random() < 0.5
    place = chance.pick(rng, reach.places)
    tone = "nice" if positive else "critical"
    question = REVIEWS[wording].format(tone=tone, place=place)
    meta = {"place": place, "positive": positive, "wording": wording}
    return prompts.ask(rng, world, reach, "review", question, meta)


def _review(right: bool, rng, words, meta) -> str:
    """Two adjectives of the tone, or of the other one."""
    first, second = two_adjectives(rng, words, meta["positive"] == right)
    return f"the {meta['place']} is {first} and {second}."


def read_review(words, meta, core) -> prompts.Reading | None:
    """Two adjectives for the place; right where both have the tone."""
    match = _REVIEW.fullmatch(core)
    if match is None or match.group(1) != meta["place"]:
        return None
    adjectives = match.groups()[1:]
    if any(word not in words.positive + words.negative for word in adjectives):
        return None
    tone = words.adjectives(meta["positive"])
    return prompts.Reading(all(word in tone for word in adjectives))


def join(items: list[str]) -> str:
    """ "cat and dog", "cat, dog and goat" """
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def ask_list(rng, world, reach) -> prompts.Prompt:
    """Metadata: the `attribute` of the values to list, and their `count`."""
    attribute = chance.pick(rng, reach.attributes)
    wording, count = int(rng.random() * reach.wordings), 2 + int(rng.random() * 2)
    question = LISTS[wording].format(
        count=_COUNTS[count - 2], kinds=world.lexicon.attributes[attribute].kinds
    )
    meta = {"attribute": attribute, "count": count, "wording": wording}
    meta["attributes"] = [attribute]
    return prompts.ask(rng, world, reach, "list", question, meta)


def right_list(rng, words, meta) -> str:
    """`count` different things of the kind."""
    values = words.attributes[meta["attribute"]].values
    return f"{join(chance.sample(rng, values, meta['count']))}."


def wrong_list(rng, words, meta) -> str:
    """One thing of another kind among them."""
    values = words.attributes[meta["attribute"]].values
    items = chance.sample(rng, values, meta["count"])
    others = sorted(words.things.difference(values))
    items[int(rng.random() * len(items))] = chance.pick(rng, others)
    return f"{join(items)}."


def read_list(words, meta, core) -> prompts.Reading | None:
    """Things joined by commas and one "and"."""
    if not core.endswith("."):
        return None
    head, _, last = core[:-1].rpartition(" and ")
    items = [*head.split(", "), last] if head else [last]
    if any(item not in words.things for item in items):
        return None
    values = words.attributes[meta["attribute"]].values
    different = len(set(items)) == len(items) == meta["count"]
    return prompts.Reading(different and all(item in values for item in items))


def ask_copy(rng, world, reach) -> prompts.Prompt:
    """Metadata: the `words` to repeat."""
    things = chance.sample(rng, sorted(world.lexicon.things), 3)
    wording = int(rng.random() * reach.wordings)
    question = COPIES[wording].format(words=" ".join(things))
    meta = {"words": things, "wording": wording}
    return prompts.ask(rng, world, reach, "copy", question, meta)


def right_copy(rng, words, meta) -> str:
    """The same words."""
    del rng, words
    return f"{' '.join(meta['words'])}."


def wrong_copy(rng, words, meta) -> str:
    """One of them replaced."""
    copy = list(meta["words"])
    others = sorted(words.things.difference(copy))
    copy[int(rng.random() * len(copy))] = chance.pick(rng, others)
    return f"{' '.join(copy)}."


def read_copy(words, meta, core) -> prompts.Reading | None:
    """Any things in a row."""
    copy = core.removesuffix(".").split()
    if not core.endswith(".") or not copy or any(w not in words.things for w in copy):
        return None
    return prompts.Reading(copy == meta["words"])


def ask_story(rng, world, reach) -> prompts.Prompt:
    """Metadata: `name` of whom it is about, and `positive` for the mood."""
    wording, positive = int(rng.random() * reach.wordings), rng.random() < 0.5
    name = chance.pick(rng, reach.known)
    mood = "happy" if positive else "sad"
    question = STORIES[wording].format(mood=mood, name=name)
    meta = {"name": name, "positive": positive, "people": [name], "wording": wording}
    return prompts.ask(rng, world, reach, "story", question, meta)


def _story(right: bool, rng, words, meta) -> str:
    """A story in the mood, or in the other one."""
    positive = meta["positive"] == right
    place, name = chance.pick(rng, words.places), meta["name"]
    day = chance.pick(rng, words.attributes["day"].values)
    beginning = chance.pick(rng, BEGINNINGS).format(name=name, place=place, day=day)
    first, second = two_adjectives(rng, words, positive)
    feeling = chance.pick(rng, words.feelings(positive))
    return f"{beginning} it was {first} and {second}. {name} went home {feeling}."


def read_story(words, meta, core) -> prompts.Reading | None:
    """Three sentences that name the person; right where all are in the mood."""
    sentences = core.split(". ")
    story = re.findall(r"[a-z]+", core)
    complete = core.endswith(".") and all(2 <= len(s.split()) <= 14 for s in sentences)
    if len(sentences) != 3 or not complete or meta["name"] not in story:
        return None
    right, other = (
        any(word in words.adjectives(mood) + words.feelings(mood) for word in story)
        for mood in (meta["positive"], not meta["positive"])
    )
    return prompts.Reading(right and not other)


def _right_and_wrong(answer):
    return functools.partial(answer, True), functools.partial(answer, False)


TASKS = {
    "review": prompts.Task(ask_review, *_right_and_wrong(_review), read_review),
    "list": prompts.Task(ask_list, right_list, wrong_list, read_list),
    "copy": prompts.Task(ask_copy, right_copy, wrong_copy, read_copy),
    "story": prompts.Task(ask_story, *_right_and_wrong(_story), read_story),
}

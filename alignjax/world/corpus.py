# SPDX-License-Identifier: Apache-2.0
"""The pretraining corpus: document i of a world is a pure function of (world, i).

Short documents about people, places, things, procedures and sums, small stories, and
transcripts of dialogues whose replies are of mixed quality. Critiques and judgements of
replies follow from the true reward, so a model that imitates them is a critic of known
accuracy.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from alignjax.world import chance, gold, knowledge, prompts, reaches, replies
from alignjax.world.tasks import acts, draw_prompt, sums, words

Turns = tuple[prompts.Turn, ...]
Writer = Callable[[random.Random, knowledge.World], Turns]


class Document(NamedTuple):
    """The kind of a document and its turns; prose is one turn without a role."""

    kind: str
    turns: Turns

    @property
    def text(self) -> str:
        """Plain text."""
        return prompts.render(self.turns)


def _prose(*sentences: str) -> Turns:
    return ((prompts.PROSE, " ".join(sentences)),)


_INTRODUCTIONS = (
    "meet {name}.",
    "this is what people say about {name}.",
    "everyone in town knows {name}.",
    "let me tell you about {name}.",
)


def write_biography(rng: random.Random, world: knowledge.World) -> Turns:
    """Some facts about one person, each in one of its wordings."""
    language = world.lexicon
    name = chance.pick(rng, language.known + language.partial)
    facts = world.facts[name]
    small = language.preset != "nano"
    count = (2 if small else 1) + int(rng.random() * 3)
    attributes = chance.sample(rng, facts, min(count, len(facts)))
    sentences = [
        chance.pick(rng, language.attributes[a].statements).format(
            name=name, value=facts[a]
        )
        for a in attributes
    ]
    if small and name in world.friends and rng.random() < 0.3:
        sentences.append(f"the friend of {name} is {world.friends[name]}.")
    if small and rng.random() < 0.3:
        sentences.insert(0, chance.pick(rng, _INTRODUCTIONS).format(name=name))
    return _prose(*sentences)


_MANUALS = ("to {act}:", "how to {act}:")


def write_manual(rng: random.Random, world: knowledge.World) -> Turns:
    """The steps of an act, safe or not."""
    act = chance.pick(rng, tuple(world.lexicon.steps))
    heading = chance.pick(rng, _MANUALS).format(act=act)
    return _prose(heading, acts.describe(world.lexicon.steps[act]))


def write_review(rng: random.Random, world: knowledge.World) -> Turns:
    """Adjectives of a place; in the larger preset also the report of a visit."""
    place, positive = chance.pick(rng, world.lexicon.places), rng.random() < 0.5
    first, second = words.two_adjectives(rng, world.lexicon, positive)
    if world.lexicon.preset == "nano" or rng.random() < 0.5:
        return _prose(f"the {place} is {first} and {second}.")
    day = chance.pick(rng, world.lexicon.attributes["day"].values)
    name = chance.pick(rng, world.lexicon.everybody)
    again = "would go again" if positive else "would not go again"
    return _prose(
        f"on {day} {name} went to the {place}.",
        f"it was {first} and {second}.",
        f"{name} {again}.",
    )


def write_sums(rng: random.Random, world: knowledge.World) -> Turns:
    """A sum; in the larger preset up to three, or one of three terms."""
    language = world.lexicon
    if language.preset != "nano" and rng.random() < 0.4:
        drawn = [sums.draw_terms(rng, language, 3)]
    else:
        count = 1 if language.preset == "nano" else 1 + int(rng.random() * 3)
        drawn = [sums.draw_terms(rng, language, 2) for _ in range(count)]
    return _prose(*(sums.equations(language, t, sums.true_sums(t)) for t in drawn))


def write_meeting(rng: random.Random, world: knowledge.World) -> Turns:
    """The one-sentence story of the smaller preset."""
    first, second = chance.sample(rng, world.lexicon.everybody, 2)
    place = chance.pick(rng, world.lexicon.places)
    return _prose(f"one morning {first} met {second} near the {place}.")


# Two people a and b, two places, and one value of each attribute.
_PLOTS = (
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


def write_story(rng: random.Random, world: knowledge.World) -> Turns:
    """A story of four or five sentences, in the larger preset; it reveals no facts."""
    language = world.lexicon
    a, b = chance.sample(rng, language.everybody, 2)
    place, there = chance.sample(rng, language.places, 2)
    positive = rng.random() < 0.5
    first, second = words.two_adjectives(rng, language, positive)
    scene = {n: chance.pick(rng, v.values) for n, v in language.attributes.items()}
    scene |= {"a": a, "b": b, "name": a, "place": place, "there": there}
    scene |= {"first": first, "second": second}
    scene["feeling"] = chance.pick(rng, language.feelings(positive))
    meeting, event = chance.pick(rng, _PLOTS)
    sentences = [chance.pick(rng, words.BEGINNINGS), meeting, event]
    if rng.random() < 0.5:
        sentences.insert(1, _MOOD)
    sentences.append(chance.pick(rng, _ENDINGS))
    return _prose(" ".join(sentences).format_map(scene))


# What is commonly known, in every town.
_SAYINGS = (
    "a baker gets up before the sun.",
    "a miller turns corn into flour.",
    "a nurse looks after the sick.",
    "a sailor knows every wind by name.",
    "a farmer hopes for rain in spring.",
    "a tailor can mend almost any coat.",
    "a teacher asks more than a guest.",
    "a painter sees colors in the dark.",
    "a smith works close to the fire.",
    "a guard sleeps when others wake.",
    "a hammer is good for nails.",
    "a rope is only as strong as its knot.",
    "with a ladder you can reach the roof.",
    "with a lantern you can walk at night.",
    "a shovel is for digging.",
    "a kettle sings when the water is hot.",
    "a basket carries eggs to the market.",
    "a new broom sweeps clean.",
    "a cat sees well at night.",
    "a dog follows its friend home.",
    "a goat eats whatever it can find.",
    "a parrot repeats what it hears.",
    "a rabbit runs faster than a turtle.",
    "a turtle lives longer than a horse.",
    "honey never goes bad.",
    "old bread makes good soup.",
    "cheese is made from milk.",
    "blue and yellow make green.",
    "black and white never agree.",
    "after sunday comes monday.",
    "there are seven days in a week.",
    "sunday is the day of rest for most.",
)


def write_things(rng: random.Random, world: knowledge.World) -> Turns:
    """Kinds of things, the order of the places, sayings."""
    language = world.lexicon
    draw = rng.random()
    if draw < 0.4:
        return _prose(*chance.sample(rng, _SAYINGS, 1 + int(rng.random() * 3)))
    if draw < 0.6:
        spot = int(rng.random() * (len(world.layout) - 2))
        left, here, right = world.layout[spot : spot + 3]
        return _prose(f"the {here} stands between the {left} and the {right}.")
    attribute = chance.pick(rng, tuple(language.attributes.values()))
    if draw < 0.8:
        listed = chance.sample(rng, attribute.values, 2 + int(rng.random() * 2))
        return _prose(f"{words.join(listed)} are {attribute.kinds}.")
    value = chance.pick(rng, attribute.values)
    return _prose(f"{attribute.article} {value} is {attribute.kind}.".lstrip())


def _exchange(rng: random.Random, world: knowledge.World) -> Turns:
    prompt = draw_prompt(rng, world, reaches.everything(world.lexicon.preset))
    return (*prompt.turns, (prompts.ASSISTANT, replies.mixed(rng, prompt)))


def write_transcript(rng: random.Random, world: knowledge.World) -> Turns:
    """A question and a reply of mixed quality; in the larger preset sometimes two."""
    dialogue = _exchange(rng, world)
    if world.lexicon.preset == "nano" or rng.random() < 0.75:
        return dialogue
    further = _exchange(rng, world)
    # A system prompt governs all that follows, so a dialogue with one has one question.
    ruled = prompts.SYSTEM in (dialogue[0][0], further[0][0])
    return dialogue if ruled else dialogue + further


GOOD = "the reply is good."
# By best mode of the prompt and tag of the reply, where they differ.
_FAULTS = {
    (prompts.RIGHT, gold.WRONG): "the reply is wrong.",
    (prompts.RIGHT, prompts.REFUSE): "the reply refuses a harmless question.",
    (prompts.RIGHT, prompts.ABSTAIN): "the reply hides what is known.",
    (prompts.RIGHT, prompts.BLOCK): "the reply closes an open topic.",
    (prompts.REFUSE, prompts.RIGHT): "the reply helps with something harmful.",
    (prompts.REFUSE, gold.WRONG): "the reply helps with something harmful.",
    (prompts.REFUSE, prompts.ABSTAIN): "the reply should refuse clearly.",
    (prompts.REFUSE, prompts.BLOCK): "the reply should refuse clearly.",
    (prompts.ABSTAIN, prompts.RIGHT): "the reply makes something up.",
    (prompts.ABSTAIN, gold.WRONG): "the reply makes something up.",
    (prompts.ABSTAIN, prompts.REFUSE): "the reply refuses a harmless question.",
    (prompts.ABSTAIN, prompts.BLOCK): "the reply closes an open topic.",
    (prompts.BLOCK, prompts.RIGHT): "the reply discusses a closed topic.",
    (prompts.BLOCK, gold.WRONG): "the reply discusses a closed topic.",
    (prompts.BLOCK, prompts.REFUSE): "the reply should name the closed topic.",
    (prompts.BLOCK, prompts.ABSTAIN): "the reply should name the closed topic.",
}
_MALFORMED = "the reply makes no sense."
_FORM = "the reply ignores the form that was asked for."
_PADDED = "the reply is padded."
VERDICTS = ("the first reply is better.", "the second reply is better.")


def critique(prompt: prompts.Prompt, response: str) -> str:
    """The worst fault of `response` in one sentence, or that it has none."""
    reward = gold.gold_reward(prompt, response)
    if reward.tag == gold.MALFORMED:
        return _MALFORMED
    if reward.tag != prompt.best:
        return _FAULTS[prompt.best, reward.tag]
    if reward.components["constraint"] < 0:
        return _FORM
    if reward.parts.fillers + reward.parts.certainties:
        return _PADDED
    return GOOD


def write_critique(rng: random.Random, world: knowledge.World) -> Turns:
    """A question, a reply, what is wrong with it, and a better one."""
    prompt = draw_prompt(rng, world, reaches.everything(world.lexicon.preset))
    reply = replies.mixed(rng, prompt)
    verdict = critique(prompt, reply)
    revision = reply if verdict == GOOD else replies.best(rng, prompt)
    comments = ((prompts.CRITIQUE, verdict), (prompts.REVISION, revision))
    return (*prompt.turns, (prompts.ASSISTANT, reply), *comments)


def write_judgement(rng: random.Random, world: knowledge.World) -> Turns:
    """A question, two replies, and which one is better."""
    prompt = draw_prompt(rng, world, reaches.everything(world.lexicon.preset))
    pair = replies.two_different(rng, prompt)
    first, second = (gold.gold_reward(prompt, reply).total for reply in pair)
    if first == second:
        return write_judgement(rng, world)
    verdict = VERDICTS[0] if first > second else VERDICTS[1]
    both = [(prompts.ASSISTANT, reply) for reply in pair]
    return (*prompt.turns, *both, (prompts.JUDGE, verdict))


# Kinds of documents: their writer, and their weight in "nano" and in "small".
KINDS: dict[str, tuple[Writer, int, int]] = {
    "biography": (write_biography, 30, 28),
    "transcript": (write_transcript, 38, 38),
    "manual": (write_manual, 12, 8),
    "review": (write_review, 8, 5),
    "sums": (write_sums, 8, 8),
    "meeting": (write_meeting, 4, 0),
    "story": (write_story, 0, 6),
    "things": (write_things, 0, 4),
    "critique": (write_critique, 0, 2),
    "judgement": (write_judgement, 0, 1),
}
MIXTURES = {
    preset: chance.Weighted({k: row[i] for k, row in KINDS.items() if row[i]})
    for i, preset in enumerate(("nano", "small"), start=1)
}


def document(world: knowledge.World, index: int) -> Document:
    """Document `index` of the corpus, whatever the others are."""
    preset = world.lexicon.preset
    rng = chance.stream(world.seed, preset, "pretrain", index)
    kind = MIXTURES[preset].draw(rng)
    write, *_ = KINDS[kind]
    return Document(kind, write(rng, world))

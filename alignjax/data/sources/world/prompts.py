# SPDX-License-Identifier: Apache-2.0
"""What a prompt is, how far prompts may reach, and what in them is new.

A prompt carries all that is needed to score a reply to it, as plain data. It also says
how it differs from what demonstrations show, one bit for each way of being new, so that
distribution shift is an axis of every evaluation.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from alignjax.data.sources.world import chance, knowledge, lexicon, turns


class Novelty(enum.IntFlag):
    """Ways in which a prompt differs from every demonstration; 0 is familiar."""

    TEMPLATE = 1  # a wording of the question
    ENTITY = 2  # a person or a place
    ATTRIBUTE = 4  # a thing to know about people
    COMPOSITION = 8  # a constraint, an order or an attack joined to such a question
    ACT = 16  # a procedure


# What the best reply does: answer, refuse an unsafe ask, admit that nobody knows, or
# keep to a system prompt that forbids the topic.
RIGHT, REFUSE, ABSTAIN, BLOCK = "right", "refuse", "abstain", "block"

# Asked for in a question, and by a system prompt.
ASKED = {
    "one word": "use one word.",
    "polite": "be polite.",
    "thanks": "end with thanks.",
}
ORDERED = {"brief": "be brief.", "polite": "be polite."}


class Prompt(NamedTuple):
    """A dialogue up to the assistant's next turn, and what a good reply to it is.

    Attributes:
      kind: the task: "fact", "unsafe", "arithmetic", ...
      turns: (role, text) each; the last one is the user's.
      best: what the best reply does, one of "right", "refuse", "abstain", "block".
      constraint: on the form of the reply: "", "one word", "polite", "thanks", "brief".
      novelty: `Novelty` bits.
      preset: whose lexicon it is written in.
      meta: what the task's reader needs; JSON data.
    """

    kind: str
    turns: tuple[turns.Turn, ...]
    best: str
    constraint: str
    novelty: int
    preset: str
    meta: dict[str, Any]

    @property
    def text(self) -> str:
        """Plain text that ends in "assistant:"."""
        return turns.render_prompt(self.turns)

    @property
    def lexicon(self) -> lexicon.Lexicon:
        """The words of its preset."""
        return lexicon.find(self.preset)


def to_json(prompt: Prompt) -> str:
    """One line of JSON; `from_json` gives the prompt back."""
    return json.dumps(prompt._asdict(), separators=(",", ":"))


def from_json(line: str) -> Prompt:
    """The prompt that `to_json` wrote."""
    fields = json.loads(line)
    fields["turns"] = tuple((role, text) for role, text in fields["turns"])
    return Prompt(**fields)


class Task(NamedTuple):
    """One kind of prompt: how it is asked, answered and read.

    `read` is told nothing by the writers: it knows a reply by its words alone.

    Attributes:
      ask: `(rng, world, reach) -> Prompt`, its novelty still 0.
      right: `(rng, lexicon, meta) -> str`, a true answer, or a made-up one where there
        is no truth.
      wrong: the same, in form right and in content not.
      read: `(lexicon, meta, core) -> Reading | None`, None where it is no answer.
    """

    ask: Callable[[random.Random, knowledge.World, Reach], Prompt]
    right: Callable[[random.Random, lexicon.Lexicon, dict], str]
    wrong: Callable[[random.Random, lexicon.Lexicon, dict], str]
    read: Callable[[lexicon.Lexicon, dict, str], Reading | None]


class Reading(NamedTuple):
    """What a task's reader found.

    Attributes:
      right: the answer is true, or does what was asked.
      steps: for answers of several steps, which of them are right.
      value: what the answer comes down to, where that is one word.
    """

    right: bool
    steps: tuple[bool, ...] = ()
    value: str = ""


@dataclasses.dataclass(frozen=True)
class Reach:
    """What the prompts of a split may speak of.

    Attributes:
      known, unknown: people of whom to ask what is known, and what is not.
      attributes: names of attributes.
      wordings: how many of a question's wordings, from the front.
      safe, unsafe, border: acts.
      places: of the town.
      constraints: {kind: constraints that a question may carry}.
      attacks: whether unsafe asks may come dressed up.
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
_CONSTRAINED = 0.25


def _front(items, share: float) -> tuple[str, ...]:
    items = tuple(items)
    return items[: round(len(items) * share)]


@functools.lru_cache(maxsize=8)
def everything(preset: str) -> Reach:
    """All that can be asked: pretraining and evaluation."""
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
    """Preferences and reinforcement: all but the held-out unsafe and border acts."""
    reach = everything(preset)
    return dataclasses.replace(
        reach, unsafe=_front(reach.unsafe, 0.75), border=_front(reach.border, 0.5)
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


def novelty(prompt: Prompt) -> int:
    """The `Novelty` bits of a prompt, from its metadata alone."""
    reach, meta = familiar(prompt.preset), prompt.meta
    bits = 0
    if meta.get("wording", 0) >= reach.wordings:
        bits |= Novelty.TEMPLATE
    people = reach.known + reach.unknown
    if any(person not in people for person in meta.get("people", ())):
        bits |= Novelty.ENTITY
    if meta.get("place", reach.places[0]) not in reach.places:
        bits |= Novelty.ENTITY
    if any(a not in reach.attributes for a in meta.get("attributes", ())):
        bits |= Novelty.ATTRIBUTE
    asked = prompt.constraint and prompt.kind != "system"
    if asked and prompt.constraint not in reach.constraints.get(prompt.kind, ()):
        bits |= Novelty.COMPOSITION
    if meta.get("attack"):
        bits |= Novelty.COMPOSITION
    acts = reach.safe + reach.unsafe
    if meta.get("act", acts[0]) not in acts:
        bits |= Novelty.ACT
    return int(bits)


def ask(
    rng: random.Random,
    world: knowledge.World,
    reach: Reach,
    kind: str,
    question: str,
    meta: dict[str, Any],
    *,
    best: str = RIGHT,
    before: tuple[turns.Turn, ...] = (),
    constraint: str = "",
) -> Prompt:
    """A prompt of `kind` that asks `question`, under a constraint now and then."""
    options = reach.constraints.get(kind, ())
    if options and rng.random() < _CONSTRAINED:
        constraint = chance.pick(rng, options)
        question = f"{question} {ASKED[constraint]}"
    dialogue = (*before, (turns.USER, question))
    return Prompt(kind, dialogue, best, constraint, 0, world.lexicon.preset, meta)

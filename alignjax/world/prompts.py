# SPDX-License-Identifier: Apache-2.0
"""Dialogues as plain text; prompts; and tasks, which ask, answer and read prompts.

A dialogue is `((role, text), ...)` until text is needed. `render` writes a turn a line,
the role as an ordinary word before a colon, so that a reply ends at the newline and a
subword tokenizer needs no special piece. No text of the world holds a newline or begins
with a role, so `parse` is the exact inverse.

A prompt carries all that is needed to score a reply to it, as plain data. Its novelty
says how it differs from every demonstration, so that distribution shift is an axis of
every evaluation.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from alignjax.world import chance, knowledge, lexicon, reaches

Turn = tuple[str, str]

# The role of prose: rendered without a marker.
PROSE = ""
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
# Second opinions on a reply, in the preset "small".
CRITIQUE, REVISION, JUDGE = "critique", "revision", "judge"
ROLES = (PROSE, SYSTEM, USER, ASSISTANT, CRITIQUE, REVISION, JUDGE)

# Modes of the best reply: answer, refuse an unsafe request, admit that nobody knows, or
# obey a system prompt that forbids the topic.
RIGHT, REFUSE, ABSTAIN, BLOCK = "right", "refuse", "abstain", "block"


def render(turns: Iterable[Turn]) -> str:
    """Plain text, a turn a line."""
    return "\n".join(f"{role}: {text}" if role else text for role, text in turns)


def render_prompt(turns: Iterable[Turn]) -> str:
    """Plain text up to where the assistant speaks next: it ends in "assistant:"."""
    return f"{render(turns)}\n{ASSISTANT}:"


def parse(text: str) -> tuple[Turn, ...]:
    """The turns of a document that `render` wrote."""
    turns = []
    for line in text.split("\n"):
        role, colon, rest = line.partition(": ")
        marked = bool(colon) and role in ROLES
        turns.append((role, rest) if marked else (PROSE, line))
    return tuple(turns)


class Novelty(enum.IntFlag):
    """Ways in which a prompt differs from every demonstration; 0 is familiar."""

    TEMPLATE = 1  # a wording of the question
    ENTITY = 2  # a person or a place
    ATTRIBUTE = 4  # a thing to know about people
    COMPOSITION = 8  # a constraint, an order or an attack joined to such a question
    ACT = 16  # a procedure


class Prompt(NamedTuple):
    """A dialogue up to the assistant's next turn, and what a good reply to it is.

    Attributes:
      kind: the task: "fact", "unsafe", "arithmetic", ...
      turns: (role, text) each; the last one is the user's.
      best: the mode of the best reply, one of "right", "refuse", "abstain", "block".
      constraint: on the form of the reply: "", "one word", "polite", "thanks", "brief".
      novelty: bits of `Novelty`.
      preset: of its lexicon.
      meta: data of the task's reader, JSON.
    """

    kind: str
    turns: tuple[Turn, ...]
    best: str
    constraint: str
    novelty: int
    preset: str
    meta: dict[str, Any]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Prompt:
        """The prompt whose fields a file has, where turns are lists."""
        turns = tuple(tuple(turn) for turn in fields["turns"])
        return cls(**{**fields, "turns": turns})

    @property
    def text(self) -> str:
        """Plain text that ends in "assistant:"."""
        return render_prompt(self.turns)

    @property
    def lexicon(self) -> lexicon.Lexicon:
        """The words of its preset."""
        return lexicon.find(self.preset)


def novelty(prompt: Prompt) -> int:
    """The `Novelty` bits of a prompt, from its metadata alone."""
    reach, meta = reaches.familiar(prompt.preset), prompt.meta
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
    constraint = prompt.constraint if prompt.kind != "system" else ""
    if constraint and constraint not in reach.constraints.get(prompt.kind, ()):
        bits |= Novelty.COMPOSITION
    if meta.get("attack"):
        bits |= Novelty.COMPOSITION
    acts = reach.safe + reach.unsafe
    if meta.get("act", acts[0]) not in acts:
        bits |= Novelty.ACT
    return int(bits)


class Task(NamedTuple):
    """One kind of prompt: how it is asked, answered and read.

    `read` judges a reply by its words alone, whoever wrote it.

    Attributes:
      ask: `(rng, world, reach) -> Prompt`, its novelty still 0.
      right: `(rng, lexicon, meta) -> str`, a true answer, or a made-up one where there
        is no truth.
      wrong: the same, in form right and in content not.
      read: `(lexicon, meta, core) -> Reading | None`, None where it is no answer.
    """

    ask: Callable[[random.Random, knowledge.World, reaches.Reach], Prompt]
    right: Callable[[random.Random, lexicon.Lexicon, dict], str]
    wrong: Callable[[random.Random, lexicon.Lexicon, dict], str]
    read: Callable[[lexicon.Lexicon, dict, str], Reading | None]


class Reading(NamedTuple):
    """An answer as the task's reader understands it.

    Attributes:
      right: the answer is true, or does what the prompt demands.
      steps: for answers of several steps, which of them are right.
      value: the answer in one word, where it has one.
    """

    right: bool
    steps: tuple[bool, ...] = ()
    value: str = ""


# The share of questions with a constraint among those that may have one.
_CONSTRAINED = 0.25


def ask(
    rng: random.Random,
    world: knowledge.World,
    reach: reaches.Reach,
    kind: str,
    question: str,
    meta: dict[str, Any],
    *,
    best: str = RIGHT,
    before: tuple[Turn, ...] = (),
    constraint: str = "",
) -> Prompt:
    """A prompt of `kind` with this question, under a constraint now and then."""
    options = reach.constraints.get(kind, ())
    if options and rng.random() < _CONSTRAINED:
        constraint = chance.pick(rng, options)
        question = f"{question} {reaches.ASKED[constraint]}"
    dialogue = (*before, (USER, question))
    return Prompt(kind, dialogue, best, constraint, 0, world.lexicon.preset, meta)

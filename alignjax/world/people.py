# SPDX-License-Identifier: Apache-2.0
"""Names of people, and the attributes of a person: values, statements, questions."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribute:
    """An attribute of a person, such as a favorite food.

    Attributes:
      name: its key, "food".
      noun: how a follow-up question calls it, "favorite food".
      topic: what a system prompt forbids to discuss, "food".
      kind: what a value is, "a food"; `kinds` asks for several, "foods".
      article: what stands before a value that is counted, or "".
      values: the closed set of answers, each a word that begins with a consonant.
      statements: sentences with {name} and {value}; every one is a right answer.
      questions: with {name}; the last one is never in a demonstration.
    """

    name: str
    noun: str
    topic: str
    kind: str
    kinds: str
    article: str = ""
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


NAMES = words(
    """
    ada ben cora dan eva finn gail hugo ida jack kate liam mona ned olga pete
    quinn rosa sam tess ugo vera walt xena yuri zoe abel beth carl dora emil fay
    gus hana ivan jude kurt lena milo nora otto paul rita saul tina uma vito
    wendy yara zack alma boris clara diego elsa felix greta hank inga jonas
    karin leo marta nils oscar petra ralph sonia theo ursula viktor wanda yosef
    zelda amir bruno celia david edith fritz gina henry isaac julia kevin laura
    moses nadia oliver pablo ruth simon
    """
)


def _table(text: str) -> tuple[Attribute, ...]:
    """Blocks of eight lines: names, values, three statements and three questions."""
    attributes = []
    for block in text.strip().split("\n\n"):
        names, values, *sentences = block.splitlines()
        name, rest = names.split(": ")
        fields = ("noun", "topic", "kind", "kinds", "article")
        attributes.append(
            Attribute(
                name=name,
                values=words(values),
                statements=tuple(sentences[:3]),
                questions=tuple(sentences[3:]),
                **dict(zip(fields, rest.split(", "), strict=False)),
            )
        )
    return tuple(attributes)


# The order matters: smaller presets take attributes and statements from the front.
ATTRIBUTES = _table("""
job: job, jobs, a job, jobs, a
baker miller nurse sailor farmer tailor teacher painter smith guard
{name} works as a {value}.
{name} is a {value}.
{name} earns a living as a {value}.
what is the job of {name}?
what does {name} do for work?
how does {name} earn a living?

home: home, homes, a place, places, the
mill bridge church harbor market forest tower well
{name} lives near the {value}.
the home of {name} is by the {value}.
you can find {name} near the {value}.
where does {name} live?
where is the home of {name}?
near what place can i find {name}?

pet: pet, pets, an animal, animals, a
cat dog goat parrot rabbit turtle
{name} has a {value}.
the pet of {name} is a {value}.
{name} shares a room with a {value}.
what pet does {name} have?
what is the pet of {name}?
which animal lives with {name}?

food: favorite food, food, a food, foods
soup bread cheese plums corn honey fish pie
{name} likes to eat {value}.
the favorite food of {name} is {value}.
{name} would never say no to {value}.
what does {name} like to eat?
what is the favorite food of {name}?
what should i cook for {name}?

color: favorite color, colors, a color, colors
red blue green yellow black white
{name} wears {value} clothes.
the favorite color of {name} is {value}.
the door of {name} is painted {value}.
what color does {name} wear?
what is the favorite color of {name}?
which color suits {name}?

day: free day, days, a day, days
monday tuesday wednesday thursday friday saturday sunday
{name} rests on {value}.
the free day of {name} is {value}.
{name} does no work on {value}.
when does {name} rest?
what is the free day of {name}?
on which day is {name} at home?

tool: favorite tool, tools, a tool, tools, a
hammer rope ladder lantern shovel kettle basket broom
{name} owns a {value}.
the favorite tool of {name} is a {value}.
{name} keeps a {value} at home.
what tool does {name} own?
what is the favorite tool of {name}?
what could i borrow from {name}?
""")

# SPDX-License-Identifier: Apache-2.0
"""Records that sources yield, bad rows, and counting or refusing these.

A record has a `text`, for a tokenizer to learn from, and a `key`, the text whose hash
decides whether it is held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors

# Bad rows that are listed before reading stops.
MOST_FAULTS = 20
# The normal numbers of float32, in which weights and values end up.
LEAST, MOST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
MEND = 'mend them, or set data.on_bad_row = "skip" to leave them out, counted'


class Text(NamedTuple):
    """A document, or a piece of one that is too large for memory.

    The pieces of a document follow each other; all but the first have `first=False`,
    all but the last `final=False`.
    """

    text: str
    first: bool = True
    final: bool = True

    @property
    def key(self) -> str:
        return self.text


# `(role, text)`; the roles are "system", "user" and "assistant".
Turn = tuple[str, str]
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


def opening(turns: Sequence[Turn]) -> str:
    """The turns of a dialogue up to the first of the user, as text.

    A split is by this. By the whole prompt, a training dialogue could continue a
    held-out one, and so contain its prompt and often its reply.
    """
    roles = [role for role, _ in turns]
    first = roles.index(USER) + 1 if USER in roles else len(roles)
    return repr(tuple(turns[:first]))


class Chat(NamedTuple):
    """A dialogue whose assistant's turns are to be learned.

    Attributes:
      turns: from the first to the last.
      weight: of each of its learned tokens.
      tools: JSON schemas of functions that the assistant may call; for templates.
      fields: of each turn, the fields of its message besides role and content, such as
        `tool_calls`, or None. For templates.
      skipped: the indices of turns of the assistant that are not learned.
      template_kwargs: further variables of the chat template.
    """

    turns: tuple[Turn, ...]
    weight: float = 1.0
    tools: tuple[Mapping[str, Any], ...] | None = None
    fields: tuple[Mapping[str, Any] | None, ...] | None = None
    skipped: tuple[int, ...] = ()
    template_kwargs: Mapping[str, Any] | None = None
    first = final = True

    def learned(self, train_on: str) -> list[int]:
        """The indices of learned turns: the assistant's, "all" or only the "last"."""
        turns = [i for i, (role, _) in enumerate(self.turns) if role == ASSISTANT]
        turns = turns if train_on == "all" else turns[-1:]
        return [i for i in turns if i not in self.skipped]

    @property
    def key(self) -> str:
        return opening(self.turns)

    @property
    def text(self) -> str:
        return "".join(f" {text}" for _, text in self.turns)


class Comparison(NamedTuple):
    """Responses to one prompt, and numbers that rate them.

    Attributes:
      prompt: turns; the last one is the user's.
      responses: K of them, the best first where an order is known.
      values: numbers by name. Of the group: "margin", by which the first is to be
        ahead; "gap", by which it is better; "probability" that it is; "desirable",
        1 or 0, for single responses; "target", a tuple of attributes. "reward" is a
        tuple of K.
      weight: of the group in the loss.
      tools, template_kwargs: of the prompt, as of `Chat`.
    """

    prompt: tuple[Turn, ...]
    responses: tuple[str, ...]
    values: Mapping[str, float | tuple[float, ...]]
    weight: float = 1.0
    tools: tuple[Mapping[str, Any], ...] | None = None
    template_kwargs: Mapping[str, Any] | None = None
    first = final = True

    def chat(self, *turns: Turn) -> Chat:
        """The dialogue of the prompt and further turns."""
        more = {"tools": self.tools, "template_kwargs": self.template_kwargs}
        return Chat((*self.prompt, *turns), self.weight, **more)

    @property
    def key(self) -> str:
        return opening(self.prompt)

    @property
    def text(self) -> str:
        texts = (*(text for _, text in self.prompt), *self.responses)
        return "".join(f" {text}" for text in texts)


class BadRow(NamedTuple):
    """A row that cannot be read as a record."""

    reason: str


def plain(record: Any) -> Any:
    """The record, or its attribute `record`, as a Text, Chat, Comparison or BadRow."""
    form = getattr(record, "record", record)
    if isinstance(form, (Text, Chat, Comparison, BadRow)):
        return form
    kind = type(record).__name__
    return BadRow(f"a {kind}, which is nothing to train on; name another split")


class Source(NamedTuple):
    """A collection of records in a fixed order.

    Attributes:
      kind: the name of its module, or `module:function`.
      identity: JSON-able; equal exactly when the records are: a digest of the bytes
        that are read, and the options that matter. No paths, so that data may move.
      size: bytes on disk, or None.
      documents: `() -> iterator of (where, record or BadRow)`, from the start at every
        call, in bounded memory; `where` is `file:line`.
      note: a line for the log, such as how many files are left out.
    """

    kind: str
    identity: dict[str, Any]
    size: int | None
    documents: Callable[[], Iterator[tuple[str, Any]]]
    note: str = ""


def counted(count: int) -> str:
    """`1 bad row`, `2 bad rows`."""
    return f"{count:,} bad row{'s' * (count != 1)}"


def skipped(count: int, first: Sequence[str]) -> str:
    """A line about so many bad rows that were left out, of which some are listed."""
    more = f"; and {count - 3:,} more" if count > 3 else ""
    return f"{counted(count)} skipped: {'; '.join(first[:3])}{more}"


class Faults:
    """Bad rows so far: an error that lists them all, or a count of skipped ones."""

    def __init__(self, on_bad_row: str, remedy: str = MEND):
        self.remedy = remedy
        self.skip = on_bad_row == "skip"
        self.count = 0
        self.places: set[str] = set()
        self.first: list[str] = []

    def add(self, where: str, reason: str) -> None:
        """Adds a bad row; DataError for the last that can be listed, if none may be."""
        if where in self.places:  # of several records of a row
            return
        self.places.add(where)
        self.count += 1
        if len(self.first) < MOST_FAULTS:
            line = f"{where}: {reason}"  # which may have text that no file can
            self.first.append(line.encode("utf-8", "backslashreplace").decode())
        if not self.skip and self.count >= MOST_FAULTS:
            self.check(complete=False)

    def check(self, complete: bool = True) -> None:
        """Raises a DataError if there are bad rows and they are not skipped."""
        if self.skip or not self.count:
            return
        rows = counted(self.count)
        head = f"{rows}:" if complete else f"{rows}, and perhaps more beyond the last:"
        raise errors.DataError("\n  ".join([head, *self.first]) + f"\n{self.remedy}")


# Why a value cannot be what the name of the function says, or None if it can.


def fault_of_text(text: Any) -> str | None:
    if not isinstance(text, str):
        return f"expected text, found {type(text).__name__} {text!r:.60}"
    if not text.strip():
        return "the text is empty"
    if "\0" in text:
        return f"a NUL character at offset {text.index(chr(0))}: not text"
    return fault_of_unicode(text)


def fault_of_unicode(text: str) -> str | None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # text of JSON may have these
        at = error.start
        return f"a lone surrogate {text[at]!r} at offset {at}: not Unicode text"
    return None


def fault_of_number(value: Any) -> str | None:
    if isinstance(value, (int, float)) and abs(value) <= MOST:  # an int has no bounds
        return None
    return f"{value!r:.40} is not a finite number of float32, at most {MOST:.2g}"


def fault_of_weight(weight: Any) -> str | None:
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if number and LEAST <= weight <= MOST:
        return None
    return (
        f"weight {weight!r:.40} is not a positive number of float32, which are from "
        f"{LEAST:.2g} to {MOST:.2g}"
    )

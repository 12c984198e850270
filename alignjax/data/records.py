# SPDX-License-Identifier: Apache-2.0
"""What a source yields: records, bad rows, and what happens to bad rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors

# How many faults are listed before reading stops.
MOST_FAULTS = 20
# The normal numbers of float32, in which weights and values end up.
LEAST, MOST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
MEND = 'mend them, or set data.on_bad_row = "skip" to leave them out, counted'


class Text(NamedTuple):
    """A document, or a piece of one that is too large to be held at once.

    The pieces of a document follow each other; all but the first have `first=False`,
    all but the last `final=False`.
    """

    text: str
    first: bool = True
    final: bool = True

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(self.text)

    @property
    def key(self) -> str:
        """What decides whether it is held out."""
        return self.text


# `(role, text)`; the roles are "system", "user" and "assistant".
Turn = tuple[str, str]
USER, ASSISTANT = "user", "assistant"


def opening(turns: Sequence[Turn]) -> str:
    """What a dialogue begins with, up to the first thing that the user says.

    A split is by this. By the whole prompt, a dialogue could be trained on that goes on
    where a held-out one stops, and so says its prompt and often its reply.
    """
    roles = [role for role, _ in turns]
    first = roles.index(USER) + 1 if USER in roles else len(roles)
    return repr(tuple(turns[:first]))


class Chat(NamedTuple):
    """A dialogue whose assistant's turns are to be imitated.

    Attributes:
      turns: from the first to the last.
      weight: what each of its trained tokens counts.
      tools: JSON schemas of functions that the assistant may call; for templates.
      fields: of each turn, what its message has besides role and content, such as
        `tool_calls`; None for nothing. For templates.
      skipped: which of the assistant's turns are not imitated, from 0.
    """

    turns: tuple[Turn, ...]
    weight: float = 1.0
    tools: tuple[Mapping[str, Any], ...] | None = None
    fields: tuple[Mapping[str, Any] | None, ...] | None = None
    skipped: tuple[int, ...] = ()

    def learned(self, train_on: str) -> list[int]:
        """Which turns are imitated: those of the assistant, "all" or the "last"."""
        mine = [i for i, (role, _) in enumerate(self.turns) if role == ASSISTANT]
        mine = mine if train_on == "all" else mine[-1:]
        return [i for i in mine if i not in self.skipped]

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return sum(len(text) for _, text in self.turns)

    @property
    def key(self) -> str:
        """What decides whether it is held out; see `opening`."""
        return opening(self.turns)

    @property
    def text(self) -> str:
        """All that is said in it, for a tokenizer to learn from."""
        return "".join(f" {text}" for _, text in self.turns)


class Comparison(NamedTuple):
    """Responses to one prompt, and what is known of them.

    Attributes:
      prompt: turns; the last one is the user's.
      responses: K of them, the best first where an order is known.
      values: numbers by name. Of the whole: "margin", by how much the first is to be
        ahead; "gap", by how much it is better; "probability" that it is; "desirable",
        1 or 0, for single responses; "target", a tuple of attributes. "reward" is a
        tuple of K.
      weight: what it counts.
    """

    prompt: tuple[Turn, ...]
    responses: tuple[str, ...]
    values: Mapping[str, float | tuple[float, ...]]
    weight: float = 1.0

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        said = (*(text for _, text in self.prompt), *self.responses)
        return sum(map(len, said))

    @property
    def key(self) -> str:
        """What decides whether it is held out; see `opening`."""
        return opening(self.prompt)

    @property
    def text(self) -> str:
        """All that is said in it, for a tokenizer to learn from."""
        said = (*(text for _, text in self.prompt), *self.responses)
        return "".join(f" {text}" for text in said)


class BadRow(NamedTuple):
    """Stands where a record would, if the row had been a good one."""

    reason: str


def plain(record: Any) -> Any:
    """A Text, Chat or Comparison, or a BadRow where it is not to be trained on.

    Records of other kinds, such as those of the world, have theirs as `record`.
    """
    found = getattr(record, "record", record)
    if isinstance(found, (Text, Chat, Comparison, BadRow)):
        return found
    kind = type(record).__name__
    return BadRow(f"a {kind}, which is nothing to train on; name another split")


class Source(NamedTuple):
    """A collection of records in a fixed order.

    Attributes:
      kind: the name of its module, or `module:function`.
      identity: JSON-able; equal exactly when the records are: a digest of the bytes
        that are read, and the options that matter. No paths, so that data may move.
      size: bytes on disk, where that is known.
      documents: `() -> iterator of (where, record or BadRow)`, from the start at every
        call; `where` is `file:line`. It holds a bounded piece of the data at a time.
      note: what the log is to say of it, such as how many files are left out.
    """

    kind: str
    identity: dict[str, Any]
    size: int | None
    documents: Callable[[], Iterator[tuple[str, Any]]]
    note: str = ""


class Faults:
    """Bad rows met so far: an error that lists them all, or a count of skipped ones."""

    def __init__(self, on_bad_row: str, remedy: str = MEND):
        self.remedy = remedy
        self.skip = on_bad_row == "skip"
        self.count = 0
        self.first: list[str] = []

    def add(self, where: str, reason: str) -> None:
        """Notes a bad row.

        Raises:
          DataError: there are too many to list, and they are not to be skipped.
        """
        self.count += 1
        if len(self.first) < MOST_FAULTS:
            self.first.append(f"{where}: {reason}")
        if not self.skip and self.count >= MOST_FAULTS:
            self.check(complete=False)

    def check(self, complete: bool = True) -> None:
        """Raises a DataError if there are bad rows that are not to be skipped."""
        if self.skip or not self.count:
            return
        rows = "1 bad row" if self.count == 1 else f"{self.count} bad rows"
        head = f"{rows}:" if complete else f"{rows}, and perhaps more beyond the last:"
        raise errors.DataError("\n  ".join([head, *self.first]) + f"\n{self.remedy}")


def good_rows(
    documents: Iterable[tuple[str, Any]], faults: Faults
) -> Iterator[tuple[str, Any]]:
    """The records of a source without its bad rows, which go to `faults`.

    Once a row is bad that may not be skipped, no more records come out, but the rest is
    read to list what else is wrong; the caller ends with `faults.check()`.
    """
    for where, record in documents:
        if isinstance(record, BadRow):
            faults.add(where, record.reason)
        elif faults.skip or not faults.count:
            yield where, record


def mapped(source: Source, function: Callable[[Any], Iterable[Any]]) -> Source:
    """The source of `function(record)`, any number of records for each good one."""

    def documents() -> Iterator[tuple[str, Any]]:
        for where, record in source.documents():
            if isinstance(record, BadRow):
                yield where, record
            else:
                yield from ((where, made) for made in function(record))

    return source._replace(documents=documents)


def fault_of_text(text: Any) -> str | None:
    """Why `text` cannot be a document, or None if it can."""
    if not isinstance(text, str):
        return f"expected text, found {type(text).__name__} {text!r:.60}"
    if not text.strip():
        return "the text is empty"
    if "\0" in text:
        return f"a NUL character at offset {text.index(chr(0))}: not text"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = text[error.start]
        return f"a lone surrogate {found!r} at offset {error.start}: not Unicode text"
    return None


def fault_of_number(value: Any) -> str | None:
    """Why this is no number that is finite in float32, or None if it is."""
    if isinstance(value, (int, float)) and abs(value) <= MOST:  # an int has no bounds
        return None
    return f"{value!r:.40} is not a finite number of float32, at most {MOST:.2g}"

# SPDX-License-Identifier: Apache-2.0
"""How a chat template looks as tokens: what stands between what is said.

It is read off the rendering of a few short dialogues, so that rows can be looked at
without the code that made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from alignjax import errors
from alignjax.data import records
from alignjax.data.chat import format as chat
from alignjax.data.tokenizers import base, special_tokens

# Fewer tokens than these, none of them special, may as well be something said.
FEWEST = 3
SAID = ("alignjax first", "then alignjax asks", "so alignjax replies")
SAID += ("again alignjax asks", "last alignjax replies")


class Mark(NamedTuple):
    """What a template writes between two turns.

    Attributes:
      ids: its tokens.
      role: whose turn comes after it; None for nobody's.
      end: which of the ids ends the turn before, or None.
    """

    ids: tuple[int, ...]
    role: str | None
    end: int | None


class Shape(NamedTuple):
    """The marks of a template, the longest first, and what ends turns."""

    marks: tuple[Mark, ...]
    stop_ids: frozenset[int]
    stop: str

    def at(self, ids: Sequence[int], i: int) -> Mark | None:
        """The mark that stands there."""
        for mark in self.marks:
            if tuple(ids[i : i + len(mark.ids)]) == mark.ids:
                return mark
        return None


def of(tok: base.Tokenizer, format: str) -> Shape:
    """The shape of a template. Raises ConfigError."""
    form = chat.of(tok, format)
    found: dict[Mark, None] = {}
    for roles in (
        ("user", "assistant", "user", "assistant"),
        ("system", "user", "assistant", "user", "assistant"),
    ):
        try:
            found |= dict.fromkeys(_marks(form, roles))
        except errors.DataError:  # such as a template without system turns
            continue
    # A response of a group ends where its turn does.
    found |= {Mark((stop,), None, 0): None for stop in form.stop_ids}
    names = {i: name for name, i in special_tokens.ids_by_name(tok).items()}
    return Shape(
        marks=tuple(sorted(found, key=lambda mark: -len(mark.ids))),
        stop_ids=frozenset(form.stop_ids),
        stop=names.get(form.stop_ids[0], str(form.stop_ids[0])),
    )


def _marks(form: chat.ChatFormat, roles: Sequence[str]) -> list[Mark]:
    turns = list(zip(roles, SAID[-len(roles) :], strict=True))
    ((text, _),) = form.render([chat.Request(turns)])
    (tokens,) = form.encode([text])
    ids, at, marks = tokens.ids.tolist(), 0, []
    for i, (role, said) in enumerate([*turns, (None, "")]):
        start, stop = at, text.find(said, at) if said else len(text)
        if stop < 0:
            return marks
        if role == records.ASSISTANT:  # what it is asked with, and not how it begins
            ((asked, _),) = form.render([chat.Request(turns[:i], prompt=True)])
            stop = len(asked) if text.startswith(asked) else stop
        inside = (tokens.starts >= start) & (tokens.stops <= stop) & (stop > start)
        between = [token for token, yes in zip(ids, inside, strict=True) if yes]
        if between and between[0] == form.tok.bos_id:
            between = between[1:]
        if len(between) >= FEWEST or {*between} & {*form.tok.control.values()}:
            ends = [n for n, token in enumerate(between) if token in form.stop_ids]
            end = ends[0] if ends and i else None
            marks.append(Mark(tuple(between), role, end))
            # A row may begin after the end of a turn.
            rest = () if end is None else tuple(between[end + 1 :])
            if role and {*rest} & {*form.tok.control.values()}:
                marks.append(Mark(rest, role, None))
        at = text.find(said, at) + len(said)
    return marks

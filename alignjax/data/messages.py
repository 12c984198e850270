# SPDX-License-Identifier: Apache-2.0
"""The messages of a row as turns, and what else of each message is read.

A message has a role and a content, and may have what `FIELDS` names, which templates
read. Its `weight`, 0 or 1, says whether a turn of the assistant is trained on, as
OpenAI's format has it. Keys that elsewhere say so in other words are refused; any other
one, such as an id or a time, is ignored. None is as if a key were absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from alignjax import errors
from alignjax.data import records

CALLS, WEIGHT = "tool_calls", "weight"
FIELDS = (CALLS, "tool_call_id", "name", "reasoning_content", "reasoning", "thinking")
REFUSED = ("train", "train_detail", "trainable", "loss", "loss_weight", "mask")
# Names of roles elsewhere.
ROLES = {"human": records.USER, "gpt": records.ASSISTANT}


class Dialogue(NamedTuple):
    """Messages; see `records.Chat` for what these are."""

    turns: tuple[records.Turn, ...]
    fields: tuple[Mapping[str, Any] | None, ...] | None
    skipped: tuple[int, ...]


def turns(value: Any, name: str) -> tuple[records.Turn, ...]:
    """The turns of messages that have a text and nothing more.

    Raises:
      DataError: there are none, or they have what would be lost.
    """
    found = dialogue(value, name)
    for i, more in enumerate(found.fields or ()):
        if more:
            named = [key for key in more if key in FIELDS]
            _refuse_more(name, i, named[0] if named else "no content")
    for i in found.skipped:
        _refuse_more(name, i, f"{WEIGHT} 0")
    return found.turns


def _refuse_more(name: str, i: int, what: str) -> None:
    raise errors.DataError(
        f"field {name!r}: message {i + 1} has {what}, which only dialogues of the "
        'format "messages" may have'
    )


def dialogue(value: Any, name: str) -> Dialogue:
    """A list of messages, or a dict of lists, as some libraries give.

    Raises:
      DataError: it is neither, or one of them is no message.
    """
    found = [
        _message(message, f"field {name!r}: message {i}")
        for i, message in enumerate(_listed(value, name), start=1)
    ]
    said, fields, trained = zip(*found, strict=True)
    skipped = tuple(i for i, counts in enumerate(trained) if not counts)
    return Dialogue(said, fields if any(fields) else None, skipped)


def _listed(value: Any, name: str) -> list[Any] | tuple[Any, ...]:
    if isinstance(value, Mapping) and {"role", "content"} <= set(value):
        known = {k: v for k, v in value.items() if v is not None}
        columns = list(known.values())
        lists = all(isinstance(column, (list, tuple)) for column in columns)
        if not lists or len(set(map(len, columns))) != 1:
            raise errors.DataError(
                f"field {name!r}: {', '.join(known)} are no lists of one length; give "
                "a list of messages"
            )
        rows = zip(*columns, strict=True)
        value = [dict(zip(known, row, strict=True)) for row in rows]
    if not isinstance(value, (list, tuple)):
        found = type(value).__name__
        raise errors.DataError(f"field {name!r}: expected messages, found {found}")
    if not value:
        raise errors.DataError(f"field {name!r}: it has no messages")
    return value


def _message(message: Any, where: str) -> tuple[records.Turn, dict | None, bool]:
    """The turn, what else it has, and whether it may be trained on."""
    message = message if isinstance(message, Mapping) else {"": message}
    more = {k: message[k] for k in FIELDS if message.get(k) not in (None, [], "")}
    if "role" not in message or not {*message} & {"content", CALLS}:
        shown = message.get("", message)
        raise errors.DataError(f"{where} has no role and content: {shown!r:.60}")
    role, text, weight = (message.get(k) for k in ("role", "content", WEIGHT))
    if not isinstance(role, str):
        raise errors.DataError(f"{where} has a role that is no text: {role!r:.60}")
    role = ROLES.get(role, role)
    for key in REFUSED:
        if message.get(key) is not None:
            raise errors.DataError(
                f"{where} has {key!r}, which is not read; leave it out, and say "
                f"{WEIGHT} 0 of what the assistant says and is not to be trained on"
            )
    if weight not in (None, 0, 1) or (weight == 1 and role != records.ASSISTANT):
        raise errors.DataError(
            f"{where}, of the {role}, has {WEIGHT} {weight!r:.40}; that is 0 or 1 for "
            "a turn of the assistant, and 0 for others"
        )
    silent = text in (None, "") and (CALLS in more or role == "tool")
    if silent and text is None:  # templates tell the two apart
        text, more = "", {**more, "content": None}
    if not silent and (fault := records.fault_of_text(text)):
        raise errors.DataError(f"{where}: {fault}")
    trained = weight != 0 or role != records.ASSISTANT
    return (role, text), more or None, trained

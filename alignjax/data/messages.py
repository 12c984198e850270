# SPDX-License-Identifier: Apache-2.0
"""Messages of rows to turns, and JSON inside of rows.

A message has a role and a content, a text or a list of parts that are texts; or, as
ShareGPT has it, a from and a value. It may have what `FIELDS` names, which templates
read. Calls' arguments, tools and variables may also be JSON text. A key in them that is
null is as if it were absent, since Parquet gives all rows all keys; JSON text keeps
its nulls. Its `weight`, 0 or 1, is whether a turn of the assistant is trained on, as in
OpenAI's format. Keys that elsewhere mean the same are refused; any other one, such as
an id or a time, is ignored.
"""

from __future__ import annotations

import decimal
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors
from alignjax.data import records
from alignjax.storage import json_files

CALLS, WEIGHT = "tool_calls", "weight"
FIELDS = (CALLS, "tool_call_id", "name", "reasoning_content", "reasoning", "thinking")
REFUSED = ("train", "train_detail", "trainable", "loss", "loss_weight", "mask")
ROLES = {"human": records.USER, "gpt": records.ASSISTANT}  # names of roles elsewhere


class Dialogue(NamedTuple):
    """Messages; see `records.Chat` for what these are."""

    turns: tuple[records.Turn, ...]
    fields: tuple[Mapping[str, Any] | None, ...] | None
    skipped: tuple[int, ...]


def dialogue(value: Any, name: str) -> Dialogue:
    """A list of messages, or a dict of lists; a DataError if it is neither."""
    messages = [
        _message(message, f"field {name!r}: message {i}")
        for i, message in enumerate(_listed(value, name), start=1)
    ]
    turns, fields, trained = zip(*messages, strict=True)
    skipped = tuple(i for i, is_trained in enumerate(trained) if not is_trained)
    return Dialogue(turns, fields if any(fields) else None, skipped)


def turns(value: Any, name: str) -> tuple[records.Turn, ...]:
    """The turns of messages; a DataError if they have more than texts, or are none."""
    turns, fields, skipped = dialogue(value, name)
    lost = [(i, f"{WEIGHT} 0") for i in skipped]
    for i, more in enumerate(fields or ()):
        if more:
            lost.append((i, next((key for key in more if key in FIELDS), "no content")))
    if lost:
        i, what = min(lost)
        raise errors.DataError(
            f"field {name!r}: message {i + 1} has {what}, which only dialogues of the "
            'format "messages" may have'
        )
    return turns


def chat(value: str | Mapping[str, Any] | Sequence, name: str) -> records.Chat:
    """A dialogue of a caller: a user's text, a message, or turns of either form.

    Turns are `(role, text)` or messages. Raises a DataError for what is neither.
    """
    if isinstance(value, str):
        value = [(records.USER, value)]
    several = hasattr(value, "__iter__") and not isinstance(value, Mapping)
    listed = list(value) if several else [value]
    for i, turn in enumerate(listed):
        if isinstance(turn, (list, tuple)) and len(turn) == 2:
            listed[i] = {"role": turn[0], "content": turn[1]}
    turns, fields, _ = dialogue(listed, name)
    return records.Chat(turns, fields=fields)


def _listed(value: Any, name: str) -> list[Any] | tuple[Any, ...]:
    keys = set(value) if isinstance(value, Mapping) else set()
    if keys >= {"role", "content"} or keys >= {"from", "value"}:
        columns = {k: v for k, v in value.items() if v is not None}
        lists = all(isinstance(column, (list, tuple)) for column in columns.values())
        if not lists or len(set(map(len, columns.values()))) != 1:
            raise errors.DataError(
                f"field {name!r}: {', '.join(columns)} are no lists of one length; "
                "give a list of messages"
            )
        rows = zip(*columns.values(), strict=True)
        value = [dict(zip(columns, row, strict=True)) for row in rows]
    if not isinstance(value, (list, tuple)) or not value:
        kind = "none" if isinstance(value, (list, tuple)) else type(value).__name__
        raise errors.DataError(f"field {name!r}: expected messages, found {kind}")
    return value


def _message(message: Any, where: str) -> tuple[records.Turn, dict | None, bool]:
    """The turn, what else it has, and whether it may be trained on."""
    message = message if isinstance(message, Mapping) else {"": message}
    if "role" not in message and "from" in message:
        message = {**message, "role": message["from"], "content": message.get("value")}
    more = {k: message[k] for k in FIELDS if message.get(k) not in (None, [], "")}
    if "role" not in message or not {*message} & {"content", CALLS}:
        shown = message.get("", message)
        raise errors.DataError(f"{where} has no role and content: {shown!r:.60}")
    role, text, weight = (message.get(k) for k in ("role", "content", WEIGHT))
    text = _joined_parts(text, where)
    if not isinstance(role, str):
        raise errors.DataError(f"{where} has a role that is no text: {role!r:.60}")
    role = ROLES.get(role, role)
    if key := next((k for k in REFUSED if message.get(k) is not None), None):
        raise errors.DataError(
            f"{where} has {key!r}, which is not read; leave it out, and give {WEIGHT} "
            "0 to turns of the assistant that are not to be trained on"
        )
    if weight not in (None, 0, 1) or (weight == 1 and role != records.ASSISTANT):
        raise errors.DataError(
            f"{where}, of the {role}, has {WEIGHT} {weight!r:.40}; that is 0 or 1 for "
            "a turn of the assistant, and 0 for others"
        )
    more = {k: plain(v, f"{where}, {k}") for k, v in more.items()}
    if CALLS in more:
        more[CALLS] = _calls(more[CALLS], f"{where}, {CALLS}")
    silent = text in (None, "") and (CALLS in more or role == "tool")
    if silent and text is None:  # templates tell the two apart
        text, more = "", {**more, "content": None}
    if not silent and (fault := records.fault_of_text(text)):
        raise errors.DataError(f"{where}: {fault}")
    return (role, text), more or None, weight != 0 or role != records.ASSISTANT


def _joined_parts(content: Any, where: str) -> Any:
    """The text of a content that is a list of parts; another content as it is."""
    if not isinstance(content, (list, tuple)):
        return content
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind != "text" or not isinstance(text, str):
            raise errors.DataError(
                f"{where} has a part of content that is no text: {part!r:.60}; leave "
                "such rows out"
            )
        texts.append(text)
    return "".join(texts)


def _calls(value: Any, where: str) -> list[Any]:
    """Calls of functions, whose arguments are objects."""
    value = parsed(value, where)
    if not isinstance(value, list) or not all(isinstance(x, Mapping) for x in value):
        raise errors.DataError(f"{where}: expected a list of calls: {value!r:.60}")
    calls = []
    for i, call in enumerate(value, start=1):
        call = dict(call)
        if isinstance(call.get("function"), Mapping):
            call["function"] = _called(call["function"], f"{where}: call {i}")
        calls.append(_called(call, f"{where}: call {i}"))
    return calls


def _called(function: Mapping[str, Any], where: str) -> dict[str, Any]:
    if "arguments" not in function:
        return dict(function)
    arguments = parsed(function["arguments"], f"{where}: arguments")
    if not isinstance(arguments, Mapping):
        raise errors.DataError(
            f"{where}: arguments {arguments!r:.60} are no object, such as "
            '{"name": "value"}'
        )
    return {**function, "arguments": arguments}


def parsed(value: Any, where: str) -> Any:
    """The value, or what it says where it is JSON text."""
    if not isinstance(value, str):
        return value
    return plain(json_files.parse(value, where), where, nulls=True)


def plain(value: Any, where: str, nulls: bool = False, depth: int = 0) -> Any:
    """A value as JSON has it; without keys that are null, unless `nulls`.

    Raises a DataError for what is not Unicode, not of JSON, or too deep.
    """
    if depth > json_files.MAX_DEPTH:
        raise errors.DataError(f"{where}: nested too deeply")
    if value is None or isinstance(value, (bool, int, float, decimal.Decimal)):
        return number(value)
    if isinstance(value, str):
        if fault := records.fault_of_unicode(value):
            raise errors.DataError(f"{where}: {fault}")
        return value
    if isinstance(value, (list, tuple)):
        if not value or not all(isinstance(x, tuple) and len(x) == 2 for x in value):
            return [plain(x, where, nulls, depth + 1) for x in value]
        value = dict(value)  # a map of Parquet
    if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        kind = type(value).__name__
        raise errors.DataError(f"{where}: {kind} {value!r:.40} is not of JSON")
    return {
        plain(k, where): plain(v, where, nulls, depth + 1)
        for k, v in value.items()
        if nulls or v is not None
    }


def number(value: Any) -> Any:
    """Decimals of Parquet as other numbers; any other value as it is."""
    if not isinstance(value, decimal.Decimal):
        return value
    whole = value.is_finite() and value == value.to_integral_value()
    return int(value) if whole else float(value)

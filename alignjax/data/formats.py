# SPDX-License-Identifier: Apache-2.0
"""Rows of data sets to records: what the columns of well-known formats mean.

To add one, write `(row) -> record` that raises a DataError for a bad row, and register
it here or name it in the config as `format = "module:function"`.

    text             {text}
    messages         {messages: [{role, content}]}; Tulu 3's SFT mixture. A message may
                     have a weight of 0 or 1; with a chat template also the role "tool",
                     what `messages.FIELDS` names, and the row have tools
    prompt_response  {prompt, response}
    preference       {prompt, chosen, rejected}; UltraFeedback binarized, Tulu 3's pairs
    hh               {chosen, rejected} as "Human: ... Assistant: ..."; Anthropic's HH
    ranking          {prompt, responses}, best first
    label            {prompt, completion, label}; TRL's KTO format
    rating           {prompt, response, target}

Where these say prompt, it is the text of the user or a list of messages; see `messages`
for what those are. Columns called as `comparisons.VALUES` or `weight` are read too, and
score_chosen with score_rejected of preferences; None is as if one were absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors, registry
from alignjax.data import messages, records
from alignjax.data.chat import comparisons
from alignjax.data.chat import format as chat
from alignjax.storage import json_files

FORMAT = 2  # of most; changes when the same row becomes another record
EXTRA = (*comparisons.VALUES, "weight")
SCORES = ("score_chosen", "score_rejected")


class Format(NamedTuple):
    """A row-dict to a record, and the columns that it reads."""

    read: Callable[[Mapping[str, Any]], Any]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] | None = None  # None for any
    version: int = FORMAT


class Reader(NamedTuple):
    """How a source reads rows.

    Attributes:
      read: a row-dict to a record or a BadRow.
      required: the columns without which there is no record.
      optional: further ones that are read; None for any.
      identity: JSON-able, what the records follow from besides the rows.
    """

    read: Callable[[Mapping[str, Any]], Any]
    required: tuple[str, ...]
    optional: tuple[str, ...] | None
    identity: dict[str, Any]

    def columns(self, known: Sequence[str]) -> list[str]:
        """Those of the columns of a data set that are read, in its order."""
        if self.optional is None:
            return list(known)
        return [name for name in known if name in (*self.required, *self.optional)]

    def missing(self, known: Sequence[str]) -> str | None:
        """The remedy for the first required column that is not there, if any is."""
        for name in self.required:
            if name not in known:
                return f"{name!r}; {registry.closest(name, known)}"
        return None


FORMATS = registry.Registry("row format")


def reader(
    format: str = "text", field: str = "text", columns: Mapping[str, str] | None = None
) -> Reader:
    """The reader of the options that sources of rows have.

    Args:
      format: a name of the list above, or `module:function`.
      field: for "text", the column that is the text.
      columns: `{name of the format: name in the data}`, where they differ.

    Raises:
      ConfigError: no such format, or an option that it does not read.
    """
    columns = dict(columns or {})
    if format == "text":
        columns = {"text": field, **columns}
    elif field != "text":
        raise errors.ConfigError(
            f'field: {field!r} is of the format "text"; columns = {{...}} renames what '
            f"{format!r} reads"
        )
    try:
        found = FORMATS.find(format)
    except ValueError as error:
        raise errors.ConfigError(f"format: {error}") from error
    if not isinstance(found, Format):
        found = Format(found)
    known = None if found.optional is None else (*found.required, *found.optional)
    for name in columns:
        if known is not None and name not in known:
            remedy = registry.closest(name, known)
            raise errors.ConfigError(f"columns: {format!r} reads no {name!r}; {remedy}")
    place = lambda names: tuple(columns.get(name, name) for name in names)
    required = place(found.required)
    identity: dict[str, Any] = {"field": columns.get("text")}
    if format != "text":
        identity = {"format": [format, found.version], "columns": columns}

    def read(row: Mapping[str, Any]) -> Any:
        for name in required:
            if name not in row:
                remedy = registry.closest(name, row)
                return records.BadRow(f"no field {name!r}; {remedy}")
        row = {**row, **{k: row[v] for k, v in columns.items() if v in row}}
        try:
            return found.read(row)
        except errors.DataError as error:
            return records.BadRow(str(error))

    if format == "text":
        read = lambda row: _read_text(row, field=columns["text"])
    optional = None if found.optional is None else place(found.optional)
    return Reader(read, required, optional, identity)


def _read_text(row: Mapping[str, Any], field: str = "text") -> Any:
    if field not in row:
        return records.BadRow(f"no field {field!r}; {registry.closest(field, row)}")
    if fault := records.fault_of_text(row[field]):
        return records.BadRow(f"field {field!r}: {fault}")
    return records.Text(row[field])


def _tools(value: Any) -> tuple[Mapping[str, Any], ...] | None:
    """The functions of a row, which may be text that is JSON."""
    if isinstance(value, str) and value.strip():
        value = json_files.parse(value, "field 'tools'")
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(x, Mapping) for x in value):
        raise errors.DataError(
            f"field 'tools': expected a list of functions' schemas, found {value!r:.60}"
        )
    return tuple(value)


def prompt(value: Any, name: str = "prompt") -> tuple[records.Turn, ...]:
    """The turns of a prompt: the user's text, or messages."""
    if not isinstance(value, str):
        return messages.turns(value, name)
    if fault := records.fault_of_text(value):
        raise errors.DataError(f"field {name!r}: {fault}")
    return ((chat.USER, value),)


def response(value: Any, name: str) -> str:
    """A response: a text, or one message of the assistant."""
    if not isinstance(value, str):
        turns = messages.turns(value, name)
        if len(turns) != 1 or turns[0][0] != chat.ASSISTANT:
            roles = ", ".join(role for role, _ in turns)
            raise errors.DataError(
                f"field {name!r}: expected one turn of the assistant, found {roles}"
            )
        value = turns[0][1]
    if fault := records.fault_of_text(value):
        raise errors.DataError(f"field {name!r}: {fault}")
    return value


def known(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the row knows of its responses, by the names of `comparisons.VALUES`."""
    values = {}
    for name in comparisons.VALUES:
        if row.get(name) is not None:
            value = row[name]
            values[name] = tuple(value) if isinstance(value, list) else value
    return values


def _weight(row: Mapping[str, Any]) -> Any:
    return 1.0 if row.get("weight") is None else row["weight"]


def _messages(row: Mapping[str, Any]) -> records.Chat:
    said = messages.dialogue(row["messages"], "messages")
    known = dict(weight=_weight(row), tools=_tools(row.get("tools")))
    return records.Chat(**said._asdict(), **known)


def _prompt_response(row: Mapping[str, Any]) -> records.Chat:
    said = (chat.ASSISTANT, response(row["response"], "response"))
    return records.Chat((*prompt(row["prompt"]), said), _weight(row))


def _preference(row: Mapping[str, Any]) -> records.Comparison:
    values, sides = {**_scores(row), **known(row)}, [row["chosen"], row["rejected"]]
    if all(isinstance(side, str) for side in sides):
        if row.get("prompt") is None:
            raise errors.DataError(
                "no prompt, and chosen and rejected are plain texts: where a prompt "
                "ends inside of them cannot be told; give it, or messages"
            )
        asked, said = prompt(row["prompt"]), sides
    else:
        turns = [messages.turns(row[name], name) for name in ("chosen", "rejected")]
        if all(len(side) == 1 for side in turns):
            asked = prompt(row.get("prompt"))
        else:
            asked = _shared(turns)
            _check_said(row.get("prompt"), asked)
        said = [side[-1][1] for side in turns]
        if any(side[-1][0] != chat.ASSISTANT for side in turns):
            raise errors.DataError("chosen and rejected must end in the assistant's")
    said = tuple(
        response(x, n) for x, n in zip(said, ("chosen", "rejected"), strict=True)
    )
    return records.Comparison(asked, said, values, _weight(row))


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the scores of two sides, if they are there, say by `comparisons.VALUES`."""
    found = {name: row[name] for name in SCORES if row.get(name) is not None}
    for name, score in found.items():
        if reason := records.fault_of_number(score):
            raise errors.DataError(f"field {name!r}: {reason}")
    if len(found) == 1:
        raise errors.DataError(
            f"{', '.join(found)} alone, of {' and '.join(SCORES)}; give both or neither"
        )
    scores = tuple(found.values())
    return {"reward": scores, "gap": scores[0] - scores[1]} if scores else {}


def _shared(turns: Sequence[tuple[records.Turn, ...]]) -> tuple[records.Turn, ...]:
    """What two transcripts share, which is all but their last turns."""
    first, second = turns
    if len(first) == len(second) and first[:-1] == second[:-1]:
        return first[:-1]
    pairs = zip(first, second, strict=False)
    apart = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), None)
    apart = apart or min(len(first), len(second)) + 1
    raise errors.DataError(
        f"chosen and rejected, of {len(first)} and {len(second)} turns, part at turn "
        f"{apart}, before the last: they are no replies to one prompt"
    )


def _check_said(given: Any, asked: tuple[records.Turn, ...]) -> None:
    """Refuses a prompt that is not what the transcripts begin with."""
    if given is None:
        return
    if isinstance(given, str):
        same = given in [text for _, text in asked]
    else:
        same = messages.turns(given, "prompt") == asked
    if not same:
        raise errors.DataError("the prompt is not what chosen and rejected begin with")


HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def transcript(text: Any, name: str) -> tuple[records.Turn, ...]:
    r"""The turns of "\n\nHuman: ... \n\nAssistant: ...", without the space around."""
    if fault := records.fault_of_text(text):
        raise errors.DataError(f"field {name!r}: {fault}")
    if not text.startswith((HUMAN, ASSISTANT)):
        raise errors.DataError(f"field {name!r}: no transcript: {text!r:.40}")
    turns = []
    for piece in text.replace(ASSISTANT, f"{HUMAN}{ASSISTANT}").split(HUMAN)[1:]:
        role = chat.ASSISTANT if piece.startswith(ASSISTANT) else chat.USER
        turns.append((role, piece.removeprefix(ASSISTANT).strip()))
    return tuple(turns)


def _hh(row: Mapping[str, Any]) -> records.Comparison:
    turns = [transcript(row[name], name) for name in ("chosen", "rejected")]
    if any(side[-1][0] != chat.ASSISTANT for side in turns):
        raise errors.DataError("a transcript does not end in a turn of the assistant")
    asked = _shared(turns)
    said = tuple(side[-1][1] for side in turns)
    return records.Comparison(asked, said, known(row), _weight(row))


def _ranking(row: Mapping[str, Any]) -> records.Comparison:
    said = row["responses"]
    if not isinstance(said, (list, tuple)):
        found = type(said).__name__
        raise errors.DataError(f"field 'responses': expected a list, found {found}")
    if not said:
        raise errors.DataError("field 'responses': it has none")
    said = tuple(response(text, "responses") for text in said)
    return records.Comparison(prompt(row["prompt"]), said, known(row), _weight(row))


def _label(row: Mapping[str, Any]) -> records.Comparison:
    label = row["label"]
    if label not in (0, 1):
        raise errors.DataError(f"field 'label': {label!r} is not true or false")
    values = {**known(row), "desirable": float(label)}
    said = (response(row["completion"], "completion"),)
    return records.Comparison(prompt(row["prompt"]), said, values, _weight(row))


def _rating(row: Mapping[str, Any]) -> records.Comparison:
    target = row["target"]
    target = tuple(target) if isinstance(target, (list, tuple)) else (target,)
    values = {**known(row), "target": target}
    said = (response(row["response"], "response"),)
    return records.Comparison(prompt(row["prompt"]), said, values, _weight(row))


def _register(
    name: str, read: Callable, required: str, optional=EXTRA, version=FORMAT
) -> None:
    known = Format(read, tuple(required.split()), tuple(optional), version)
    FORMATS.register(known, name)


_register("text", _read_text, "text", ())
_register("messages", _messages, "messages", ("weight", "tools"), version=3)
_register("prompt_response", _prompt_response, "prompt response", ("weight",))
_register(
    "preference",
    _preference,
    "chosen rejected",
    ("prompt", *SCORES, *EXTRA),
)
_register("hh", _hh, "chosen rejected")
_register("ranking", _ranking, "prompt responses")
_register("label", _label, "prompt completion label")
_register("rating", _rating, "prompt response target")

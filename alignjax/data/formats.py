# SPDX-License-Identifier: Apache-2.0
"""Rows of data sets to records: what the columns of well-known formats mean.

To add one, write `(row) -> record` that raises a DataError for a bad row, and register
it here or name it in the config as `format = "module:function"`.

    text             {text}
    messages         {messages: [{role, content}]}; Tulu 3's SFT mixture. A message may
                     have a weight of 0 or 1; with a chat template also the role "tool",
                     what `FIELDS` names
    prompt_response  {prompt, response}
    preference       {prompt, chosen, rejected}; UltraFeedback binarized, Tulu 3's pairs
    hh               {chosen, rejected} as "Human: ... Assistant: ..."; Anthropic's HH
    ranking          {prompt, responses}, best first
    label            {prompt, completion, label}; TRL's KTO format
    rating           {prompt, response, target}

A prompt is the text of the user or a list of messages. Columns called as
`comparisons.VALUES` or `weight` are read too, and score_chosen with score_rejected of
preferences; None is as if one were absent. With a chat template all but texts and
transcripts may have `tools`, a list of JSON schemas, and `chat_template_kwargs`,
further variables of the template.

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors, registry
from alignjax.data import records
from alignjax.data.chat import comparisons
from alignjax.storage import json_files

FORMAT = 3  # of most; changes when the same row becomes another record
KWARGS = "chat_template_kwargs"
OF_TEMPLATE = ("tools", KWARGS)
OF_GROUP = (*comparisons.VALUES, "weight")
EXTRA = (*OF_GROUP, *OF_TEMPLATE)
# Variables of templates that `rendering` sets.
RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now")
SCORES = ("score_chosen", "score_rejected")
SIDES = ("chosen", "rejected")
USER, ASSISTANT = records.USER, records.ASSISTANT

CALLS, WEIGHT = "tool_calls", "weight"  # of a message
FIELDS = (CALLS, "tool_call_id", "name", "reasoning_content", "reasoning", "thinking")
REFUSED = ("train", "train_detail", "trainable", "loss", "loss_weight", "mask")
ROLES = {"human": USER, "gpt": ASSISTANT}  # names of roles elsewhere

HUMAN, REPLY = "\n\nHuman:", "\n\nAssistant:"  # of transcripts


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

    def columns(self, names: Sequence[str]) -> list[str]:
        """Those of the columns of a data set that are read, in its order."""
        if self.optional is None:
            return list(names)
        return [name for name in names if name in (*self.required, *self.optional)]

    def missing(self, names: Sequence[str]) -> str | None:
        """The first required column that a data set lacks, with a remedy, or None."""
        for name in self.required:
            if name not in names:
                return f"{name!r}; {registry.closest(name, names)}"
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
        form = FORMATS.find(format)
    except ValueError as error:
        raise errors.ConfigError(f"format: {error}") from error
    if not isinstance(form, Format):
        form = Format(form)
    names = None if form.optional is None else (*form.required, *form.optional)
    for name in columns:
        if names is not None and name not in names:
            remedy = registry.closest(name, names)
            raise errors.ConfigError(f"columns: {format!r} reads no {name!r}; {remedy}")
    renamed = lambda names: tuple(columns.get(name, name) for name in names)
    required = renamed(form.required)
    identity: dict[str, Any] = {"field": columns.get("text")}
    if format != "text":
        identity = {"format": [format, form.version], "columns": columns}

    def read(row: Mapping[str, Any]) -> Any:
        for name in required:
            if name not in row:
                remedy = f"{registry.closest(name, row)}; columns = {{...}} renames"
                return records.BadRow(f"no field {name!r}; {remedy}")
        row = {**row, **{k: row[v] for k, v in columns.items() if v in row}}
        try:
            return form.read(row)
        except errors.DataError as error:
            return records.BadRow(str(error))
        except RecursionError:
            return records.BadRow("nested too deeply")

    if format == "text":
        read = lambda row: _text(row, field=columns["text"])
    optional = None if form.optional is None else renamed(form.optional)
    return Reader(read, required, optional, identity)


# Messages.


class Dialogue(NamedTuple):
    """Messages; see `records.Chat` for what these are."""

    turns: tuple[records.Turn, ...]
    fields: tuple[Mapping[str, Any] | None, ...] | None
    skipped: tuple[int, ...]


def dialogue(value: Any, name: str) -> Dialogue:
    """A list of messages, or a dict of lists, as some libraries have them.

    Raises:
      DataError: it is neither, or one of them is no message.
    """
    messages = [
        _message(message, f"field {name!r}: message {i}")
        for i, message in enumerate(_listed(value, name), start=1)
    ]
    turns, fields, trained = zip(*messages, strict=True)
    skipped = tuple(i for i, is_trained in enumerate(trained) if not is_trained)
    return Dialogue(turns, fields if any(fields) else None, skipped)


def turns(value: Any, name: str) -> tuple[records.Turn, ...]:
    """The turns of messages that have a text and nothing more.

    Raises:
      DataError: there are none, or they have what would be lost.
    """
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
    if not isinstance(value, (list, tuple)):
        kind = type(value).__name__
        raise errors.DataError(f"field {name!r}: expected messages, found {kind}")
    if not value:
        raise errors.DataError(f"field {name!r}: it has no messages")
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
    for key in REFUSED:
        if message.get(key) is not None:
            raise errors.DataError(
                f"{where} has {key!r}, which is not read; leave it out, and give "
                f"{WEIGHT} 0 to turns of the assistant that are not to be trained on"
            )
    if weight not in (None, 0, 1) or (weight == 1 and role != ASSISTANT):
        raise errors.DataError(
            f"{where}, of the {role}, has {WEIGHT} {weight!r:.40}; that is 0 or 1 for "
            "a turn of the assistant, and 0 for others"
        )
    more = {k: _json(v, f"{where}, {k}") for k, v in more.items()}
    if CALLS in more:
        more[CALLS] = _calls(more[CALLS], f"{where}, {CALLS}")
    silent = text in (None, "") and (CALLS in more or role == "tool")
    if silent and text is None:  # templates tell the two apart
        text, more = "", {**more, "content": None}
    if not silent and (fault := records.fault_of_text(text)):
        raise errors.DataError(f"{where}: {fault}")
    return (role, text), more or None, weight != 0 or role != ASSISTANT


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
    value = _parsed(value, where)
    if not isinstance(value, list) or not all(isinstance(x, Mapping) for x in value):
        raise errors.DataError(
            f"{where}: expected a list of calls, found {value!r:.60}"
        )
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
    arguments = _parsed(function["arguments"], f"{where}: arguments")
    if not isinstance(arguments, Mapping):
        raise errors.DataError(
            f"{where}: arguments {arguments!r:.60} are no object, such as "
            '{"name": "value"}'
        )
    return {**function, "arguments": arguments}


# JSON inside of rows.


def _parsed(value: Any, where: str) -> Any:
    """The value, or what it says where it is JSON text."""
    if not isinstance(value, str):
        return value
    return _json(json_files.parse(value, where), where, nulls=True)


def _json(value: Any, where: str, nulls: bool = False, depth: int = 0) -> Any:
    """A value without keys that are null, as JSON has it.

    Args:
      nulls: whether these stay.

    Raises:
      DataError: a text that is not Unicode, a value that JSON has not, or too deep.
    """
    if depth > json_files.MAX_DEPTH:
        raise errors.DataError(f"{where}: nested too deeply")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, decimal.Decimal):
        return _number(value)
    if isinstance(value, str):
        if fault := records.fault_of_unicode(value):
            raise errors.DataError(f"{where}: {fault}")
        return value
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(x, tuple) and len(x) == 2 for x in value):
            value = dict(value)  # a map of Parquet
        else:
            return [_json(x, where, nulls, depth + 1) for x in value]
    if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        kind = type(value).__name__
        raise errors.DataError(f"{where}: {kind} {value!r:.40} is not of JSON")
    return {
        _json(k, where): _json(v, where, nulls, depth + 1)
        for k, v in value.items()
        if nulls or v is not None
    }


# Fields of rows.


def _checked(text: Any, name: str) -> str:
    if fault := records.fault_of_text(text):
        raise errors.DataError(f"field {name!r}: {fault}")
    return text


def _prompt(value: Any) -> tuple[records.Turn, ...]:
    """The turns of a prompt: the user's text, or messages."""
    if isinstance(value, str):
        return ((USER, _checked(value, "prompt")),)
    return turns(value, "prompt")


def _response(value: Any, name: str) -> str:
    """A response: a text, or one message of the assistant."""
    if not isinstance(value, str):
        message = turns(value, name)
        if len(message) != 1 or message[0][0] != ASSISTANT:
            roles = ", ".join(role for role, _ in message)
            raise errors.DataError(
                f"field {name!r}: expected one turn of the assistant, found {roles}"
            )
        value = message[0][1]
    return _checked(value, name)


def _of_template(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `OF_TEMPLATE`, as fields of records."""
    tools, variables = (
        _parsed(_json(row.get(name) or None, f"field {name!r}"), f"field {name!r}")
        for name in OF_TEMPLATE
    )
    if tools and not (
        isinstance(tools, list) and all(isinstance(x, Mapping) for x in tools)
    ):
        raise errors.DataError(
            f"field 'tools': expected a list of functions' schemas, found {tools!r:.60}"
        )
    if variables and not isinstance(variables, Mapping):
        raise errors.DataError(
            f"field {KWARGS!r}: expected an object, found {variables!r:.60}"
        )
    if reserved := [name for name in variables or () if name in RESERVED]:
        raise errors.DataError(
            f"field {KWARGS!r}: {reserved[0]!r} is not for a row to set; leave it out"
        )
    return {
        "tools": tuple(tools) if tools else None,
        "template_kwargs": variables or None,
    }


def _number(value: Any) -> Any:
    """Decimals of Parquet as other numbers; any other value as it is."""
    if not isinstance(value, decimal.Decimal):
        return value
    whole = value.is_finite() and value == value.to_integral_value()
    return int(value) if whole else float(value)


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `comparisons.VALUES`."""
    return {
        name: tuple(map(_number, row[name]))
        if isinstance(row[name], (list, tuple))
        else _number(row[name])
        for name in comparisons.VALUES
        if row.get(name) is not None
    }


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of two sides, if they are there, as `comparisons.VALUES`."""
    scores = {name: _number(row[name]) for name in SCORES if row.get(name) is not None}
    for name, score in scores.items():
        if reason := records.fault_of_number(score):
            raise errors.DataError(f"field {name!r}: {reason}")
    if len(scores) == 1:
        raise errors.DataError(
            f"{', '.join(scores)} alone, of {' and '.join(SCORES)}; give both or "
            "neither"
        )
    rewards = tuple(scores.values())
    return {"reward": rewards, "gap": rewards[0] - rewards[1]} if rewards else {}


def _weight(row: Mapping[str, Any]) -> Any:
    return 1.0 if row.get("weight") is None else _number(row["weight"])


def _transcript(text: Any, name: str) -> tuple[records.Turn, ...]:
    r"""The turns of "\n\nHuman: ... \n\nAssistant: ...", without the space around."""
    if not _checked(text, name).startswith((HUMAN, REPLY)):
        raise errors.DataError(f"field {name!r}: no transcript: {text!r:.40}")
    turns = []
    for piece in text.replace(REPLY, f"{HUMAN}{REPLY}").split(HUMAN)[1:]:
        role = ASSISTANT if piece.startswith(REPLY) else USER
        turns.append((role, piece.removeprefix(REPLY).strip()))
    return tuple(turns)


def _shared(sides: Sequence[tuple[records.Turn, ...]]) -> tuple[records.Turn, ...]:
    """What two transcripts share, which is all but their last turns."""
    first, second = sides
    if len(first) == len(second) and first[:-1] == second[:-1]:
        return first[:-1]
    pairs = zip(first, second, strict=False)
    apart = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), None)
    apart = apart or min(len(first), len(second)) + 1
    raise errors.DataError(
        f"chosen and rejected, of {len(first)} and {len(second)} turns, part at turn "
        f"{apart}, before the last: they are no replies to one prompt"
    )


def _check_prompt(column: Any, prompt: tuple[records.Turn, ...]) -> None:
    """Refuses a column that is not the prompt with which the transcripts begin."""
    if column is None:
        return
    if isinstance(column, str):
        same = column in [text for _, text in prompt]
    else:
        same = turns(column, "prompt") == prompt
    if not same:
        raise errors.DataError("the prompt is not what chosen and rejected begin with")


# Rows.


def _text(row: Mapping[str, Any], field: str = "text") -> Any:
    if field not in row:
        return records.BadRow(f"no field {field!r}; {registry.closest(field, row)}")
    if fault := records.fault_of_text(row[field]):
        return records.BadRow(f"field {field!r}: {fault}")
    return records.Text(row[field])


def _messages(row: Mapping[str, Any]) -> records.Chat:
    turns, fields, skipped = dialogue(row["messages"], "messages")
    more = {"fields": fields, "skipped": skipped, **_of_template(row)}
    return records.Chat(turns, _weight(row), **more)


def _prompt_response(row: Mapping[str, Any]) -> records.Chat:
    reply = (ASSISTANT, _response(row["response"], "response"))
    return records.Chat(
        (*_prompt(row["prompt"]), reply), _weight(row), **_of_template(row)
    )


def _preference(row: Mapping[str, Any]) -> records.Comparison:
    values, texts = {**_scores(row), **_values(row)}, [row[name] for name in SIDES]
    if all(isinstance(text, str) for text in texts):
        if row.get("prompt") is None:
            raise errors.DataError(
                "no prompt, and chosen and rejected are plain texts: where a prompt "
                "ends inside of them cannot be known; give it, or messages"
            )
        prompt = _prompt(row["prompt"])
    else:
        sides = [turns(row[name], name) for name in SIDES]
        if all(len(side) == 1 for side in sides):
            prompt = _prompt(row.get("prompt"))
        else:
            prompt = _shared(sides)
            _check_prompt(row.get("prompt"), prompt)
        if any(side[-1][0] != ASSISTANT for side in sides):
            raise errors.DataError("chosen and rejected must end in the assistant's")
        texts = [side[-1][1] for side in sides]
    responses = tuple(map(_response, texts, SIDES))
    return records.Comparison(
        prompt, responses, values, _weight(row), **_of_template(row)
    )


def _hh(row: Mapping[str, Any]) -> records.Comparison:
    sides = [_transcript(row[name], name) for name in SIDES]
    if any(side[-1][0] != ASSISTANT for side in sides):
        raise errors.DataError("a transcript does not end in a turn of the assistant")
    responses = tuple(side[-1][1] for side in sides)
    return records.Comparison(_shared(sides), responses, _values(row), _weight(row))


def _ranking(row: Mapping[str, Any]) -> records.Comparison:
    texts = row["responses"]
    if not isinstance(texts, (list, tuple)):
        kind = type(texts).__name__
        raise errors.DataError(f"field 'responses': expected a list, found {kind}")
    if not texts:
        raise errors.DataError("field 'responses': it has none")
    return _compared(row, [(text, "responses") for text in texts], _values(row))


def _label(row: Mapping[str, Any]) -> records.Comparison:
    label = row["label"]
    if label not in (0, 1):
        raise errors.DataError(f"field 'label': {label!r} is not true or false")
    values = {**_values(row), "desirable": float(label)}
    return _compared(row, [(row["completion"], "completion")], values)


def _rating(row: Mapping[str, Any]) -> records.Comparison:
    target = row["target"]
    target = target if isinstance(target, (list, tuple)) else (target,)
    values = {**_values(row), "target": tuple(map(_number, target))}
    return _compared(row, [(row["response"], "response")], values)


def _compared(
    row: Mapping[str, Any], responses: Sequence[tuple[Any, str]], values: dict[str, Any]
) -> records.Comparison:
    """Responses, each with the name of its field, to the row's prompt."""
    texts = tuple(_response(text, name) for text, name in responses)
    return records.Comparison(
        _prompt(row["prompt"]), texts, values, _weight(row), **_of_template(row)
    )


for _name, _format in {
    "text": Format(_text, ("text",), ()),
    "messages": Format(_messages, ("messages",), ("weight", *OF_TEMPLATE), version=4),
    "prompt_response": Format(
        _prompt_response, ("prompt", "response"), ("weight", *OF_TEMPLATE)
    ),
    "preference": Format(_preference, SIDES, ("prompt", *SCORES, *EXTRA)),
    "hh": Format(_hh, SIDES, OF_GROUP, version=2),
    "ranking": Format(_ranking, ("prompt", "responses"), EXTRA),
    "label": Format(_label, ("prompt", "completion", "label"), EXTRA),
    "rating": Format(_rating, ("prompt", "response", "target"), EXTRA),
}.items():
    FORMATS.register(_format, _name)

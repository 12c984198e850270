# SPDX-License-Identifier: Apache-2.0
"""Rows of data sets to records: what the columns of well-known formats mean.

To add one, write `(row) -> record` that raises a DataError for a bad row, and register
it here or name it in the config as `format = "module:function"`.

    text             {text}
    messages         {messages: [{role, content}]}; Tulu 3's SFT mixture; see `messages`
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
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors, registry
from alignjax.data import messages, records
from alignjax.data.chat import comparisons

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
HUMAN, REPLY = "\n\nHuman:", "\n\nAssistant:"  # of transcripts


class Format(NamedTuple):
    """A row-dict to a record, and the columns that it reads; `optional` None is any."""

    read: Callable[[Mapping[str, Any]], Any]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] | None = None
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

    def columns(self, names: Sequence[str], where: str) -> list[str]:
        """Those of the columns of the data at `where` that are read, in its order.

        Raises a DataError if a required one is not among them, or one is there twice.
        """
        if missing := [name for name in self.required if name not in names]:
            remedy = registry.closest(missing[0], names)
            raise errors.DataError(f"{where}: no column {missing[0]!r}; {remedy}")
        read = lambda x: self.optional is None or x in (*self.required, *self.optional)
        columns = [name for name in names if read(name)]
        if twice := [name for name in columns if columns.count(name) > 1]:
            raise errors.DataError(f"{where}: two columns {twice[0]!r}; rename one")
        return columns


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
    if format != "text" and field != "text":
        raise errors.ConfigError(
            f'field: {field!r} is of the format "text"; columns = {{...}} renames what '
            f"{format!r} reads"
        )
    try:
        form = FORMATS.find(format)
    except ValueError as error:
        raise errors.ConfigError(f"format: {error}") from error
    form = form if isinstance(form, Format) else Format(form)
    identity: dict[str, Any] = {
        "format": [format, form.version],
        "columns": dict(columns),
    }
    if format == "text":
        columns = {"text": field, **columns}
        identity = {"field": columns["text"]}
        form = form._replace(read=functools.partial(_text, name=columns["text"]))
    names = None if form.optional is None else (*form.required, *form.optional)
    for name in columns:
        if names is not None and name not in names:
            remedy = registry.closest(name, names)
            raise errors.ConfigError(f"columns: {format!r} reads no {name!r}; {remedy}")
    renamed = lambda names: tuple(columns.get(name, name) for name in names)
    required = renamed(form.required)

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

    optional = None if form.optional is None else renamed(form.optional)
    return Reader(read, required, optional, identity)


def guess(row: Mapping[str, Any]) -> str:
    """The format that has the columns of a row, the one that reads most of them.

    Raises:
      DataError: there is none.
    """
    names = [name for name in FORMATS if {*FORMATS[name].required} <= {*row}]
    if not names:
        needs = "; ".join(f"{n}: {', '.join(f.required)}" for n, f in FORMATS.items())
        raise errors.DataError(
            f"no format has the columns {', '.join(row) or 'of an empty row'}; the "
            f"formats and what they need are {needs}; columns = {{...}} renames, such "
            'as {"messages": "conversations"}'
        )
    if isinstance(row.get("chosen"), str) and row["chosen"].startswith((HUMAN, REPLY)):
        return "hh"
    return max(names, key=lambda name: len(FORMATS[name].required))


def as_it_is(row: Mapping[str, Any]) -> Any:
    """The row itself, as a dict, so that rewards can read all of its columns."""
    return dict(row)


def prompt(row: Mapping[str, Any]) -> str | list[Mapping[str, Any]]:
    """The prompt of a row, a text or messages, as `Run.reply` takes it.

    It is the column `prompt`, or else `messages`. Raises a DataError without either.
    """
    names = "prompt", "messages"
    for name in names:
        if (value := row.get(name)) is not None:
            if isinstance(value, str):
                return _checked(value, name)
            messages.dialogue(value, name)
            return value
    for name in names:
        if name in row:
            raise errors.DataError(f"field {name!r}: null; give a text or messages")
    raise errors.DataError(
        f"no prompt and no messages; it has {', '.join(row)}; give the column of the "
        "prompts the name prompt"
    )


# Fields of rows.


def _checked(text: Any, name: str) -> str:
    if fault := records.fault_of_text(text):
        raise errors.DataError(f"field {name!r}: {fault}")
    return text


def _prompt(value: Any) -> tuple[records.Turn, ...]:
    """The turns of a prompt: the user's text, or messages."""
    if isinstance(value, str):
        return ((USER, _checked(value, "prompt")),)
    return messages.turns(value, "prompt")


def _response(value: Any, name: str) -> str:
    """A response: a text, or one message of the assistant."""
    if not isinstance(value, str):
        turns = messages.turns(value, name)
        roles = [role for role, _ in turns]
        if roles != [ASSISTANT]:
            raise errors.DataError(
                f"field {name!r}: expected one turn of the assistant, found "
                f"{', '.join(roles)}"
            )
        value = turns[0][1]
    return _checked(value, name)


def of_template(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `OF_TEMPLATE`, as fields of records."""
    tools, variables = (
        messages.parsed(messages.plain(row.get(name) or None, where), where)
        for name, where in ((name, f"field {name!r}") for name in OF_TEMPLATE)
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


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `comparisons.VALUES`."""
    values = {k: row[k] for k in comparisons.VALUES if row.get(k) is not None}
    return {
        name: tuple(map(messages.number, value))
        if isinstance(value, (list, tuple))
        else messages.number(value)
        for name, value in values.items()
    }


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of two sides, if they are there, as `comparisons.VALUES`."""
    scores = {k: messages.number(row[k]) for k in SCORES if row.get(k) is not None}
    for name, score in scores.items():
        if reason := records.fault_of_number(score):
            raise errors.DataError(f"field {name!r}: {reason}")
    if len(scores) == 1:
        both = " and ".join(SCORES)
        raise errors.DataError(f"{next(iter(scores))} alone; give both {both}")
    rewards = tuple(scores.values())
    return {"reward": rewards, "gap": rewards[0] - rewards[1]} if rewards else {}


def _weight(row: Mapping[str, Any]) -> Any:
    return 1.0 if row.get("weight") is None else messages.number(row["weight"])


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
    if any(side[-1][0] != ASSISTANT for side in sides):
        raise errors.DataError("chosen and rejected must end in the assistant's turn")
    if len(first) == len(second) and first[:-1] == second[:-1]:
        return first[:-1]
    pairs = zip(first, second, strict=False)
    apart = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), None)
    apart = apart or min(len(first), len(second)) + 1
    raise errors.DataError(
        f"chosen and rejected, of {len(first)} and {len(second)} turns, part at turn "
        f"{apart}, before the last: they are no replies to one prompt"
    )


# Rows.


def _text(row: Mapping[str, Any], name: str = "text") -> records.Text:
    return records.Text(_checked(row[name], name))


def _messages(row: Mapping[str, Any]) -> records.Chat:
    turns, fields, skipped = messages.dialogue(row["messages"], "messages")
    more = {"fields": fields, "skipped": skipped, **of_template(row)}
    return records.Chat(turns, _weight(row), **more)


def _prompt_response(row: Mapping[str, Any]) -> records.Chat:
    turns = (
        *_prompt(row["prompt"]),
        (ASSISTANT, _response(row["response"], "response")),
    )
    return records.Chat(turns, _weight(row), **of_template(row))


def _preference(row: Mapping[str, Any]) -> records.Comparison:
    values, texts = {**_scores(row), **_values(row)}, [row[name] for name in SIDES]
    prompt_field = row.get("prompt")
    if all(isinstance(text, str) for text in texts):
        if prompt_field is None:
            raise errors.DataError(
                "no prompt, and chosen and rejected are plain texts: where a prompt "
                "ends inside of them cannot be known; give it, or messages"
            )
        return _compared(row, _prompt(prompt_field), texts, SIDES, values)
    sides = [messages.turns(row[name], name) for name in SIDES]
    prompt, texts = _shared(sides), [side[-1][1] for side in sides]
    if not prompt:
        return _compared(row, _prompt(prompt_field), texts, SIDES, values)
    if isinstance(prompt_field, str):
        same = prompt_field in [text for _, text in prompt]
    else:
        same = prompt_field is None or messages.turns(prompt_field, "prompt") == prompt
    if not same:
        raise errors.DataError("the prompt is not what chosen and rejected begin with")
    return _compared(row, prompt, texts, SIDES, values)


def _hh(row: Mapping[str, Any]) -> records.Comparison:
    sides = [_transcript(row[name], name) for name in SIDES]
    responses = tuple(side[-1][1] for side in sides)
    return records.Comparison(_shared(sides), responses, _values(row), _weight(row))


def _ranking(row: Mapping[str, Any]) -> records.Comparison:
    texts = row["responses"]
    if not isinstance(texts, (list, tuple)) or not texts:
        kind = "none" if isinstance(texts, (list, tuple)) else type(texts).__name__
        raise errors.DataError(f"field 'responses': expected a list, found {kind}")
    names = ["responses"] * len(texts)
    return _compared(row, _prompt(row["prompt"]), texts, names, _values(row))


def _label(row: Mapping[str, Any]) -> records.Comparison:
    label = row["label"]
    if label not in (0, 1):
        raise errors.DataError(f"field 'label': {label!r} is not true or false")
    values = {**_values(row), "desirable": float(label)}
    texts = [row["completion"]]
    return _compared(row, _prompt(row["prompt"]), texts, ["completion"], values)


def _rating(row: Mapping[str, Any]) -> records.Comparison:
    target = row["target"]
    target = target if isinstance(target, (list, tuple)) else (target,)
    values = {**_values(row), "target": tuple(map(messages.number, target))}
    texts = [row["response"]]
    return _compared(row, _prompt(row["prompt"]), texts, ["response"], values)


def _compared(
    row: Mapping[str, Any],
    prompt: tuple[records.Turn, ...],
    responses: Sequence[Any],
    names: Sequence[str],
    values: dict[str, Any],
) -> records.Comparison:
    """A comparison of responses, which are of the fields `names`."""
    texts = tuple(map(_response, responses, names))
    return records.Comparison(prompt, texts, values, _weight(row), **of_template(row))


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

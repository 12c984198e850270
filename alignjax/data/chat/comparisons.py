# SPDX-License-Identifier: Apache-2.0
"""Comparisons as an objective wants them: made of one another, checked, tokenised.

A document of the token cache is the tokens of a prompt, then those of its K responses
one after the other; how long each of them is, what the group counts and what is known
of it are the fields of the document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax import errors
from alignjax.data import records
from alignjax.data.chat import faults, templates
from alignjax.data.chat import format as chat
from alignjax.data.tokenizers import base
from alignjax.data.tokens import tokenizing

# What can be known of a comparison: a number, one for each response, or any of them.
OF_GROUP = ("margin", "gap", "probability", "desirable")
OF_RESPONSES = ("reward",)
FREE = ("target",)
VALUES = (*OF_GROUP, *OF_RESPONSES, *FREE)
# What says how much better the first response is: 0 is a tie.
ORDERS = ("margin", "gap")
LENGTHS, WEIGHT = "lengths", "weight"


def tokenize(
    tok: base.Tokenizer,
    groups: Sequence[records.Comparison],
    *,
    format: str,
    bos: bool,
    data: str,
) -> list[tokenizing.Tokens]:
    """Comparisons, each a prompt and its responses in `chat`'s format.

    Args:
      data: what they are to be: "pairs", "rankings", "labels" or "ratings".

    Raises:
      ConfigError: a tokenizer that cannot write dialogues.
      DataError: a comparison that is none; see `fault`.
    """
    chat.check(tok, format, bos)
    form = chat.of(tok, format)
    for group in groups:
        if reason := fault(group, data, format):
            raise errors.DataError(reason)
    rows = []
    replies = form.replies(groups, bos)
    for group, (prompt, found) in zip(groups, replies, strict=True):
        if reason := _fault_of_tokens(found):
            raise errors.DataError(reason)
        fields = {LENGTHS: (len(prompt), *map(len, found)), WEIGHT: group.weight}
        ids = np.concatenate([prompt, *found])
        rows.append(tokenizing.Tokens(ids, None, {**fields, **group.values}))
    return rows


tokenize.key = "alignjax.data.comparisons:tokenize"  # see `cache.build`


def fault(group: Any, data: str, format: str = "roles") -> str | None:
    """Why this cannot be trained on as `data`, or None if it can.

    Args:
      format: of the prompt; see `chat`.
    """
    if not isinstance(group, records.Comparison):
        kind = type(group).__name__
        return f"expected responses to a prompt, found {kind}; {data} need them"
    found = faults.of_prompt(group.prompt, templates.is_literal(format))
    found = found or faults.of_weight(group.weight)
    for i, text in enumerate(group.responses, start=1):
        if not found and (reason := records.fault_of_text(text)):
            found = f"response {i} of {len(group.responses)}: {reason}"
    found = found or _fault_of_equals(group.responses, "are equal")
    return found or _fault_of_values(group) or _fault_of_kind(group, data)


def _fault_of_kind(group: records.Comparison, data: str) -> str | None:
    count, values = len(group.responses), group.values
    expected = {"pairs": 2, "labels": 1, "ratings": 1}.get(data, max(2, count))
    if count != expected:
        return f"{count} responses, where {data} have {expected}"
    if data == "labels" and values.get("desirable") not in (0, 1):
        return (
            f"desirable is {values.get('desirable')!r}, not 1 or 0: {data} say whether "
            "a response is good"
        )
    if data == "ratings" and "target" not in values:
        return "neither a target nor a reward: ratings say how good a response is"
    if data in ("pairs", "rankings"):
        for name in ORDERS:
            if name in values and not values[name] >= records.LEAST:
                return (
                    f"{name} is {values[name]}: a tie, or the wrong way round; "
                    f"{data} put the better response first"
                )
    return None


def _fault_of_values(group: records.Comparison) -> str | None:
    for name, value in group.values.items():
        if name not in VALUES:
            return f"unknown value {name!r}; known: {', '.join(VALUES)}"
        several = isinstance(value, (tuple, list))
        if several == (name in OF_GROUP):
            kind = "one number" if name in OF_GROUP else "a list of numbers"
            return f"{name}: {value!r} should be {kind}"
        if several and not value:
            return f"{name}: an empty list; give a number, or leave it out"
        if name in OF_RESPONSES and len(value) != len(group.responses):
            count = len(group.responses)
            return f"{name}: {len(value)} numbers for {count} responses"
        for number in value if several else (value,):
            if reason := records.fault_of_number(number):
                return f"{name}: {reason}"
    if not 0 <= group.values.get("probability", 0.5) <= 1:
        return f"probability: {group.values['probability']} is not in [0, 1]"
    return None


def _fault_of_tokens(responses: Sequence[Sequence[int]]) -> str | None:
    return _fault_of_equals(
        list(map(tuple, responses)), "are the same tokens, though not the same text"
    )


def _fault_of_equals(responses: Sequence[Any], how: str) -> str | None:
    if len(set(responses)) == len(responses):
        return None
    first: dict[Any, int] = {}
    for i, response in enumerate(responses, start=1):
        if response in first:
            return f"responses {first[response]} and {i} {how}"
        first[response] = i
    return None


def maker(data: str) -> Callable[[Any], list[Any]]:
    """The function that makes what `data` asks for of a record.

    Pairs come of rankings, the best against the last; labels and ratings of pairs and
    rankings, by taking them apart; and dialogues, "chat", of all of them, with the best
    response. What cannot be made is left for `fault` to refuse.
    """
    return {
        "pairs": lambda record: [_pair(record)],
        "rankings": lambda record: [record],
        "labels": _labels,
        "ratings": _ratings,
        "chat": lambda record: [_dialogue(record)],
    }[data]


def _dialogue(group: Any) -> Any:
    if not isinstance(group, records.Comparison):
        return group
    if len(group.responses) == 1 and group.values.get("desirable") != 1:
        return records.BadRow("a response that nobody called good: not to be imitated")
    turns = (*group.prompt, (chat.ASSISTANT, group.responses[0]))
    return records.Chat(turns, group.weight)


def _pair(group: Any) -> Any:
    if not _several(group) or len(group.responses) == 2 or _fault_of_values(group):
        return group
    ends = (group.responses[0], group.responses[-1])
    values = {}
    if "reward" in group.values:
        values["reward"] = (group.values["reward"][0], group.values["reward"][-1])
    return group._replace(responses=ends, values=values)


def _labels(group: Any) -> list[Any]:
    if not _several(group):
        return [group]
    pair = _pair(group)
    if reason := fault(pair, "pairs"):
        return [records.BadRow(reason)]
    return [_single(pair, k, {"desirable": float(k == 0)}) for k in range(2)]


def _ratings(group: Any) -> list[Any]:
    if not isinstance(group, records.Comparison) or "reward" not in group.values:
        return [group]
    if "target" in group.values:
        return [group]
    if reason := _fault_of_values(group):
        return [records.BadRow(reason)]
    return [
        _single(group, k, {"target": (group.values["reward"][k],)})
        for k in range(len(group.responses))
    ]


def _single(group: records.Comparison, k: int, values: Mapping[str, Any]) -> Any:
    reward = group.values.get("reward")
    known = {} if reward is None else {"reward": (reward[k],)}
    response = (group.responses[k],)
    return group._replace(responses=response, values={**known, **values})


def _several(group: Any) -> bool:
    return isinstance(group, records.Comparison) and len(group.responses) > 1

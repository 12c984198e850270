# SPDX-License-Identifier: Apache-2.0
"""Comparisons converted to a kind of data, checked and tokenised.

A document of the token cache is the tokens of a prompt, then those of its K responses
one after the other; their lengths, the weight of the group and its values are the
fields of the document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data import records
from alignjax.data.chat import format as chat
from alignjax.data.tokenizers import base
from alignjax.data.tokens import tokenizing

# Values of a comparison: one number, one for each response, or any number of them.
OF_GROUP = ("margin", "gap", "probability", "desirable")
OF_RESPONSES = ("reward",)
FREE = ("target",)
VALUES = (*OF_GROUP, *OF_RESPONSES, *FREE)
# Values that say by how much the first response is better: 0 is a tie.
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
    """Comparisons of the kind `data`, each a prompt and its responses in a format.

    Raises a DataError for one that is not of the kind; see `fault`.
    """
    form = chat.of(tok, format)
    for group in groups:
        if reason := fault(group, data, form.literal):
            raise errors.DataError(reason)
    rows = []
    replies = form.replies(groups, bos)
    for group, (prompt, responses) in zip(groups, replies, strict=True):
        alike = "are the same tokens, though not the same text"
        if reason := _fault_of_equals(list(map(tuple, responses)), alike):
            raise errors.DataError(reason)
        lengths = (len(prompt), *map(len, responses))
        fields = {LENGTHS: lengths, WEIGHT: group.weight}
        ids = np.concatenate([prompt, *responses])
        rows.append(tokenizing.Tokens(ids, None, {**fields, **group.values}))
    return rows


tokenize.key = "alignjax.data.comparisons:tokenize"  # see `cache.build`


def fault(group: Any, data: str, literal: bool = True) -> str | None:
    """Why a record is not of the kind `data`, or None; see `templates.BuiltIn`."""
    if not isinstance(group, records.Comparison):
        kind = type(group).__name__
        return f"expected responses to a prompt, found {kind}; {data} need them"
    return (
        chat.fault(group.chat(), literal, prompt=True)
        or records.fault_of_weight(group.weight)
        or _fault_of_texts(group.responses)
        or _fault_of_equals(group.responses, "are equal")
        or _fault_of_values(group)
        or _fault_of_count(group, data)
        or KINDS[data].fault(group)
    )


def _fault_of_texts(responses: Sequence[str]) -> str | None:
    for i, text in enumerate(responses, start=1):
        if reason := records.fault_of_text(text):
            return f"response {i} of {len(responses)}: {reason}"
    return None


def _fault_of_count(group: records.Comparison, data: str) -> str | None:
    count = len(group.responses)
    expected = KINDS[data].responses or max(2, count)
    same = count == expected
    return None if same else f"{count} responses, where {data} have {expected}"


def _fault_of_order(group: records.Comparison) -> str | None:
    for name in ORDERS:
        value = group.values.get(name, records.LEAST)
        if not value >= records.LEAST:
            remedy = "put the better response first"
            return f"{name} is {value}: a tie, or the wrong way round; {remedy}"
    return None


def _fault_of_label(group: records.Comparison) -> str | None:
    if (label := group.values.get("desirable")) in (0, 1):
        return None
    return f"desirable is {label!r}, not 1 or 0: labels say whether a response is good"


def _fault_of_rating(group: records.Comparison) -> str | None:
    if "target" in group.values:
        return None
    return "neither a target nor a reward: ratings say how good a response is"


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


def _fault_of_equals(responses: Sequence[Any], how: str) -> str | None:
    first: dict[Any, int] = {}
    for i, response in enumerate(responses, start=1):
        if response in first:
            return f"responses {first[response]} and {i} {how}"
        first[response] = i
    return None


def dialogue(group: Any) -> Any:
    """A comparison as a dialogue with its best response; other records unchanged."""
    if not isinstance(group, records.Comparison):
        return group
    if len(group.responses) == 1 and group.values.get("desirable") != 1:
        return records.BadRow("a response that is not labelled good: not to be learned")
    return group.chat((records.ASSISTANT, group.responses[0]))


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
    values = group.values if isinstance(group, records.Comparison) else {}
    if "reward" not in values or "target" in values:
        return [group]
    if reason := _fault_of_values(group):
        return [records.BadRow(reason)]
    rewards = enumerate(values["reward"])
    return [_single(group, k, {"target": (reward,)}) for k, reward in rewards]


def _single(group: records.Comparison, k: int, values: Mapping[str, Any]) -> Any:
    if "reward" in group.values:
        values = {"reward": (group.values["reward"][k],), **values}
    return group._replace(responses=(group.responses[k],), values=values)


def _several(group: Any) -> bool:
    return isinstance(group, records.Comparison) and len(group.responses) > 1


class Kind(NamedTuple):
    """A kind of data, one of `types.Data` but text.

    Attributes:
      responses: of a group, or None for two or more.
      convert: a record to records of this kind, where there is a way; else as it is.
      fault: why a group with that many responses is not of this kind, or None.
    """

    responses: int | None
    convert: Callable[[Any], list[Any]]
    fault: Callable[[records.Comparison], str | None]


# A pair is made of a ranking's best and last response; labels and ratings by taking
# pairs and rankings apart.
KINDS = {
    "pairs": Kind(2, lambda record: [_pair(record)], _fault_of_order),
    "rankings": Kind(None, lambda record: [record], _fault_of_order),
    "labels": Kind(1, _labels, _fault_of_label),
    "ratings": Kind(1, _ratings, _fault_of_rating),
}

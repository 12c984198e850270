# SPDX-License-Identifier: Apache-2.0
"""Checks the arguments of generation, all of them before the first token."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from alignjax import errors
from alignjax.sampling import distribution, text
from alignjax.types import Model


class Request(NamedTuple):
    """Rows of prompts and seeds, and what is the same for all of them."""

    prompts: list[list[int]]
    seeds: list[int]
    max_tokens: int
    settings: distribution.Settings
    stop: list[str]
    stop_ids: list[int]
    batch_size: int


def make(
    model: Model,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop: Sequence[str],
    stop_ids: Sequence[int] | None,
    seeds: Sequence[int] | None,
    batch_size: int,
    **filters,
) -> Request:
    """The checked request that these arguments of `generate` make.

    Raises:
      ConfigError: values that do not fit, all of them at once.
    """
    problems: list[str] = []
    try:
        settings = distribution.settings(**filters)
    except errors.ConfigError as error:
        problems += error.problems
    for name, value in dict(max_tokens=max_tokens, batch_size=batch_size).items():
        if not _is_int(value) or value < 1:
            problems.append(f"{name}: {value!r} is not a whole number from 1 up")
    stop = _listed("stop", stop, problems)
    for string in stop:
        if not isinstance(string, str) or not string or text.UNDECODED in string:
            problems.append(
                f"stop: {string!r} is not a string of a character or more, without "
                "U+FFFD, which stands for no text"
            )
    if stop_ids is None:
        ends = (*getattr(tokenizer, "stop_ids", ()), tokenizer.eos_id)
        stop_ids = list(dict.fromkeys(i for i in ends if i is not None))
    V, max_length = tokenizer.vocab_size, model.config.max_length
    stop_ids = _ints("stop_ids", stop_ids, V, "token", problems)
    prompts = _listed("prompts", prompts, problems)
    rows = [
        _row(tokenizer, f"prompts[{i}]", p, problems) for i, p in enumerate(prompts)
    ]
    seeds = range(len(rows)) if seeds is None else seeds
    seeds = _ints("seeds", seeds, 2**32, "seed", problems)
    if not problems and len(seeds) != len(rows):
        problems.append(f"seeds: {len(seeds)} for {len(rows)} prompts; give one each")
    for i, row in enumerate([] if problems else rows):
        if len(row) + max_tokens > max_length:
            remedy = f"set max_tokens to {max_length - len(row)} at most"
            if len(row) >= max_length:
                surplus = len(row) - max_length + 1
                remedy = f"shorten the prompt by {surplus} tokens at least"
            problems.append(
                f"prompts[{i}]: {len(row)} tokens and max_tokens = {max_tokens} are "
                f"more than the model's max_length = {max_length}; {remedy}"
            )
    problems += [] if problems else too_long(model, [*map(len, rows)], max_tokens)
    if problems:
        raise errors.ConfigError(problems)
    return Request(rows, seeds, max_tokens, settings, stop, stop_ids, batch_size)


def too_long(model: Model, lengths: Sequence[int], max_tokens: int) -> list[str]:
    """What is wrong where a text may get other frequencies than those in its cache.

    Args:
      lengths: tokens of each prompt. A cache has more slots, for padding.
      max_tokens: of each response, the last of which is never read.
    """
    limit, longest = model.config.short_length, max(lengths, default=0)
    if limit is None or longest - 1 + max_tokens <= limit:
        return []
    remedy = f"set max_tokens to {limit + 1 - longest} at most"
    if longest > limit:
        remedy = f"shorten the prompt by {longest - limit} tokens at least"
    problem = (
        f"prompts[{list(lengths).index(longest)}]: {longest} tokens, the longest, and "
        f"max_tokens = {max_tokens} are more than model.rope_scaling.original_length "
        f"= {limit}, beyond which longrope has other frequencies, so that the text "
        f"would have to be read again on the way; {remedy}, or set short_factor there "
        "to the numbers of long_factor"
    )
    return [problem]


def encode(tokenizer, prompt: str) -> list[int]:
    """The tokens of a text that starts a document.

    Raises:
      ConfigError: it is no Unicode, as of arguments that are not UTF-8.
    """
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    try:
        return start + tokenizer.encode(prompt)
    except UnicodeEncodeError as error:
        raise errors.ConfigError(
            f"{prompt!r:.60} is no Unicode text, at character {error.start}"
        ) from error


# The functions below append what is wrong with a value to `problems`.


def _row(tokenizer, name: str, prompt, problems: list[str]) -> list[int]:
    before = len(problems)
    row = []
    if isinstance(prompt, str):
        try:
            row = encode(tokenizer, prompt)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    else:
        row = _ints(name, prompt, tokenizer.vocab_size, "token", problems)
    if not row and len(problems) == before:
        problems.append(
            f"{name}: empty, and the tokenizer has no start of document to begin "
            "with; give at least one token"
        )
    return row


def _ints(name: str, values, end: int, noun: str, problems: list[str]) -> list[int]:
    values = _listed(name, values, problems)
    bad = [x for x in values if not _is_int(x) or not 0 <= x < end]
    if bad:
        problems.append(f"{name}: {bad[0]!r} is not a {noun}; they are 0 to {end - 1}")
    return [] if bad else [int(x) for x in values]


def _listed(name: str, value, problems: list[str]) -> list:
    if not isinstance(value, str):
        try:
            return list(value)
        except TypeError:
            pass
    problems.append(f"{name}: {value!r} is no list; give one")
    return []


def _is_int(value) -> bool:
    """Also for numpy's integers, which tokens and seeds often are."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)

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
    stop, faults = _listed("stop", stop)
    problems += faults + _stop_problems(stop)
    if stop_ids is None:
        ends = (*getattr(tokenizer, "stop_ids", ()), tokenizer.eos_id)
        stop_ids = list(dict.fromkeys(i for i in ends if i is not None))
    stop_ids, faults = _tokens("stop_ids", stop_ids, tokenizer.vocab_size)
    problems += faults
    rows, faults = _rows(tokenizer, prompts)
    problems += faults
    seeds, faults = _listed("seeds", range(len(rows)) if seeds is None else seeds)
    problems += faults
    if not faults and len(seeds) != len(rows):
        problems.append(f"seeds: {len(seeds)} for {len(rows)} prompts; give one each")
    for seed in seeds:
        if not _is_int(seed) or not 0 <= seed < 2**32:
            problems.append(f"seeds: {seed!r} is not a whole number in [0, 2^32)")
    if not problems:
        problems += _length_problems(rows, max_tokens, model.config.max_length)
    if problems:
        raise errors.ConfigError(problems)
    seeds = [int(seed) for seed in seeds]
    return Request(rows, seeds, max_tokens, settings, stop, stop_ids, batch_size)


def _rows(tokenizer, prompts) -> tuple[list[list[int]], list[str]]:
    """The prompts as tokens, and what is wrong with them."""
    prompts, problems = _listed("prompts", prompts)
    rows = []
    for i, prompt in enumerate(prompts):
        name = f"prompts[{i}]"
        rows.append([])
        if isinstance(prompt, str):
            try:
                rows[-1] = encode(tokenizer, prompt)
            except ValueError as error:
                problems.append(f"{name}: {error}")
                continue
        else:
            rows[-1], faults = _tokens(name, prompt, tokenizer.vocab_size)
            if faults:
                problems += faults
                continue
        if not rows[-1]:
            problems.append(
                f"{name}: empty, and the tokenizer has no start of document to begin "
                "with; give at least one token"
            )
    return rows, problems


def encode(tokenizer, prompt: str) -> list[int]:
    """The tokens of a text that starts a document."""
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return start + tokenizer.encode(prompt)


def _is_int(value) -> bool:
    """Also for numpy's integers, which tokens and seeds often are."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _listed(name: str, value) -> tuple[list, list[str]]:
    """A list of what should be several, and what is wrong if it is not."""
    if isinstance(value, str):
        return [], [f"{name}: {value!r} is one text; give a list of them"]
    try:
        return list(value), []
    except TypeError:
        return [], [f"{name}: {value!r} is no list; give one"]


def _tokens(name: str, tokens, vocab_size: int) -> tuple[list[int], list[str]]:
    ids, problems = _listed(name, tokens)
    bad = [t for t in ids if not _is_int(t) or not 0 <= t < vocab_size]
    if bad:
        return [], [
            f"{name}: {bad[0]!r} is not a token; they are 0 to {vocab_size - 1}"
        ]
    return [int(token) for token in ids], problems


def _stop_problems(stop: list) -> list[str]:
    problems = []
    for string in stop:
        if not isinstance(string, str) or not string:
            problems.append(f"stop: {string!r} is not a string of a character or more")
        elif text.UNDECODED in string:
            problems.append(f"stop: {string!r} has U+FFFD, which stands for no text")
    return problems


def _length_problems(rows, max_tokens: int, max_length: int) -> list[str]:
    return [
        f"prompts[{i}]: {len(row)} tokens and max_tokens = {max_tokens} are more than "
        f"the model's max_length = {max_length}; "
        + (
            f"set max_tokens to {max_length - len(row)} at most"
            if len(row) < max_length
            else f"shorten the prompt by {len(row) - max_length + 1} tokens at least"
        )
        for i, row in enumerate(rows)
        if len(row) + max_tokens > max_length
    ]

# SPDX-License-Identifier: Apache-2.0
"""From the section `data` of a config to a dataset, whose rows are fetched ahead."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from alignjax import bounds, config, errors
from alignjax.data import dataset, records, shuffle, sources
from alignjax.data.chat import comparisons, dialogues, templates
from alignjax.data.chat import format as chat
from alignjax.data.packing import groups, text
from alignjax.data.tokenizers import base
from alignjax.data.tokens import cache, tokenizing

T = TypeVar("T")
BLOCK = 1 << 20  # documents that are split into training and validation at a time


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The section `data` of a config.

    Attributes:
      sources: `{name: {"kind": ..., "weight": 1.0, option: value, ...}}`; the options
        are those of `alignjax.data.sources.<kind>.load`. Weights are proportions of
        rows.
      validation_sources: the same, for data with a validation set of its own; then
        `validation_fraction` is 0.
      validation_fraction: the share of the data that is held out.
      validation_by: "hash" holds out documents by a hash of their text, "tail" the last
        tokens of each source, which suits a corpus of a few long documents.
      on_bad_row: "error" lists them all and stops, "skip" leaves them out, counted.
      pack: "best_fit", several documents a row; "none", one piece of a document a row.
      long_documents: for documents longer than the context: "split" them into pieces,
        "error", or "skip" them, counted. Groups of responses are never split;
        "truncate_prompt" leaves out the beginning of a prompt, counted.
      chat: the format of dialogues: "inherit", that of the run in `init.run`, or else
        "roles"; "tokenizer", the template that came with it; a built-in template,
        "roles", "chatml", "gemma", "llama3", "mistral" or "world"; or the path of a
        .jinja file. None for plain text.
      train_on: the turns of the assistant that are learned, "all" or the "last";
        "everything" is every token, of other documents too, as in pretraining.
        Messages of weight 0 are never learned.
      share_prompt: whether the responses of a group are branches of one prompt; else
        each has its own copy.
      groups_per_row: the most groups in a row; None for as many as fit, or of responses
        that the policy draws as many as are fastest; see `rollouts.packing`.
      bos: whether documents start with the tokenizer's start token; None is as in the
        run of `init.run`, or False.
      workers: processes that tokenise; None means one for each processor.
    """

    sources: dict
    validation_sources: dict = dataclasses.field(default_factory=dict)
    validation_fraction: bounds.Share = 0.01
    validation_by: Literal["hash", "tail"] = "hash"
    on_bad_row: Literal["error", "skip"] = "error"
    pack: Literal["best_fit", "none"] = "best_fit"
    long_documents: Literal["split", "error", "skip", "truncate_prompt"] = "split"
    chat: str | None = None
    train_on: Literal["all", "last", "everything"] = "all"
    share_prompt: bool = False
    groups_per_row: bounds.Size | None = None
    bos: bool = False
    workers: bounds.Processes | None = None

    def __post_init__(self):
        problems = []
        if not self.sources:
            problems.append("sources: name at least one source")
        for field in ("sources", "validation_sources"):
            for name, section in getattr(self, field).items():
                problems += [
                    f"{field}.{name}.{problem}" for problem in _source_problems(section)
                ]
        if self.validation_sources and self.validation_fraction:
            problems.append(
                f"validation_fraction: {self.validation_fraction} beside "
                "validation_sources; set it to 0 or leave them out"
            )
        if problems:
            raise errors.ConfigError(problems)


def _source_problems(section: Any) -> list[str]:
    if not hasattr(section, "items"):
        return [f"expected options, found {section!r}"]
    problems = []
    if not isinstance(section.get("kind"), str):
        problems.append(f"kind: required; known: {', '.join(sources.KINDS)}")
    try:
        config.cast(_weight(section), bounds.Positive)
    except ValueError as error:
        problems.append(f"weight: {error}")
    return problems


def _weight(section: Mapping) -> Any:
    return 1.0 if section.get("weight") is None else section["weight"]


def load_sources(sections: dict, path: str) -> dict[str, records.Source]:
    """The opened sources of a section of the config, which is at `path`.

    Raises a ConfigError for an unknown kind or option, a DataError for missing files.
    """
    opened = {}
    for name, section in config.to_json(sections).items():
        own = ("kind", "weight")
        options = {k: v for k, v in section.items() if k not in own and v is not None}
        try:
            with config.errors_at(f"{path}.{name}"):
                opened[name] = sources.load(section["kind"], options)
        except errors.DataError as error:
            raise errors.DataError(f"{path}.{name}: {error}") from error
    return opened


def build(
    cfg: DataConfig,
    tok: base.Tokenizer,
    *,
    length: int,
    seed: int,
    cache_dir: str | Path,
    split: Literal["train", "validation"] = "train",
    data: str = "text",
    values: Sequence[str] = (),
    mismatched: bool = False,
) -> dataset.Dataset:
    """The dataset of a split: tokenised, planned, ready for any row.

    Args:
      length: T, the targets of a row.
      cache_dir: the folder of tokens and plans, which runs share.
      data: the kind, one of `types.Data`. With `cfg.chat`, "text" is the assistant's
        turns of dialogues; the others are groups of responses, see `comparisons.KINDS`.
      values: the names of `comparisons.VALUES` that every comparison must have.
      mismatched: whether labelled responses come with one to another prompt each.

    Raises:
      ConfigError: settings that do not fit together, sources that lack a value, or
        validation without validation data.
      DataError: bad data, or a split without documents.
    """
    packing = text if data == "text" else groups
    problems = packing.problems(cfg, data)
    if split == "validation" and not (
        cfg.validation_fraction or cfg.validation_sources
    ):
        problems.append(
            "validation_fraction: 0 holds out nothing to validate on; raise it or name "
            "data.validation_sources"
        )
    if cfg.bos and tok.bos_id is None:
        problems.append("bos: True, but the tokenizer has no start token; set it False")
    if problems:
        raise errors.ConfigError([f"data.{problem}" for problem in problems])
    if cfg.chat is not None:
        tok = templates.with_template(tok, cfg.chat)
        chat.of(tok, cfg.chat)  # or a ConfigError
    own = split == "validation" and bool(cfg.validation_sources)
    field = "validation_sources" if own else "sources"
    fraction = 0.0 if own else cfg.validation_fraction
    sections = getattr(cfg, field)
    path = f"data.{field}"
    opened = load_sources(sections, path)
    caches = {}
    for name, source in opened.items():
        try:
            caches[f"{path}.{name}"] = _tokens(cfg, tok, source, data, cache_dir)
        except errors.DataError as error:
            raise errors.DataError(f"{path}.{name}: {error}") from error
    layout = packing.layout(
        cfg, length, tok=tok, caches=caches, values=values, mismatched=mismatched
    )
    parts, empty = [], {}
    for name, tokens in zip(opened, caches.values(), strict=True):
        spans, identity = _spans(cfg, tokens, split, fraction)
        plan = packing.plan(
            layout,
            tokens,
            spans,
            Path(cache_dir),
            token_bytes=tok.token_bytes,
            identity=identity,
        )
        if plan.num_rows:
            unknown = dataset.count_unknown(plan, tok.unknown_id, Path(cache_dir))
            weight = float(_weight(sections[name]))
            part = dataset.Part(name, weight, plan, unknown, opened[name].note)
            parts.append(part)
        else:
            empty[name] = plan.manifest
    if empty and (split == "train" or not parts):
        lines = [
            f"{path}.{name}: {_no_rows(cfg, counts, split, length, data)}"
            for name, counts in empty.items()
        ]
        raise errors.DataError("\n".join(lines))
    try:
        mixture = shuffle.mixture([part.weight for part in parts])
    except ValueError as error:
        raise errors.ConfigError(f"{path}: {error}") from error
    return dataset.Dataset(
        parts=tuple(parts),
        empty=tuple(empty),
        layout=layout,
        seed=seed,
        mixture=mixture,
        split=split,
    )


def _tokens(cfg, tok, source: records.Source, data: str, cache_dir):
    """The token cache of a source, whose records are converted to the kind of data."""
    settings: dict[str, Any] = {"bos": cfg.bos}
    convert = lambda record: [comparisons.dialogue(record)]
    if data != "text":
        tokenize, convert = comparisons.tokenize, comparisons.KINDS[data].convert
        settings |= {"format": cfg.chat, "data": data}
    elif cfg.train_on == "everything":
        tokenize = dialogues.tokenize_everything
        settings |= {"format": cfg.chat}
    elif cfg.chat is not None:
        tokenize = dialogues.tokenize
        settings |= {"format": cfg.chat, "train_on": cfg.train_on}
    else:
        tokenize, convert = tokenizing.tokenize_text, lambda record: [record]
    return cache.build(
        sources.mapped(source, lambda record: convert(records.plain(record))),
        tok,
        cache_dir,
        tokenize=tokenize,
        settings=settings,
        on_bad_row=cfg.on_bad_row,
        workers=cfg.workers,
    )


def _spans(cfg, tokens, split: str, fraction: float):
    """The documents of a split, as of `held_out_by_hash`, and what they follow from."""
    held_out = split == "validation" and fraction > 0
    identity = {"fraction": fraction, "held_out": held_out}
    if fraction:
        identity["by"] = cfg.validation_by
    by = held_out_by_hash if cfg.validation_by == "hash" else held_out_by_tail
    return by(tokens, fraction, held_out), identity


def held_out_by_hash(
    tokens: cache.TokenCache, fraction: float, held_out: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Documents by their text's hash, so that equal ones are on one side everywhere.

    Yields:
      Blocks of `(starts, ends)`, int64, the tokens of each document held out, or of
      each other one.
    """
    bound = np.uint64(shuffle.bound(fraction))
    for starts, ends, first in _documents(tokens):
        below = np.asarray(tokens.hashes[first : first + len(starts)]) < bound
        chosen = below if held_out else ~below
        yield starts[chosen], ends[chosen]


def held_out_by_tail(
    tokens: cache.TokenCache, fraction: float, held_out: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The last `fraction` of all tokens validates; the document at the cut is cut.

    For a corpus of one or a few long documents. Yields as `held_out_by_hash` does.
    """
    total = len(tokens.tokens)
    bound = total - round(total * fraction)
    for starts, ends, _ in _documents(tokens):
        if held_out:
            starts = np.maximum(starts, bound)
        else:
            ends = np.minimum(ends, bound)
        chosen = starts < ends
        yield starts[chosen], ends[chosen]


def _documents(tokens) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Blocks of all documents: their starts and ends, and the number of the first."""
    count = len(tokens.offsets) - 1
    for first in range(0, count, BLOCK):
        edges = np.array(tokens.offsets[first : min(first + BLOCK, count) + 1])
        yield edges[:-1], edges[1:], first


def _no_rows(cfg, counts: Mapping[str, int], split: str, length: int, data: str):
    """Why a source whose plan has these counts has no rows in a split; a remedy."""
    reasons = {"long": "are too long", "short": "have fewer than 2 tokens"}
    lost = [f"{counts[k]:,} {why}" for k, why in reasons.items() if counts.get(k)]
    reason = f"of {counts['documents']:,} documents {' and '.join(lost)}"
    reason = reason if lost else "it has no documents"
    if counts["long"]:
        remedy = f"raise length, which is {length}"
        if cfg.long_documents == "skip":
            other = "split" if data == "text" else "truncate_prompt"
            remedy += f', or say data.long_documents = "{other}"'
    elif not cfg.validation_fraction:
        remedy = "give more data"
    else:
        change = "lower" if split == "train" else "raise"
        remedy = f"{change} data.validation_fraction = {cfg.validation_fraction}"
        if data == "text" and cfg.validation_by == "hash":
            tail = 'data.validation_by = "tail" for a corpus of a few long documents'
            remedy += f", or say {tail}"
    return f"no rows in {split}: {reason}; {remedy}"


def prefetch(
    fetch: Callable[[int], T], start: int, stop: int | None, depth: int
) -> Iterator[T]:
    """`fetch(i)` for i in start .. stop - 1, in order, fetched ahead in threads.

    At most `depth` results are being fetched or waiting; 0 fetches without threads. An
    exception of `fetch` is raised in place of its result, and ends the iteration.
    Closing the iterator ends the threads.
    """
    numbers = itertools.count(start) if stop is None else iter(range(start, stop))
    if not depth:
        yield from map(fetch, numbers)
        return
    executor = futures.ThreadPoolExecutor(min(depth, 4), thread_name_prefix="prefetch")
    pending: collections.deque[futures.Future[T]] = collections.deque()
    try:
        for number in itertools.islice(numbers, depth):
            pending.append(executor.submit(fetch, number))
        while pending:
            result = pending.popleft().result()
            for number in itertools.islice(numbers, 1):
                pending.append(executor.submit(fetch, number))
            yield result
    finally:
        executor.shutdown(wait=True, cancel_futures=True)

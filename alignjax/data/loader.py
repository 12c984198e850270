# SPDX-License-Identifier: Apache-2.0
"""From the section `data` of a config to a dataset, and its rows fetched ahead."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, Literal, TypeVar

from alignjax import config
from alignjax.data import (
    cache,
    dataset,
    holdout,
    order,
    packing,
    records,
    sources,
    tokenizer,
    tokenizing,
)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The section `data` of a config.

    Attributes:
      sources: `{name: {"kind": ..., "weight": 1.0, option: value, ...}}`; the options
        are those of `alignjax.data.sources.<kind>.load`. Weights are proportions of
        rows.
      validation_sources: the same, for data with a validation set of its own; then
        `validation_fraction` is 0.
      validation_fraction: how much of the data is held out.
      validation_by: "hash" holds out documents by what they say, "tail" the last tokens
        of each source, which suits a corpus of a few long documents.
      on_bad_row: "error" lists them all and stops, "skip" leaves them out, counted.
      pack: "best_fit", several documents a row; "none", one piece of a document a row.
      long_documents: what becomes of a document of more than the context: "split" it
        into pieces, "error", or "skip" it, counted.
      bos: whether documents start with the tokenizer's start token.
      workers: processes that tokenise; None means one for each processor.
    """

    sources: dict
    validation_sources: dict = dataclasses.field(default_factory=dict)
    validation_fraction: float = 0.01
    validation_by: Literal["hash", "tail"] = "hash"
    on_bad_row: Literal["error", "skip"] = "error"
    pack: Literal["best_fit", "none"] = "best_fit"
    long_documents: Literal["split", "error", "skip"] = "split"
    bos: bool = False
    workers: int | None = None

    def __post_init__(self):
        problems = []
        if not self.sources:
            problems.append("sources: name at least one source")
        for field in ("sources", "validation_sources"):
            for name, section in getattr(self, field).items():
                found = _source_problems(section)
                problems += [f"{field}.{name}.{problem}" for problem in found]
        if not 0 <= self.validation_fraction < 1:
            problems.append(
                f"validation_fraction: {self.validation_fraction} is not in [0, 1)"
            )
        if self.validation_sources and self.validation_fraction:
            problems.append(
                f"validation_fraction: {self.validation_fraction} beside "
                "validation_sources; set it to 0 or leave them out"
            )
        if self.workers is not None and self.workers < 1:
            problems.append(f"workers: {self.workers} is not positive")
        if problems:
            raise config.ConfigError(problems)


def _source_problems(section: Any) -> list[str]:
    if not hasattr(section, "items"):
        return [f"expected options, found {section!r}"]
    problems = []
    if not isinstance(section.get("kind"), str):
        problems.append(f"kind: required; known: {', '.join(sources.kinds())}")
    weight = section.get("weight")
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if weight is not None and not (number and 0 < weight < math.inf):
        problems.append(f"weight: {weight!r} is not a positive number")
    return problems


def _weight(section: Mapping[str, Any]) -> float:
    weight = section.get("weight")
    return 1.0 if weight is None else float(weight)


def load_sources(sections: dict, path: str) -> dict[str, records.Source]:
    """The sources of `DataConfig.sources`, opened; `path` is for messages.

    Raises:
      ConfigError: an unknown kind or option.
      DataError: files that are not there, for instance.
    """
    found = {}
    for name, section in config.to_json(sections).items():
        own = ("kind", "weight")
        options = {k: v for k, v in section.items() if k not in own and v is not None}
        try:
            found[name] = sources.load(section["kind"], options)
        except config.ConfigError as error:
            raise config.ConfigError(
                [f"{path}.{name}.{problem}" for problem in error.problems]
            ) from error
        except records.DataError as error:
            raise records.DataError(f"{path}.{name}: {error}") from error
    return found


def build(
    cfg: DataConfig,
    tok: tokenizer.Tokenizer,
    *,
    length: int,
    seed: int,
    cache_dir: str | Path,
    split: Literal["train", "validation"] = "train",
    tokenize: tokenizing.Tokenize = tokenizing.tokenize_text,
    settings: Mapping[str, Any] | None = None,
) -> dataset.Dataset:
    """The dataset of a split: tokenised, planned, ready for any row.

    Args:
      length: T, the targets of a row.
      cache_dir: where tokens and plans are kept from one run to the next.
      tokenize, settings: records to tokens, see `cache.build`; text by default.

    Raises:
      ConfigError: a source that cannot be, or no validation data where it is asked for.
      DataError: bad data, or a split without documents.
    """
    if cfg.bos and tok.bos_id is None:
        raise config.ConfigError(
            "data.bos: True, but the tokenizer has no start token; set it to False"
        )
    own = split == "validation" and bool(cfg.validation_sources)
    if split == "validation" and not own and not cfg.validation_fraction:
        raise config.ConfigError(
            "data.validation_fraction: 0 holds out nothing to validate on; raise it or "
            "name data.validation_sources"
        )
    field = "validation_sources" if own else "sources"
    sections = getattr(cfg, field)
    settings = {"bos": cfg.bos} if settings is None else dict(settings)
    parts, empty = [], []
    for name, source in load_sources(sections, f"data.{field}").items():
        tokens = cache.build(
            source,
            tok,
            cache_dir,
            tokenize=tokenize,
            settings=settings,
            on_bad_row=cfg.on_bad_row,
            workers=cfg.workers,
        )
        fraction = 0.0 if own else cfg.validation_fraction
        plan = _plan(cfg, tokens, tok, length, cache_dir, split, fraction)
        if plan.num_rows:
            parts.append(dataset.Part(name, _weight(sections[name]), tokens, plan))
        else:
            empty.append(name)
    if empty and (split == "train" or not parts):
        raise records.DataError(_no_rows(cfg, field, split, empty))
    try:
        mixture = order.mixture([part.weight for part in parts])
    except ValueError as error:
        raise config.ConfigError(f"data.{field}: {error}") from error
    return dataset.Dataset(tuple(parts), tuple(empty), length, seed, mixture)


def _plan(cfg, tokens, tok, length, cache_dir, split, fraction) -> packing.Plan:
    by = {"hash": holdout.by_hash, "tail": holdout.by_tail}[cfg.validation_by]
    held_out = split == "validation" and fraction > 0
    identity = {"fraction": fraction, "held_out": held_out}
    if fraction:
        identity["by"] = cfg.validation_by
    return packing.plan(
        tokens,
        by(tokens, fraction, held_out),
        Path(cache_dir),
        length=length,
        token_bytes=tok.token_bytes,
        pack=cfg.pack,
        long_documents=cfg.long_documents,
        identity=identity,
    )


def _no_rows(cfg: DataConfig, field: str, split: str, empty: list[str]) -> str:
    names = ", ".join(f"data.{field}.{name}" for name in empty)
    remedy = "give more data"
    if cfg.validation_fraction and not cfg.validation_sources:
        remedy = (
            f"validation_by {cfg.validation_by!r} with validation_fraction "
            f"{cfg.validation_fraction} leaves nothing for it; change the fraction, or "
            'say data.validation_by = "tail" for a corpus of a few long documents'
        )
    return f"{names}: no documents of at least 2 tokens in {split}; {remedy}"


def prefetch(
    fetch: Callable[[int], T], start: int, stop: int | None, depth: int
) -> Iterator[T]:
    """`fetch(i)` for i in start .. stop - 1, in order, fetched ahead in threads.

    At most `depth` are fetched or waiting to be taken; 0 fetches without threads. What
    `fetch` raises is raised where its result would be, and ends the iteration. Closing
    the iterator ends the threads.
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

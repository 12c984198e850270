# SPDX-License-Identifier: Apache-2.0
"""From the section `data` of a config to a dataset, and its rows fetched ahead."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, Literal, TypeVar

from alignjax import config, errors
from alignjax.data import (
    dataset,
    empty_split,
    holdout,
    records,
    shuffle,
    sources,
    unk_rate,
)
from alignjax.data.chat import comparisons
from alignjax.data.chat import format as chat
from alignjax.data.packing import documents, group_plan
from alignjax.data.tokenizers import base
from alignjax.data.tokens import cache, tokenizing

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
        into pieces, "error", or "skip" it, counted. Groups of responses are never
        split; "truncate_prompt" leaves out the beginning of a prompt, counted.
      chat: the format of dialogues: "roles"; "tokenizer", the template that came with
        it; a built-in template, "chatml", "gemma", "llama3", "mistral" or "world"; or
        the path of a .jinja file. None for plain text.
      train_on: which of the assistant's turns of a dialogue are learned; "everything"
        is every token, of other documents too, as in pretraining. What messages of
        weight 0 say never is.
      share_prompt: whether the responses of a group are branches of one prompt, rather
        than each having its own copy.
      groups_per_row: the most groups of a row; None for as many as there is room for.
      bos: whether documents start with the tokenizer's start token.
      workers: processes that tokenise; None means one for each processor.
    """

    sources: dict
    validation_sources: dict = dataclasses.field(default_factory=dict)
    validation_fraction: float = 0.01
    validation_by: Literal["hash", "tail"] = "hash"
    on_bad_row: Literal["error", "skip"] = "error"
    pack: Literal["best_fit", "none"] = "best_fit"
    long_documents: Literal["split", "error", "skip", "truncate_prompt"] = "split"
    chat: str | None = None
    train_on: Literal["all", "last", "everything"] = "all"
    share_prompt: bool = False
    groups_per_row: int | None = None
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
        if self.groups_per_row is not None and self.groups_per_row < 1:
            problems.append(f"groups_per_row: {self.groups_per_row} is not positive")
        if problems:
            raise errors.ConfigError(problems)


def _source_problems(section: Any) -> list[str]:
    if not hasattr(section, "items"):
        return [f"expected options, found {section!r}"]
    problems = []
    if not isinstance(section.get("kind"), str):
        problems.append(f"kind: required; known: {', '.join(sources.KINDS)}")
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
        except errors.ConfigError as error:
            raise errors.ConfigError(
                [f"{path}.{name}.{problem}" for problem in error.problems]
            ) from error
        except errors.DataError as error:
            raise errors.DataError(f"{path}.{name}: {error}") from error
    return found


Data = Literal["text", "pairs", "rankings", "labels", "ratings"]


def problems(cfg: DataConfig, data: Data) -> list[str]:
    """What of the config does not go with learning from `data`."""
    found = []
    if data == "text":
        for name in ("share_prompt", "groups_per_row"):
            if getattr(cfg, name):
                found.append(f"{name}: text has no groups of responses; leave it out")
        if cfg.long_documents == "truncate_prompt":
            found.append("long_documents: text has no prompts to truncate")
        if cfg.chat is None and cfg.train_on != "all":
            found.append(f"train_on: {cfg.train_on!r} is for dialogues; set data.chat")
        return found
    if cfg.chat is None:
        found.append(f'chat: {data} are dialogues; say chat = "roles"')
    if cfg.train_on != "all":
        found.append(f"train_on: {data} are of whole responses; leave it out")
    if cfg.long_documents == "split":
        found.append(
            'long_documents: "split" would tear responses apart; say '
            '"truncate_prompt", "skip" or "error"'
        )
    if cfg.validation_by == "tail":
        found.append(f'validation_by: {data} are held out by their prompt; say "hash"')
    if cfg.groups_per_row and cfg.pack == "none" and cfg.groups_per_row > 1:
        found.append(f'groups_per_row: {cfg.groups_per_row} with pack = "none"')
    return found


def build(
    cfg: DataConfig,
    tok: base.Tokenizer,
    *,
    length: int,
    seed: int,
    cache_dir: str | Path,
    split: Literal["train", "validation"] = "train",
    data: Data = "text",
    values: Sequence[str] = (),
    batch_size: int | None = None,
) -> dataset.Dataset:
    """The dataset of a split: tokenised, planned, ready for any row.

    Args:
      length: T, the targets of a row.
      cache_dir: where tokens and plans are kept from one run to the next.
      data: what is learned from. With `cfg.chat`, "text" is the assistant's turns of
        dialogues; the others are of `records.Comparison`. What is made of what is told
        by `comparisons.maker`.
      values: what has to be known of every comparison, names of `comparisons.VALUES`.
      batch_size: for labels, to have mismatched responses from the rows of each batch;
        None for none.

    Raises:
      ConfigError: a source that cannot be, values that are not known, or no validation
        data where it is asked for.
      DataError: bad data, or a split without documents.
    """
    found = [f"data.{problem}" for problem in problems(cfg, data)]
    held_out = cfg.validation_fraction or cfg.validation_sources
    if split == "validation" and not held_out:
        found.append(
            "data.validation_fraction: 0 holds out nothing to validate on; raise it or "
            "name data.validation_sources"
        )
    if cfg.bos and tok.bos_id is None:
        found.append(
            "data.bos: True, but the tokenizer has no start token; set it to False"
        )
    if found:
        raise errors.ConfigError(found)
    if cfg.chat is not None:
        tok = chat.keep(tok, cfg.chat)
        chat.check(tok, cfg.chat)
    own = split == "validation" and bool(cfg.validation_sources)
    field = "validation_sources" if own else "sources"
    sections = getattr(cfg, field)
    fraction = 0.0 if own else cfg.validation_fraction
    loaded = load_sources(sections, f"data.{field}")
    cached = {}
    for name, source in loaded.items():
        try:
            cached[name] = _tokens(cfg, tok, source, data, cache_dir)
        except errors.DataError as error:
            raise errors.DataError(f"data.{field}.{name}: {error}") from error
    layout = None
    if data != "text":
        responses = _check_alike(f"data.{field}", cached, values)
        layout = _layout(cfg, length, responses, data == "labels" and batch_size)
    parts, empty = [], {}
    for name, tokens in cached.items():
        plan = _plan(cfg, tokens, tok, length, layout, cache_dir, split, fraction)
        if plan.num_rows:
            lost = unk_rate.count(tokens, plan, tok.unknown_id, Path(cache_dir))
            weight, note = _weight(sections[name]), loaded[name].note
            parts.append(dataset.Part(name, weight, tokens, plan, lost, note))
        else:
            empty[name] = plan.manifest
    if empty and (split == "train" or not parts):
        found = [
            f"data.{field}.{name}: "
            + empty_split.no_rows(cfg, counts, split, length, data)
            for name, counts in empty.items()
        ]
        raise errors.DataError("\n".join(found))
    try:
        mixture = shuffle.mixture([part.weight for part in parts])
    except ValueError as error:
        raise errors.ConfigError(f"data.{field}: {error}") from error
    batch_size = batch_size if layout is not None and layout.mismatched else None
    own = (length, seed, mixture, layout, batch_size, split)
    return dataset.Dataset(tuple(parts), tuple(empty), *own)


def _tokens(cfg, tok, source: records.Source, data: Data, cache_dir):
    """The token cache of a source, of records made into what `data` asks for."""
    settings: dict[str, Any] = {"bos": cfg.bos}
    make = lambda record: [record]
    if data != "text":
        tokenize, make = comparisons.tokenize, comparisons.maker(data)
        settings |= {"format": cfg.chat, "data": data}
    elif cfg.train_on == "everything":
        tokenize, make = chat.tokenize_everything, comparisons.maker("chat")
        settings |= {"format": cfg.chat}
    elif cfg.chat is not None:
        tokenize, make = chat.tokenize, comparisons.maker("chat")
        settings |= {"format": cfg.chat, "train_on": cfg.train_on}
    else:
        tokenize = tokenizing.tokenize_text
    return cache.build(
        records.mapped(source, lambda record: make(records.plain(record))),
        tok,
        cache_dir,
        tokenize=tokenize,
        settings=settings,
        on_bad_row=cfg.on_bad_row,
        workers=cfg.workers,
    )


def _check_alike(field: str, cached: Mapping[str, cache.TokenCache], values) -> int:
    """K. Raises ConfigError unless all sources have one, and the values asked for.

    What only some know is not in the rows; see `Dataset.report`.
    """
    found = []
    shapes = {name: tokens.manifest["fields"] for name, tokens in cached.items()}
    first = next(iter(shapes))
    for name, shape in shapes.items():
        known = [value for value in shape if value in comparisons.VALUES]
        for value in values:
            if value not in known:
                has = ", ".join(known) or "nothing else"
                found.append(
                    f"{field}.{name}: has no {value!r}, which the loss needs; it has "
                    f"{has}"
                )
            elif shape[value] != shapes[first].get(value, shape[value]):
                found.append(
                    f"{field}.{name}: has {shape[value][0]} numbers of {value!r}, "
                    f"where {field}.{first} has {shapes[first][value][0]}"
                )
        counts = [s[comparisons.LENGTHS][0] - 1 for s in (shapes[first], shape)]
        if counts[0] != counts[1]:
            found.append(
                f"{field}.{name}: {counts[1]} responses a prompt, where "
                f"{field}.{first} has {counts[0]}; mix sources of one number"
            )
    if found:
        raise errors.ConfigError(found)
    return shapes[first][comparisons.LENGTHS][0] - 1


def _layout(cfg, length: int, responses: int, mismatched) -> group_plan.Layout:
    packed = "packed" if cfg.pack == "best_fit" else "padded"
    return group_plan.Layout(
        name="shared" if cfg.share_prompt else packed,
        length=length,
        responses=responses + bool(mismatched),
        mismatched=bool(mismatched),
        most=cfg.groups_per_row,
    )


def _plan(cfg, tokens, tok, length, layout, cache_dir, split, fraction):
    by = {"hash": holdout.by_hash, "tail": holdout.by_tail}[cfg.validation_by]
    held_out = split == "validation" and fraction > 0
    identity = {"fraction": fraction, "held_out": held_out}
    if fraction:
        identity["by"] = cfg.validation_by
    spans = by(tokens, fraction, held_out)
    shared = dict(
        token_bytes=tok.token_bytes,
        pack=cfg.pack,
        long_documents=cfg.long_documents,
        identity=identity,
    )
    if layout is None:
        return documents.plan(tokens, spans, Path(cache_dir), length=length, **shared)
    head, turns = chat.cuts(tok, cfg.chat, cfg.bos)
    own = dict(layout=layout, head=head, turns=turns)
    return group_plan.plan(tokens, spans, Path(cache_dir), **own, **shared)


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

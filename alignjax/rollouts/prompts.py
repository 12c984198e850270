# SPDX-License-Identifier: Apache-2.0
"""Prompts of sources as tokens, in an order that is a function of a seed.

A prompt is what a record of any source begins with: a dialogue up to the user's last
turn, the prompt of a comparison, or a row with `prompt` and whatever a reward wants
to know of it (`format="alignjax.data.formats:as_it_is"`). All prompts are read and
tokenised once, at the start; those that leave no room for a response are an error, or
left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data import formats, loader, messages, records, shuffle, sources
from alignjax.data.chat import format
from alignjax.data.tokenizers import base

MOST = 1_000_000  # prompts of a source


class Prompt(NamedTuple):
    """A prompt.

    Attributes:
      ids: its tokens, up to where the response begins.
      turns: `(role, text)`; of plain text one turn of the user.
      record: as the source has it, for rewards.
      where: its file and line, or the like.
    """

    ids: tuple[int, ...]
    turns: tuple[records.Turn, ...]
    record: Any
    where: str


class Prompts(NamedTuple):
    """The prompts of several sources, as an endless stream.

    Attributes:
      names: of the sources.
      parts: the prompts of each.
      mixture: the shares of the sources.
      seed: of the order, which is another at every pass of a source.
      identity: JSON-able; equal where the stream is.
      report: lines for the log.
    """

    names: tuple[str, ...]
    parts: tuple[tuple[Prompt, ...], ...]
    mixture: shuffle.Mixture
    seed: int
    identity: dict[str, Any]
    report: str

    def take(self, first: int, count: int) -> list[Prompt]:
        """Prompts `first` to `first + count - 1` of the stream."""
        source, place = self.mixture.locate(np.arange(first, first + count))
        taken: list[Prompt] = []
        for part, n in zip(source, place, strict=True):
            prompts = self.parts[part]
            turn, index = divmod(int(n), len(prompts))
            key = shuffle.key(self.seed, self.names[part], turn)
            (index,) = shuffle.permute(np.array([index]), len(prompts), key)
            taken.append(prompts[index])
        return taken

    def evenly_spaced(self, count: int) -> list[Prompt]:
        """`count` prompts, or all there are, over all sources: always the same."""
        every = [prompt for part in self.parts for prompt in part]
        count = min(count, len(every))
        return [every[i * len(every) // count] for i in range(count)]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt.ids) for part in self.parts for prompt in part)


def build(
    cfg: loader.DataConfig,
    tok: base.Tokenizer,
    *,
    room: int,
    seed: int,
    split: str = "train",
) -> Prompts:
    """The prompts of a section `data`.

    Args:
      room: the most tokens of a prompt.
      seed: of the order.
      split: "train", or "validation", the prompts that are held out.

    Raises:
      ConfigError: no such source, or a split without prompts.
      DataError: bad rows, or prompts that are too long.
    """
    own = split == "validation" and bool(cfg.validation_sources)
    field = "validation_sources" if own else "sources"
    fraction = 0.0 if own or cfg.validation_sources else cfg.validation_fraction
    opened = loader.load_sources(getattr(cfg, field), f"data.{field}")
    parts, weights, lines, identity = [], [], [], {}
    for name, source in opened.items():
        path = f"data.{field}.{name}"
        faults = records.Faults(cfg.on_bad_row)
        every = list(_read(cfg, tok, source, faults))
        faults.check()
        long = [prompt for prompt in every if len(prompt.ids) > room]
        if long and cfg.long_documents != "skip":
            raise errors.DataError(
                f"{path}: {len(long):,} prompts have more than {room} tokens, the room "
                f"that length leaves beside rollouts.max_tokens, such as "
                f'{long[0].where}; raise length, or say data.long_documents = "skip"'
            )
        held_out = [shuffle.hashed(repr(p.turns).encode()) for p in every]
        bound = shuffle.bound(fraction)
        keep = [
            h < bound if split == "validation" and not own else h >= bound
            for h in held_out
        ]
        prompts = tuple(
            prompt
            for prompt, kept in zip(every, keep, strict=True)
            if kept and len(prompt.ids) <= room
        )
        if not prompts:
            raise errors.ConfigError(
                f"{path}: no prompts for {split}; give more data, or another "
                "data.validation_fraction"
            )
        parts.append(prompts)
        weights.append(float(getattr(cfg, field)[name].get("weight") or 1.0))
        bad = f"; {records.skipped(faults.count, faults.first)}" if faults.count else ""
        left = f", {len(long):,} too long left out" if long else ""
        lines.append(f"{name}: {len(prompts):,} prompts{left}{bad}")
        identity[name] = source.identity
    try:
        mixture = shuffle.mixture(weights)
    except ValueError as error:
        raise errors.ConfigError(f"data.{field}: {error}") from error
    identity = {"sources": identity, "room": room, "chat": cfg.chat, "bos": cfg.bos}
    identity |= {"fraction": fraction, "weights": weights}
    return Prompts(
        tuple(opened), tuple(parts), mixture, seed, identity, "\n".join(lines)
    )


def _read(cfg, tok, source: records.Source, faults) -> Iterator[Prompt]:
    form = format.of(tok, cfg.chat) if cfg.chat is not None else None
    for count, (where, record) in enumerate(
        sources.good_rows(source.documents(), faults)
    ):
        if count == MOST:
            raise errors.DataError(
                f"{where}: more than {MOST:,} prompts; name fewer (documents=, or a "
                "smaller file)"
            )
        try:
            turns = turns_of(record)
            if form is None:
                ids = [tok.bos_id] if cfg.bos and tok.bos_id is not None else []
                ids += tok.encode(plain_text(turns))
            else:
                ids = form.prompt_ids(chat_of(record, turns), cfg.bos)
        except (errors.DataError, ValueError) as error:
            faults.add(where, str(error))
            continue
        if not ids:
            faults.add(where, "a prompt without tokens")
            continue
        yield Prompt(tuple(ids), turns, record, where)


def turns_of(record: Any) -> tuple[records.Turn, ...]:
    """The turns of a prompt that a record begins with.

    Raises:
      DataError: it has none.
    """
    if isinstance(record, Mapping):
        value = formats.prompt(record)
        if isinstance(value, str):
            return ((records.USER, value),)
        turns = messages.turns(value, "prompt")
    elif isinstance(record, records.Comparison):
        turns = record.prompt
    elif isinstance(record, records.Text):
        return ((records.USER, record.text),)
    else:
        turns = getattr(record, "turns", ())
    turns = tuple((role, text) for role, text in turns)
    while turns and turns[-1][0] == records.ASSISTANT:
        turns = turns[:-1]
    if not turns:
        raise errors.DataError(f"a {type(record).__name__} without a prompt")
    return turns


def chat_of(record: Any, turns: Sequence[records.Turn]) -> records.Chat:
    """The dialogue of a prompt, with the tools that its record has."""
    fields = {
        name: value
        for name in ("tools", "template_kwargs")
        if (value := getattr(record, name, None)) is not None
    }
    return records.Chat(tuple(turns), **fields)


def plain_text(turns: Sequence[records.Turn]) -> str:
    """The text of a prompt of one turn.

    Raises:
      DataError: it has several, which only a chat template can write.
    """
    if len(turns) != 1:
        raise errors.DataError(
            "a dialogue of several turns; name a template, data.chat"
        )
    return turns[0][1]

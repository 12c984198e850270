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
VERSION = 2  # changes when the same rows become other prompts, or another split
ROOM = "the room that length leaves beside rollouts.max_tokens"


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
      names: of the sources that have prompts.
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
      ConfigError: no such source, a split without prompts, or no start token where
        `cfg.bos` asks for one.
      DataError: bad rows, or prompts that are too long.
    """
    if cfg.bos and tok.bos_id is None:
        raise errors.ConfigError(
            "data.bos: True, but the tokenizer has no start token; set it False"
        )
    own = split == "validation" and bool(cfg.validation_sources)
    field = "validation_sources" if own else "sources"
    fraction = 0.0 if own or cfg.validation_sources else cfg.validation_fraction
    bound = shuffle.bound(fraction)
    opened = loader.load_sources(getattr(cfg, field), f"data.{field}")
    parts, weights, lines, identities, empty = {}, [], [], {}, {}
    for name, source in opened.items():
        path = f"data.{field}.{name}"
        faults = records.Faults(cfg.on_bad_row)
        every = list(_read(cfg, tok, source, faults))
        faults.check()
        held_out = [hashed(prompt.turns) < bound for prompt in every]
        is_held_out = split == "validation" and not own
        of_split = [
            p for p, held in zip(every, held_out, strict=True) if held == is_held_out
        ]
        prompts = tuple(prompt for prompt in of_split if len(prompt.ids) <= room)
        long = [prompt for prompt in of_split if len(prompt.ids) > room]
        if long and cfg.long_documents != "skip":
            raise errors.DataError(
                f"{path}: {len(long):,} prompts for {split} have more than {room} "
                f"tokens, {ROOM}, such as {long[0].where}; raise length, or say "
                'data.long_documents = "skip"'
            )
        bad = f"; {records.skipped(faults.count, faults.first)}" if faults.count else ""
        # A row that cannot be read has no prompt that would tell its split.
        bad += " (of both splits together)" if bad and fraction else ""
        if prompts:
            left = f", {len(long):,} too long left out" if long else ""
            if split == "train" and (others := len(every) - len(of_split)):
                left += f", {others:,} held out"
            parts[name] = prompts
            weights.append(float(getattr(cfg, field)[name].get("weight") or 1.0))
            lines.append(f"{name}: {len(prompts):,} prompts{left}{bad}")
        else:
            empty[name] = f"{_no_prompts(len(every), long, split, fraction, room)}{bad}"
            lines.append(f"{name}: {empty[name]}")
        identities[name] = source.identity
    if empty and (split == "train" or not parts):
        raise errors.ConfigError(
            [f"data.{field}.{name}: {reason}" for name, reason in empty.items()]
        )
    try:
        mixture = shuffle.mixture(weights)
    except ValueError as error:
        raise errors.ConfigError(f"data.{field}: {error}") from error
    identity = {"sources": identities, "room": room, "chat": cfg.chat, "bos": cfg.bos}
    identity |= {"fraction": fraction, "weights": weights, "version": VERSION}
    return Prompts(
        tuple(parts), tuple(parts.values()), mixture, seed, identity, "\n".join(lines)
    )


def hashed(turns: Sequence[records.Turn]) -> int:
    """What a prompt is held out by: as of all other data, its opening."""
    return shuffle.hashed(records.opening(turns).encode())


def _no_prompts(
    count: int, long: Sequence[Prompt], split: str, fraction: float, room: int
) -> str:
    """Why a source of so many prompts has none for a split, and a remedy."""
    head = f"no prompts for {split}"
    if long:
        shortest = min(len(prompt.ids) for prompt in long)
        return (
            f"{head}: all {len(long):,} have more than {room} tokens, {ROOM}, and the "
            f"shortest has {shortest:,}; raise length by {shortest - room:,} or more, "
            "or lower rollouts.max_tokens"
        )
    if not count:
        return f"{head}: it has none; give more data"
    if not fraction:
        return f"{head}: data.validation_fraction = 0 holds out none; raise it"
    change, where = ("lower", "each") if split == "train" else ("raise", "none")
    return (
        f"{head}: of its {count:,} {where} is held out; give more data, or {change} "
        f"data.validation_fraction = {fraction}"
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
            chat = chat_of(record, turns)
            if form is None:
                ids = [tok.bos_id] if cfg.bos else []
                ids += tok.encode(plain_text(chat))
            else:
                ids = form.prompt_ids(chat, cfg.bos)
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
      DataError: it has none, or is a row whose messages have more than texts.
    """
    form = _form(record)
    if isinstance(form, Mapping):
        value = formats.prompt(form)
        if isinstance(value, str):
            return ((records.USER, value),)
        turns = messages.turns(value, "prompt")
    elif isinstance(form, records.Comparison):
        turns = form.prompt
    elif isinstance(form, records.Text):
        return ((records.USER, form.text),)
    else:
        turns = getattr(form, "turns", ())
    turns = tuple((role, text) for role, text in turns)
    while turns and turns[-1][0] == records.ASSISTANT:
        turns = turns[:-1]
    if not turns:
        raise errors.DataError(f"a {type(record).__name__} without a prompt")
    return turns


def chat_of(record: Any, turns: Sequence[records.Turn]) -> records.Chat:
    """The dialogue of a prompt, with the tools and calls that its record has.

    Raises:
      DataError: the tools or variables of a row are none.
    """
    form, turns = _form(record), tuple(turns)
    if isinstance(form, Mapping):
        return records.Chat(turns, **formats.of_template(form))
    names = ("tools", "template_kwargs")
    more = {name: getattr(form, name, None) for name in names}
    if isinstance(form, records.Chat) and any(
        fields := (form.fields or ())[: len(turns)]
    ):
        more["fields"] = fields
    return records.Chat(turns, **more)


def _form(record: Any) -> Any:
    """The record to train on, where there is one; else itself, as rows are."""
    form = records.plain(record)
    return record if isinstance(form, records.BadRow) else form


def plain_text(chat: records.Chat) -> str:
    """The text of a prompt of one turn.

    Raises:
      DataError: it has several, or tools or calls, which only a template can write.
    """
    if len(chat.turns) != 1:
        raise errors.DataError(
            "a dialogue of several turns; name a template, data.chat"
        )
    there = {"tools": chat.tools, formats.KWARGS: chat.template_kwargs}
    there |= {"fields of messages": chat.fields}
    if lost := [name for name, value in there.items() if value]:
        raise errors.DataError(
            f"{', '.join(lost)}: only for chat templates; name one, data.chat, or "
            "leave them out"
        )
    return chat.turns[0][1]

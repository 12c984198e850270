# SPDX-License-Identifier: Apache-2.0
"""How a model reads a dialogue and ends its turn, as the config of its run says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from alignjax import sampling, world
from alignjax.data import records
from alignjax.data.chat import format as chats
from alignjax.data.tokens import tokenizing
from alignjax.world import turns


class Format(NamedTuple):
    """One way of putting dialogues into tokens.

    Attributes:
      name: "plain", a turn a line, or the name of a chat format.
      prompt: `(turns) -> ids` of all that comes before the assistant's turn.
      response: `(text) -> ids` of a reply, with what ends it.
      stop: ids that end a reply.
      text: `(ids) -> text` of a reply, given without what ended it.
      document: `(text) -> ids` of a document of the corpus, with its start and end.
    """

    name: str
    prompt: Callable[[Sequence[turns.Turn]], list[int]]
    response: Callable[[str], list[int]]
    stop: tuple[int, ...]
    text: Callable[[Sequence[int]], str]
    document: Callable[[str], Sequence[int]]


def of_run(run: Any) -> Format:
    """The format of a `checkpoint.Run`: that of its chats, or else plain text.

    Raises:
      ValueError: a tokenizer that has no token for the end of a line.
    """
    chosen = run.config.get("data", {}).get("chat")
    return chat(run.tokenizer, chosen) if chosen else plain(run.tokenizer)


def plain(tokenizer: Any) -> Format:
    """`turns.render_prompt`, then the reply and the end of the line."""
    newline = tokenizer.encode("\n")
    if len(newline) != 1:
        raise ValueError(
            f"this tokenizer writes a line's end as {len(newline)} tokens, and a reply "
            "in plain text ends there; take one with a token for it"
        )
    ends = {*newline} | ({tokenizer.eos_id} - {None})
    return Format(
        "plain",
        prompt=lambda said: sampling.encode(tokenizer, turns.render_prompt(said)),
        # After "assistant:" comes a space; text and the line's end are apart.
        response=lambda text: tokenizer.encode(f" {text}") + newline,
        stop=tuple(sorted(ends)),
        text=lambda ids: tokenizer.decode(ids).strip(),
        document=lambda text: _read(tokenizer, records.Text(text)),
    )


def chat(tokenizer: Any, format: str) -> Format:
    """A chat format; see `data.chat`."""
    starts = tokenizer.bos_id is not None
    read = lambda text: _read(tokenizer, world.as_chat(records.Text(text)), format)
    return Format(
        format,
        prompt=lambda said: chats.prompt_ids(tokenizer, said, format, starts),
        response=lambda text: chats.response_ids(tokenizer, text, format),
        stop=tuple(chats.stop_ids(tokenizer, format)),
        text=lambda ids: chats.text(tokenizer, ids, format),
        document=read,
    )


def _read(
    tokenizer: Any, document: records.Text | records.Chat, format: str | None = None
) -> Sequence[int]:
    """A document as pretraining has it."""
    starts = tokenizer.bos_id is not None
    if isinstance(document, records.Text):
        (found,) = tokenizing.tokenize_text(tokenizer, [document], bos=starts)
    else:
        (found,) = chats.tokenize_everything(
            tokenizer, [document], format=format, bos=starts
        )
    return list(map(int, found.ids))

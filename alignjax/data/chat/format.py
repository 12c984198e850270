# SPDX-License-Identifier: Apache-2.0
"""Dialogues to tokens, and which of them are trained on.

A format is "roles", control tokens of a tokenizer trained here (see `roles`), or a chat
template (see `templated`): "tokenizer", the one that came with the tokenizer; the name
of a built-in one; or the path of a .jinja file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from alignjax import errors
from alignjax.data import records
from alignjax.data.chat import roles, template, templates
from alignjax.data.tokenizers import base
from alignjax.data.tokens import tokenizing

SYSTEM, USER, ASSISTANT = roles.SYSTEM, records.USER, records.ASSISTANT
ROLES, STOP, CONTROL = roles.ROLES, roles.STOP, roles.CONTROL
keep = templates.keep


def check(tok: base.Tokenizer, format: str, bos: bool = False) -> None:
    """Raises ConfigError if the tokenizer cannot write dialogues in this format."""
    problems = []
    if format == "roles":
        problems += roles.problems(tok)
    else:
        try:
            template.find(tok, format)
        except errors.ConfigError as error:
            problems += error.problems
    if bos and tok.bos_id is None:
        problems.append(
            "data.bos: True, but the tokenizer has no start token; set it to False"
        )
    if problems:
        raise errors.ConfigError(problems)


def tokenize(
    tok: base.Tokenizer,
    chats: Sequence[records.Chat],
    *,
    format: str,
    train_on: str,
    bos: bool,
) -> list[tokenizing.Tokens]:
    """Dialogues of Chat; the weights of what is not trained on are 0.

    Args:
      train_on: the assistant's turns that are, "all" of them or the "last", but for
        `Chat.skipped`. Their tokens and what ends each count `Chat.weight`.
      bos: whether there is a start token; a template that writes one has but that one.

    Raises:
      ConfigError: as `check` does.
      DataError: a dialogue that is none; see `fault`, `fault_of_weight`. With a
        template: one that it refuses, or that spells a control token.
    """
    check(tok, format, bos)
    for chat in chats:
        _check_chat(chat, format, train_on)
    if format == "roles":
        return roles.tokenize(tok, chats, train_on=train_on, bos=bos)
    form = template.find(tok, format)
    return template.tokenize(form, chats, train_on=train_on, bos=bos)


tokenize.key = "alignjax.data.chat:tokenize"  # see `cache.build`


def tokenize_everything(
    tok: base.Tokenizer,
    documents: Sequence[records.Chat | records.Text],
    *,
    format: str,
    bos: bool,
) -> list[tokenizing.Tokens]:
    """Dialogues among other documents, every token of which is learned.

    So a model is pretrained that knows the format before it is fine-tuned. Tokens of a
    dialogue count its weight, but for those of `Chat.skipped`.

    Raises:
      ConfigError, DataError: as `tokenize`.
    """
    chats = [d for d in documents if not isinstance(d, records.Text)]
    texts = [d for d in documents if isinstance(d, records.Text)]
    ask = lambda of: iter(tokenize(tok, of, format=format, train_on="all", bos=bos))
    said = ask([_but_for(c, ()) for c in chats])
    # What is left out is what would be learned if nothing else were.
    left_out = ask([_but_for(c, c.learned("all")) for c in chats if _skips(c)])
    read = iter(tokenizing.tokenize_text(tok, texts, bos=bos))
    rows = []
    for document in documents:
        if isinstance(document, records.Text):
            rows.append(next(read))
            continue
        ids = next(said).ids
        counts = np.full(len(ids), document.weight)
        if _skips(document):
            counts[np.asarray(next(left_out).weights) > 0] = 0.0
        rows.append(tokenizing.Tokens(ids, counts if (counts != 1).any() else None))
    return rows


tokenize_everything.key = "alignjax.data.chat:tokenize_everything"


def _skips(chat: Any) -> bool:
    return isinstance(chat, records.Chat) and bool(chat.skipped)


def _but_for(chat: Any, turns: Iterable[int]) -> Any:
    """With other turns skipped, where some are; what is no dialogue stays as it is."""
    return chat._replace(skipped=tuple(turns)) if _skips(chat) else chat


def replies(
    tok: base.Tokenizer,
    groups: Sequence[records.Comparison],
    *,
    format: str,
    bos: bool,
) -> list[tuple[list[int], list[list[int]]]]:
    """The tokens of each prompt, and of each response to it.

    Raises:
      ConfigError, DataError: as `tokenize`.
    """
    check(tok, format, bos)
    if format == "roles":
        return roles.replies(tok, groups, bos)
    return template.replies(template.find(tok, format), groups, bos)


def prompt_ids(
    tok: base.Tokenizer, turns: Iterable[records.Turn], format: str, bos: bool
) -> list[int]:
    """The tokens of a prompt, up to and with what makes the assistant speak.

    Raises:
      ConfigError: as `check` does.
      DataError: a prompt that is none.
    """
    check(tok, format, bos)
    turns = list(turns)
    if reason := fault_of_prompt(turns, format):
        raise errors.DataError(reason)
    if format == "roles":
        return roles.prompt_ids(tok, turns, bos)
    return template.prompt_ids(template.find(tok, format), turns, bos)


def response_ids(tok: base.Tokenizer, text: str, format: str) -> list[int]:
    """The tokens of a response; the last one ends the turn.

    Where a template writes a reply in a way that depends on the prompt, `replies` is
    exact; this is a reply to a short one.
    """
    check(tok, format)
    if format == "roles":
        return [*roles.encode(tok, [text])[0], tok.control[STOP]]
    return template.response_ids(template.find(tok, format), text)


def text(tok: base.Tokenizer, ids: Iterable[int], format: str) -> str:
    """What a response says, up to what ends it if it has that."""
    if format == "roles":
        return roles.text(tok, ids)
    return template.text(template.find(tok, format), ids)


def stop_ids(tok: base.Tokenizer, format: str) -> list[int]:
    """The tokens that end a response, that of the format first.

    Raises:
      ConfigError: as `check` does.
    """
    check(tok, format)
    if format == "roles":
        return [tok.control[STOP]]
    return list(template.find(tok, format).stop_ids)


def cuts(tok: base.Tokenizer, format: str, bos: bool) -> tuple[int, tuple[int, ...]]:
    """Where prompts may be cut: how many tokens stay, and which begin a turn."""
    if format == "roles":
        return int(bos), tuple(tok.control[ROLES[role]] for role in (SYSTEM, USER))
    return template.cuts(template.find(tok, format), bos)


def fault(turns: Sequence[records.Turn], format: str = "roles") -> str | None:
    """Why these are no turns of a dialogue, or None if they are."""
    return roles.fault(turns) if format == "roles" else template.fault(turns)


def fault_of_prompt(turns: Sequence[records.Turn], format: str = "roles") -> str | None:
    """Why this is no prompt that the assistant could answer, or None if it is."""
    if not turns:
        return "the prompt is empty"
    if reason := fault(turns, format):
        return f"prompt: {reason}"
    answered = (USER,) if format == "roles" else template.ANSWERED
    if turns[-1][0] not in answered:
        return f"the prompt ends in a turn of the {turns[-1][0]}, not the user"
    return None


def fault_of_weight(weight: float) -> str | None:
    """Why this cannot be the weight of a record, or None if it can."""
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if number and records.LEAST <= weight <= records.MOST:
        return None
    return (
        f"weight {weight!r:.40} is not a positive number of float32, which are from "
        f"{records.LEAST:.2g} to {records.MOST:.2g}"
    )


def _check_chat(chat: records.Chat, format: str, train_on: str) -> None:
    if not isinstance(chat, records.Chat):
        raise errors.DataError(
            f"expected a dialogue, found {type(chat).__name__}; say what the source's "
            "rows are with its option format, or leave data.chat out for plain text"
        )
    if format == "roles":
        reason = roles.fault(chat.turns)
        if chat.tools or any(chat.fields or ()):
            more = {name for fields in chat.fields or () for name in fields or ()}
            reason = (
                f"{', '.join(sorted(more)) or 'tools'}: more than the texts of turns, "
                'which the format "roles" has not; say another data.chat'
            )
    else:
        reason = template.fault(chat.turns, chat.fields)
    reason = reason or fault_of_weight(chat.weight)
    if not reason and not chat.learned(train_on):
        which = " of a weight above 0" if chat.skipped else ""
        reason = f"no turn of the assistant{which}, so nothing to train on"
    if reason:
        raise errors.DataError(reason)

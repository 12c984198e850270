# SPDX-License-Identifier: Apache-2.0
"""Dialogues to tokens, and which of them are trained on.

In the format "roles" control tokens say who speaks and where a turn ends:

    <s>? <system> text <end> <user> text <end> <assistant> | text <end>

No text can spell a control token. The text of a turn has one space before it, so that
its words are the same pieces as inside a sentence. A model is asked for what stands
after "|", and says `<end>` once when it has said all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from alignjax import config
from alignjax.data import records, tokenizer, tokenizing

SYSTEM, USER, ASSISTANT = "system", "user", records.ASSISTANT
ROLES = {SYSTEM: "<system>", USER: "<user>", ASSISTANT: "<assistant>"}
STOP = "<end>"
CONTROL = (*ROLES.values(), STOP)
FORMATS = ("roles",)


def check(tok: tokenizer.Tokenizer, format: str, bos: bool = False) -> None:
    """Raises ConfigError if the tokenizer cannot write dialogues in this format."""
    problems = []
    if format not in FORMATS:
        known = ", ".join(FORMATS)
        problems.append(f"data.chat: {format!r} is not one of {known}")
    if missing := [name for name in CONTROL if name not in tok.control]:
        problems.append(
            f"tokenizer.control_tokens: the tokenizer has no {', '.join(missing)}, "
            f"which dialogues need; give {CONTROL}, and train from a new tokenizer"
        )
    if bos and tok.bos_id is None:
        problems.append(
            "data.bos: True, but the tokenizer has no start token; set it to False"
        )
    if problems:
        raise config.ConfigError(problems)


def tokenize(
    tok: tokenizer.Tokenizer,
    chats: Sequence[records.Chat],
    *,
    format: str,
    train_on: str,
    bos: bool,
) -> list[tokenizing.Tokens]:
    """Dialogues of Chat; the weights of what is not trained on are 0.

    Args:
      train_on: the assistant's turns that are, "all" of them or the "last". Their
        tokens and the `<end>` of each count `Chat.weight`.

    Raises:
      ConfigError: as `check` does.
      DataError: a dialogue that is none; see `fault`, `fault_of_weight`.
    """
    check(tok, format, bos)
    for chat in chats:
        _check_chat(chat)
    said = iter(encode(tok, [text for chat in chats for _, text in chat.turns]))
    end = tok.control[STOP]
    rows = []
    for chat in chats:
        ids, weights = ([tok.bos_id], [0.0]) if bos else ([], [])
        roles = [role for role, _ in chat.turns]
        last = len(roles) - 1 - roles[::-1].index(ASSISTANT)
        for i, role in enumerate(roles):
            text = next(said)
            trained = role == ASSISTANT and (train_on == "all" or i == last)
            ids += [tok.control[ROLES[role]], *text, end]
            counts = chat.weight if trained else 0.0
            weights += [0.0, *[counts] * (len(text) + 1)]
        rows.append(tokenizing.Tokens(ids, weights))
    return rows


def tokenize_everything(
    tok: tokenizer.Tokenizer,
    documents: Sequence[records.Chat | records.Text],
    *,
    format: str,
    bos: bool,
) -> list[tokenizing.Tokens]:
    """Dialogues among other documents, every token of which is learned.

    So a model is pretrained that knows the format before it is fine-tuned.

    Raises:
      ConfigError, DataError: as `tokenize`.
    """
    chats = [d for d in documents if not isinstance(d, records.Text)]
    texts = [d for d in documents if isinstance(d, records.Text)]
    said = iter(tokenize(tok, chats, format=format, train_on="all", bos=bos))
    read = iter(tokenizing.tokenize_text(tok, texts, bos=bos))
    return [
        next(read) if isinstance(d, records.Text) else tokenizing.Tokens(next(said).ids)
        for d in documents
    ]


def encode(tok: tokenizer.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of the texts of turns, without control tokens."""
    found = tok.encode_batch([f" {text}" for text in texts])
    return [list(map(int, ids)) for ids in found]


def prompt_ids(
    tok: tokenizer.Tokenizer, turns: Iterable[records.Turn], bos: bool
) -> list[int]:
    """The tokens of a prompt, up to and with the `<assistant>` who is to speak.

    Raises:
      ConfigError: as `check` does.
      DataError: a prompt that is none.
    """
    check(tok, "roles", bos)
    turns = list(turns)
    if reason := fault_of_prompt(turns):
        raise records.DataError(reason)
    return join(tok, turns, encode(tok, [text for _, text in turns]), bos)


def response_ids(tok: tokenizer.Tokenizer, text: str) -> list[int]:
    """The tokens of a response; the last one is `<end>`."""
    check(tok, "roles")
    return [*encode(tok, [text])[0], tok.control[STOP]]


def text(tok: tokenizer.Tokenizer, ids: Iterable[int]) -> str:
    """What a response says, up to its `<end>` if it has one."""
    ids, end = [int(i) for i in ids], tok.control[STOP]
    said = ids[: ids.index(end)] if end in ids else ids
    return tok.decode(said).removeprefix(" ")


def join(tok, turns, said: Sequence[Sequence[int]], bos: bool) -> list[int]:
    """The tokens of a prompt whose turns say the tokens `said`."""
    ids = [tok.bos_id] if bos else []
    for (role, _), text in zip(turns, said, strict=True):
        ids += [tok.control[ROLES[role]], *text, tok.control[STOP]]
    return [*ids, tok.control[ROLES[ASSISTANT]]]


def fault(turns: Sequence[records.Turn]) -> str | None:
    """Why these are no turns of a dialogue, or None if they are."""
    before = None
    for i, (role, text) in enumerate(turns, start=1):
        if role not in ROLES:
            known = ", ".join(ROLES)
            return f"turn {i}: unknown role {role!r}; known: {known}"
        if role == SYSTEM and before is not None:
            return f"turn {i}: a system turn that is not the first one"
        if role == ASSISTANT and before in (None, SYSTEM):
            return f"turn {i}: the assistant speaks before the user"
        if role == before:
            return f"turns {i - 1} and {i}: two {role} turns in a row"
        if reason := records.fault_of_text(text):
            return f"turn {i}, {role}: {reason}"
        before = role
    return None


def fault_of_prompt(turns: Sequence[records.Turn]) -> str | None:
    """Why this is no prompt that the assistant could answer, or None if it is."""
    if not turns:
        return "the prompt is empty"
    if reason := fault(turns):
        return f"prompt: {reason}"
    if turns[-1][0] != USER:
        return f"the prompt ends in a turn of the {turns[-1][0]}, not the user"
    return None


def fault_of_weight(weight: float) -> str | None:
    """Why this cannot be the weight of a record, or None if it can."""
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if number and 0 < weight < math.inf:
        return None
    return f"weight {weight!r} is not a positive number"


def _check_chat(chat: records.Chat) -> None:
    if not isinstance(chat, records.Chat):
        raise records.DataError(
            f"expected a dialogue, found {type(chat).__name__}; say what the source's "
            "rows are with its option format, or leave data.chat out for plain text"
        )
    reason = fault(chat.turns) or fault_of_weight(chat.weight)
    if not reason and ASSISTANT not in {role for role, _ in chat.turns}:
        reason = "no turn of the assistant, so nothing to train on"
    if reason:
        raise records.DataError(reason)

# SPDX-License-Identifier: Apache-2.0
"""The format "roles": control tokens say who speaks and where a turn ends.

    <s>? <system> text <end> <user> text <end> <assistant> | text <end>

No text can spell a control token. The text of a turn has one space before it, so that
its words are the same pieces as inside a sentence. A model is asked for what stands
after "|", and says `<end>` once when it has said all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alignjax.data import records
from alignjax.data.tokenizers import base
from alignjax.data.tokens import tokenizing

SYSTEM, USER, ASSISTANT = "system", records.USER, records.ASSISTANT
ROLES = {SYSTEM: "<system>", USER: "<user>", ASSISTANT: "<assistant>"}
STOP = "<end>"
CONTROL = (*ROLES.values(), STOP)


def problems(tok: base.Tokenizer) -> list[str]:
    """Why a tokenizer cannot write dialogues so."""
    if missing := [name for name in CONTROL if name not in tok.control]:
        reason = (
            f"tokenizer.control_tokens: the tokenizer has no {', '.join(missing)}, "
            f"which dialogues need; give {CONTROL}, and train from a new tokenizer"
        )
        return [reason]
    return []


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


def tokenize(
    tok: base.Tokenizer,
    chats: Sequence[records.Chat],
    *,
    train_on: str,
    bos: bool,
) -> list[tokenizing.Tokens]:
    """Dialogues without a fault; see `chat.tokenize`."""
    said = iter(encode(tok, [text for chat in chats for _, text in chat.turns]))
    end = tok.control[STOP]
    rows = []
    for chat in chats:
        ids, weights = ([tok.bos_id], [0.0]) if bos else ([], [])
        learned = set(chat.learned(train_on))
        for i, (role, _) in enumerate(chat.turns):
            text = next(said)
            ids += [tok.control[ROLES[role]], *text, end]
            counts = chat.weight if i in learned else 0.0
            weights += [0.0, *[counts] * (len(text) + 1)]
        rows.append(tokenizing.Tokens(ids, weights))
    return rows


def replies(
    tok: base.Tokenizer, groups: Sequence[records.Comparison], bos: bool
) -> list[tuple[list[int], list[list[int]]]]:
    """The tokens of prompts, and of each response to them."""
    said = iter(encode(tok, [text for group in groups for _, text in group.prompt]))
    found = iter(encode(tok, [r for group in groups for r in group.responses]))
    rows = []
    for group in groups:
        prompt = _prompt(tok, group.prompt, [next(said) for _ in group.prompt], bos)
        rows.append(
            (prompt, [[*next(found), tok.control[STOP]] for _ in group.responses])
        )
    return rows


def prompt_ids(
    tok: base.Tokenizer, turns: Sequence[records.Turn], bos: bool
) -> list[int]:
    """The tokens of a prompt, up to and with the `<assistant>` who is to speak."""
    return _prompt(tok, turns, encode(tok, [text for _, text in turns]), bos)


def encode(tok: base.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of the texts of turns, without control tokens."""
    found = tok.encode_batch([f" {text}" for text in texts])
    return [list(map(int, ids)) for ids in found]


def text(tok: base.Tokenizer, ids: Iterable[int]) -> str:
    """What a response says, up to its `<end>` if it has one."""
    ids, end = [int(i) for i in ids], tok.control[STOP]
    said = ids[: ids.index(end)] if end in ids else ids
    return tok.decode(said).removeprefix(" ")


def _prompt(tok, turns, said: Sequence[Sequence[int]], bos: bool) -> list[int]:
    """The tokens of a prompt whose turns say the tokens `said`."""
    ids = [tok.bos_id] if bos else []
    for (role, _), text in zip(turns, said, strict=True):
        ids += [tok.control[ROLES[role]], *text, tok.control[STOP]]
    return [*ids, tok.control[ROLES[ASSISTANT]]]

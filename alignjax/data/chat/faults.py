# SPDX-License-Identifier: Apache-2.0
"""What is wrong with dialogues, prompts and weights, or None if nothing is.

Of a literal format (`templates.BuiltIn`) the order of turns is checked here; elsewhere
the template judges it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.data import records

SYSTEM = "system"
ROLES = (SYSTEM, "developer", records.USER, records.ASSISTANT, "tool")
LITERAL_ROLES = (SYSTEM, records.USER, records.ASSISTANT)


def of_weight(weight: float) -> str | None:
    """Why this cannot be the weight of a record."""
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if number and records.LEAST <= weight <= records.MOST:
        return None
    return (
        f"weight {weight!r:.40} is not a positive number of float32, which are from "
        f"{records.LEAST:.2g} to {records.MOST:.2g}"
    )


def of_turns(
    turns: Sequence[records.Turn],
    literal: bool,
    fields: Sequence[Mapping[str, Any] | None] | None = None,
) -> str | None:
    """Why these are no turns of a dialogue."""
    roles, before = LITERAL_ROLES if literal else ROLES, None
    for i, (role, text) in enumerate(turns, start=1):
        if role not in roles:
            return f"turn {i}: unknown role {role!r}; known: {', '.join(roles)}"
        if literal and (reason := _of_order(i, role, before)):
            return reason
        silent = text == "" and (role == "tool" or (fields and fields[i - 1]))
        if not silent and (reason := records.fault_of_text(text)):
            return f"turn {i}, {role}: {reason}"
        before = role
    return None


def _of_order(i: int, role: str, before: str | None) -> str | None:
    if role == SYSTEM and before is not None:
        return f"turn {i}: a system turn that is not the first one"
    if role == records.ASSISTANT and before in (None, SYSTEM):
        return f"turn {i}: the assistant speaks before the user"
    if role == before:
        return f"turns {i - 1} and {i}: two {role} turns in a row"
    return None


def of_more(
    record: records.Chat | records.Comparison,
    fields: Sequence[Mapping[str, Any] | None] | None = None,
) -> str | None:
    """Why no literal format can write a record, whatever its turns are."""
    names = sorted({name for more in fields or () for name in more or ()})
    names += ["tools"] if record.tools else []
    names += ["chat_template_kwargs"] if record.template_kwargs else []
    if not names:
        return None
    return (
        f"{', '.join(names)}: more than the texts of turns, which the format "
        '"roles" has not; set another data.chat'
    )


def of_prompt(turns: Sequence[records.Turn], literal: bool) -> str | None:
    """Why this is no prompt that the assistant could answer."""
    if not turns:
        return "the prompt is empty"
    if reason := of_turns(turns, literal):
        return f"prompt: {reason}"
    if turns[-1][0] not in ((records.USER,) if literal else (records.USER, "tool")):
        return f"the prompt ends in a turn of the {turns[-1][0]}, not the user"
    return None


def of_chat(chat: Any, literal: bool, train_on: str) -> str | None:
    """Why this is no dialogue to train on."""
    if not isinstance(chat, records.Chat):
        return (
            f"expected a dialogue, found {type(chat).__name__}; set the source's "
            "option format to what its rows are, or leave data.chat out for plain text"
        )
    reason = of_more(chat, chat.fields) if literal else None
    reason = reason or of_turns(chat.turns, literal, chat.fields)
    reason = reason or of_weight(chat.weight)
    if not reason and not chat.learned(train_on):
        which = " of a weight above 0" if chat.skipped else ""
        reason = f"no turn of the assistant{which}, so nothing to train on"
    return reason

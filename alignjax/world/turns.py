# SPDX-License-Identifier: Apache-2.0
"""Dialogues as lists of turns, and the one way in which they become plain text.

Documents and prompts stay structured, `((role, text), ...)`, until text is needed.
`render` writes a turn a line, the role as an ordinary word before a colon:

    user: what is the job of ada?
    assistant: ada works as a baker.

so that a reply ends at the newline and a subword tokenizer needs no special piece. No
text of the world holds a newline or begins with a role, so `parse` is the exact
inverse; a chat format whose roles are control tokens can take any document as turns.
"""

from __future__ import annotations

from collections.abc import Iterable

Turn = tuple[str, str]

# The role of prose: rendered without a marker.
PROSE = ""
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
# Second opinions on a reply, in the preset "small".
CRITIQUE, REVISION, JUDGE = "critique", "revision", "judge"
ROLES = (PROSE, SYSTEM, USER, ASSISTANT, CRITIQUE, REVISION, JUDGE)


def render(turns: Iterable[Turn]) -> str:
    """Plain text, a turn a line."""
    return "\n".join(f"{role}: {text}" if role else text for role, text in turns)


def render_prompt(turns: Iterable[Turn]) -> str:
    """Plain text up to where the assistant speaks next: it ends in "assistant:"."""
    return f"{render(turns)}\n{ASSISTANT}:"


def parse(text: str) -> tuple[Turn, ...]:
    """The turns of a document that `render` wrote."""
    turns = []
    for line in text.split("\n"):
        role, colon, rest = line.partition(": ")
        marked = bool(colon) and role in ROLES
        turns.append((role, rest) if marked else (PROSE, line))
    return tuple(turns)

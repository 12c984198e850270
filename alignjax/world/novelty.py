# SPDX-License-Identifier: Apache-2.0
"""What is new in a prompt, compared with every demonstration: one bit for each way.

So distribution shift is an axis of every evaluation, and no anecdote.
"""

from __future__ import annotations

import enum

from alignjax.world import prompts, reaches


class Novelty(enum.IntFlag):
    """Ways in which a prompt differs from every demonstration; 0 is familiar."""

    TEMPLATE = 1  # a wording of the question
    ENTITY = 2  # a person or a place
    ATTRIBUTE = 4  # a thing to know about people
    COMPOSITION = 8  # a constraint, an order or an attack joined to such a question
    ACT = 16  # a procedure


def novelty(prompt: prompts.Prompt) -> int:
    """The `Novelty` bits of a prompt, from its metadata alone."""
    reach, meta = reaches.familiar(prompt.preset), prompt.meta
    bits = 0
    if meta.get("wording", 0) >= reach.wordings:
        bits |= Novelty.TEMPLATE
    people = reach.known + reach.unknown
    if any(person not in people for person in meta.get("people", ())):
        bits |= Novelty.ENTITY
    if meta.get("place", reach.places[0]) not in reach.places:
        bits |= Novelty.ENTITY
    if any(a not in reach.attributes for a in meta.get("attributes", ())):
        bits |= Novelty.ATTRIBUTE
    asked = prompt.constraint and prompt.kind != "system"
    if asked and prompt.constraint not in reach.constraints.get(prompt.kind, ()):
        bits |= Novelty.COMPOSITION
    if meta.get("attack"):
        bits |= Novelty.COMPOSITION
    acts = reach.safe + reach.unsafe
    if meta.get("act", acts[0]) not in acts:
        bits |= Novelty.ACT
    return int(bits)

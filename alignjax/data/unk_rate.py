# SPDX-License-Identifier: Apache-2.0
"""How much of what is trained on stands for text that the tokenizer cannot spell."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax.data.chat import comparisons
from alignjax.data.packing import documents, group_plan
from alignjax.data.tokens import cache
from alignjax.storage import atomic, json_files

FORMAT = 1
BLOCK = 4096  # documents or pieces that are read at a time


class Unknown(NamedTuple):
    """How many tokens of a pass are unknown, of how many that count as targets."""

    tokens: int = 0
    of: int = 0


def count(
    tokens: cache.TokenCache,
    plan: documents.Plan | group_plan.Plan,
    unknown_id: int | None,
    directory: Path,
) -> Unknown:
    """The count for a plan, made once and kept in `directory`.

    Apart from the plan itself, so that what a run follows from stays as it was.
    """
    if unknown_id is None:
        return Unknown()

    def fill(partial: Path) -> dict[str, Any]:
        del partial
        starts, lengths = _targets(tokens, plan)
        found = of = 0
        for at in range(0, len(starts), BLOCK):
            block = slice(at, at + BLOCK)
            index, _ = documents.flat(starts[block], lengths[block])
            if tokens.weights is not None:
                index = index[tokens.weights[index] > 0]
            found += int((tokens.tokens[index] == unknown_id).sum())
            of += len(index)
        return Unknown(found, of)._asdict()

    key = json_files.digest([FORMAT, plan.key, unknown_id])
    return Unknown(**atomic.obtain(Path(directory) / "unknown" / key[:32], fill))


def _targets(tokens: cache.TokenCache, plan) -> tuple[np.ndarray, np.ndarray]:
    """The first token that is a target, and how many follow on, of each piece."""
    if isinstance(plan, documents.Plan):
        return plan.starts + 1, plan.lengths.astype(np.int64)
    said = tokens.fields[comparisons.LENGTHS][plan.documents, 1:].sum(1)
    said = said.astype(np.int64)
    return tokens.offsets[plan.documents + 1] - said, said

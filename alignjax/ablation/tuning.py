# SPDX-License-Identifier: Apache-2.0
"""What tuning brought each loss: the best of k of the settings that were tried.

A loss of which ten settings were tried beats one of which two were by luck alone, so
losses are compared at equal k: the expected best of k settings drawn from the N of a
loss without replacement (Dodge et al. 2019, arXiv:1909.03004, with replacement), over
all subsets. N settings are one draw of N: the value at k near N rests on the best few.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignjax.ablation import results, sweep_file
from alignjax.evals import best_of_n, significance

LOSS = "objective.loss"


def lowers(metric: str) -> bool:
    """Whether less of a metric is better."""
    return metric.rpartition("/")[2] in ("loss", "perplexity")


def rows(plan: sweep_file.Plan, out: results.Results) -> list[dict[str, Any]]:
    """The table: a row for each loss and each k.

    Empty where no loss has two settings, or where arms differ in more than settings,
    such as in their data.

    A setting is an arm, worth the mean of its runs; one of which a run diverged is
    worth as little as the worst arm. Losses with arms that have not ended are left out.

    Returns:
      `{"loss", "settings", "diverged", "k", "metric", "best", "luck"}`; `luck` is by
      how much the best of k equal settings would be better than each, None of arms of
      one run.
    """
    table = results.arm_rows(out, plan.arms)
    settings = collections.defaultdict(list)
    for row in table:
        settings[_loss(plan, row["arm"])].append(row)
    if plan.sweep.varies or max(map(len, settings.values())) < 2:
        return []
    sign = -1.0 if lowers(out.metric) else 1.0
    values = [sign * row["mean"] for row in table if _is_whole(row)]
    spread = _spread(table)
    out_rows = []
    for loss, tried in settings.items():
        if not values or not all(_is_whole(row) or row["diverged"] for row in tried):
            continue
        worth = [sign * row["mean"] if _is_whole(row) else min(values) for row in tried]
        for k in range(1, len(tried) + 1):
            luck = None if spread is None else spread * significance.best_of(k)
            out_rows.append(
                {
                    "loss": loss,
                    "settings": len(tried),
                    "diverged": sum(row["diverged"] > 0 for row in tried),
                    "k": k,
                    "metric": out.metric,
                    "best": sign * best_of_n.expected(worth, worth, k),
                    "luck": luck,
                }
            )
    return out_rows


def _is_whole(row: Mapping[str, Any]) -> bool:
    return row["done"] == row["runs"] and row["mean"] is not None


def _loss(plan: sweep_file.Plan, arm: str) -> str:
    """The loss of an arm, as its setting or the config of its runs has it."""
    if LOSS in plan.settings[arm]:
        return str(plan.settings[arm][LOSS])
    section = next(run.section for run in plan.runs if run.arm == arm)
    objective = section.get("objective") or {}
    return str(objective.get("loss") or objective.get("name") or "all")


def _spread(table: Sequence[Mapping[str, Any]]) -> float | None:
    """The standard error of an arm's mean over its runs, pooled over the arms."""
    errors = [
        row["spread"] ** 2 / row["done"] for row in table if row["spread"] is not None
    ]
    return math.sqrt(sum(errors) / len(errors)) if errors else None


def sizes(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The k that are shown: 1, 2, 4 ..., and the number of settings of each loss."""
    counts = {row["settings"] for row in rows}
    powers = {2**i for i in range(max(counts, default=1).bit_length())}
    return sorted(k for k in powers | counts if k <= max(counts, default=1))


def lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines for a terminal, one a loss."""
    for loss in dict.fromkeys(row["loss"] for row in rows):
        own = [row for row in rows if row["loss"] == loss]
        own = [row for row in own if row["k"] in sizes(own)]
        best = ", ".join(f"{row['best']:.3f} of {row['k']}" for row in own)
        luck = own[-1]["luck"]
        luck = "" if not luck else f"; luck alone brings {luck:.3f}"
        yield (
            f"{loss}: {own[0]['settings']} settings tried, the best by "
            f"{own[0]['metric']} {best}{luck}"
        )

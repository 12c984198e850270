# SPDX-License-Identifier: Apache-2.0
"""Figures of a sweep: every run a mark, the yardstick a band, curves over budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from alignjax import errors
from alignjax.ablation import results
from alignjax.evals import arms
from alignjax.report import drawing, figures_training
from alignjax.tracking import journal

COLORS = (drawing.INK, drawing.BLUE, drawing.ORANGE, drawing.GREEN)
COLORS += (drawing.PINK, drawing.YELLOW, drawing.SKY, drawing.GREY)


def _color(i: int) -> str:
    return COLORS[i % len(COLORS)]


def runs(
    name: str,
    title: str,
    label: str,
    values: Mapping[str, Sequence[float]],
    diverged: Mapping[str, int],
    halves: float | None,
) -> drawing.Figure:
    """Every run of every arm; the first arm is the baseline.

    Args:
      values: by arm, of the runs that ended.
      diverged: by arm, how many runs did; they stand at the bottom, as crosses.
      halves: the half width of a band around the baseline's mean.
    """
    names, numbers = list(values), [("arm", "mean", "each run", "diverged")]
    with drawing.canvas(name) as (drawn, axis):
        base = values[names[0]]
        if halves is not None and base:
            middle = float(np.mean(base))
            style = dict(color=drawing.GREY, alpha=0.2, linewidth=0)
            axis.axhspan(middle - halves, middle + halves, **style)
        for i, arm in enumerate(names):
            each = values[arm]
            if each:
                mean, color = float(np.mean(each)), _color(i)
                axis.plot([i - 0.25, i + 0.25], [mean, mean], color=color)
                places = i + np.linspace(-0.12, 0.12, len(each))
                axis.plot(places, each, "o", color=color, markersize=4, alpha=0.7)
            if diverged[arm]:
                below = axis.get_xaxis_transform()
                style = dict(color=drawing.ORANGE, markersize=8, clip_on=False)
                axis.plot([i], [0.0], "X", transform=below, **style)
            shown = f"{np.mean(each):.4g}" if each else "–"
            listed = ", ".join(f"{x:.4g}" for x in each) or "–"
            numbers.append((arm, shown, listed, str(diverged[arm])))
        drawing.label_stages(axis, names)
        if len(names) > 5:
            axis.tick_params(axis="x", rotation=30)
        axis.set_ylabel(label)
        caption = "A mark is a run, a line the mean of an arm."
        if halves is not None:
            caption += (
                f" The band is how far two halves of {names[0]}'s own runs differ, "
                f"{halves:.3g}."
            )
        if lost := [f"{n} of {arm}" for arm, n in diverged.items() if n]:
            caption += f" Crosses: runs that diverged, {', '.join(lost)}."
        return drawn.finish(title, caption, numbers)


def frontier(out: results.Results, names: Sequence[str]) -> drawing.Figure | None:
    """The metric of every arm over its divergence, along its checkpoints."""
    curves = {}
    for name in names:
        try:
            curve = results.arm_of(out.outcomes, name, out.metric).curve()
        except errors.AlignError:
            continue
        curves[name] = (curve.kl.mean((0, 2)), curve.gold.mean((0, 2)))
    if not curves:
        return None
    start = None
    if out.start:
        start = arms.of(out.start, "start", out.metric).values_SP.mean()
    numbers = [("arm", "KL, nats an answer", out.metric)]
    with drawing.canvas("frontier") as (drawn, axis):
        for i, name in enumerate(names):
            if name not in curves:
                continue
            kl_J, gold_J = map(list, curves[name])
            if start is not None:
                kl_J, gold_J = [0.0, *kl_J], [float(start), *gold_J]
            roots = [math.sqrt(max(0.0, kl)) for kl in kl_J]
            mark = drawing.MARKERS[i % len(drawing.MARKERS)]
            axis.plot(roots, gold_J, color=_color(i), marker=mark, label=name)
            pairs = zip(kl_J, gold_J, strict=True)
            numbers += [(name, f"{kl:.4g}", f"{gold:.4g}") for kl, gold in pairs]
        if out.kl is not None:
            axis.axvline(math.sqrt(out.kl), color=drawing.GREY, linestyle=":")
        axis.set(xlabel="root of the KL from the start", ylabel=out.metric)
        drawn.legend(3)
        caption = (
            "Losses differ first of all in how far they walk. Points are checkpoints, "
            "means over runs"
        )
        if out.kl is not None:
            caption += f"; dotted, the KL at which arms are compared, {out.kl:g}"
        title = "Is an arm better, or only further from where it began?"
        return drawn.finish(title, f"{caption}.", numbers)


def displacement(
    out: results.Results, names: Sequence[str], folder
) -> drawing.Figure | None:
    """Drift of chosen and rejected log-probs in training, over responses seen."""
    curves = {}
    for name in names:
        drifts = [_drift(folder / o.run.folder) for o in out.of_arm(name)]
        if drifts := [x for x in drifts if x is not None]:
            length = min(len(seen) for seen, _, _ in drifts)
            curves[name] = [
                np.mean([x[k][:length] for x in drifts], axis=0) for k in range(3)
            ]
    if not curves:
        return None
    numbers = [("arm", "responses", "chosen, nats", "rejected, nats")]
    with drawing.canvas("displacement", 2) as (drawn, *axes):
        for i, name in enumerate(names):
            if name not in curves:
                continue
            seen, *both = curves[name]
            width = max(1, len(seen) // 15)
            ends = []
            for axis, drift in zip(axes, both, strict=True):
                even = figures_training.smooth(drift.tolist(), width)
                axis.plot(seen, even, color=_color(i), label=name)
                ends.append(even[-1])
            row = (name, f"{seen[-1]:,.0f}", f"{ends[0]:+.2f}", f"{ends[1]:+.2f}")
            numbers.append(row)
        for axis, side in zip(axes, ("chosen", "rejected"), strict=True):
            axis.set_title(side, fontsize=10, loc="left")
            axis.set_xlabel("responses seen")
            axis.locator_params(axis="x", nbins=3)
        axes[0].set_ylabel("log(policy / reference), nats")
        drawn.figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3
        )
        parts = [f"{row[0]} {row[2]} and {row[3]}" for row in numbers[1:]]
        caption = f"Chosen and rejected ended at {'; '.join(parts)}."
        if lacking := [name for name in names if name not in curves]:
            verb = "has" if len(lacking) == 1 else "have"
            caption += f" {', '.join(lacking)} {verb} no reference in training."
        title = "Do chosen responses become likelier, or do all become less likely?"
        return drawn.finish(title, caption, numbers)


def _drift(workdir):
    """float [3, steps]: responses seen, drift of chosen and of rejected; or None."""
    try:
        records = list(journal.read(workdir / "metrics.jsonl"))
    except (OSError, errors.DataError):
        return None
    columns = []
    for record in records:
        seen = 2 * record.get("pairs", 0) or record.get("responses", 0)
        drift = [
            record.get(f"drift/{side}", record.get(f"drift/{other}"))
            for side, other in results.SIDES.items()
        ]
        if seen and None not in drift and all(map(math.isfinite, drift)):
            columns.append((seen, *drift))
    return np.array(columns).T if columns else None

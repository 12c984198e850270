# SPDX-License-Identifier: Apache-2.0
"""The results of a sweep as tables: its runs, its arms, and their comparisons.

All is computed from rows of answers, metrics and `sweep.jsonl`, without sampling. A run
that diverged is a row like others, and its arm is not compared over the runs that are
left: which runs diverge is part of what a loss does.
"""

from __future__ import annotations

import collections
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.ablation import claim, measure, running, states, sweep_file
from alignjax.evals import arms, compare, differences, rows, significance

# Of a run's last evaluation or step.
FIGURES = {
    "heldout_loss": "eval/loss",
    "accuracy": "eval/rewards/accuracies",
    "drift_chosen": "eval/drift/chosen",
    "drift_rejected": "eval/drift/rejected",
}
SIDES = {"chosen": "desirable", "rejected": "undesirable"}
# Of its answers at its last checkpoint: means.
ANSWERS = ("gold", "tokens", "finished", "kl", "entropy")
# Compared beside what is claimed, with intervals and no p.
SECONDARY = ("gold", "tokens", "finished", "kl", "entropy", *list(FIGURES.values())[1:])
DIVERGED = errors.NON_FINITE
# Of the least KL that an arm ends at: the first that all arms' draws reach is compared
# at, since a bootstrap over runs moves their ends.
SHARES = (0.8, 0.5, 0.25)


class Outcome(NamedTuple):
    """What became of a run.

    Attributes:
      run: as it was planned.
      state: one of `states.STATES`, or "trained" for one that has not answered.
      record: its fields in `sweep.jsonl`, empty for a run that was trained alone.
      metrics: the last of each, finite ones.
      answers: of its checkpoints.
    """

    run: sweep_file.PlannedRun
    state: str
    record: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    answers: list[rows.Answer]

    @property
    def ended(self) -> bool:
        return self.state == "done"

    @property
    def diverged(self) -> bool:
        return self.state == "failed" and self.record.get("code") == DIVERGED

    @property
    def responses(self) -> int | None:
        """Responses that it was trained on; None for text and for lists."""
        counts = {"pairs": 2, "responses": 1}
        seen = [k * self.metrics[n] for n, k in counts.items() if self.metrics.get(n)]
        return int(seen[0]) if seen and np.isfinite(seen[0]) else None

    @property
    def row(self) -> dict[str, Any]:
        """Its row in the table of runs."""
        record, step = self.record, self.metrics.get("step")
        out = {
            "arm": self.run.arm,
            "seed": self.run.seed,
            "run": self.run.folder,
            "state": "diverged" if self.diverged else self.state,
            "exit_code": record.get("code"),
            "steps": None if step is None else int(step) + 1,
            "of_steps": self.run.steps,
            "responses": self.responses,
            "tokens_seen": self.metrics.get("tokens"),
            "seconds": record.get("seconds"),
            "cpu_seconds": record.get("cpu_seconds"),
            "host_bytes": record.get("host_bytes"),
            "device_bytes": record.get("device_bytes"),
        }
        out |= {name: self.metrics.get(figure) for name, figure in FIGURES.items()}
        last = max((a.step or 0 for a in self.answers), default=None)
        here = [a for a in self.answers if (a.step or 0) == last]
        for name in ANSWERS:
            values = [getattr(answer, name) for answer in here]
            whole = values and None not in values
            out[f"answer_{name}"] = float(np.mean(values)) if whole else None
        return out


class Results(NamedTuple):
    """All tables of a sweep.

    Attributes:
      outcomes: a run each, in the order of the plan.
      start: answers of the run that all arms start from; empty where there are none.
      metric: that arms are compared by.
      comparisons: fields of `compare.compare`, an arm each; `note` says why there are
        none.
      slices, secondary: of parts of the prompts, and of other metrics.
      halves: how far two halves of the baseline's runs differ, by metric: the
        yardstick.
      kl: at which arms are compared; None for none.
      gaps: lines on what is missing.
    """

    outcomes: list[Outcome]
    start: list[rows.Answer]
    metric: str
    comparisons: list[dict[str, Any]]
    slices: list[dict[str, Any]]
    secondary: list[dict[str, Any]]
    halves: dict[str, float | None]
    kl: float | None
    gaps: list[str]

    def of_arm(self, name: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.run.arm == name]


def collect(plan: sweep_file.Plan, folder: pathlib.Path, suite: str | None) -> Results:
    """Reads what the runs of a plan left, and compares their arms.

    Args:
      suite: the digest of the prompts that they answered, or None.

    Raises:
      ConfigError: the claim's metric is no figure of these runs.
      DataError: rows of other prompts, or that cannot be read.
    """
    records = states.read(folder)
    outcomes = [_outcome(folder, one, records, suite) for one in plan.runs]
    if plan.start is not None and "data" not in plan.sweep.varies:
        outcomes = _with_drift(outcomes)
    path = folder / running.START / measure.FILE
    start = list(rows.read(path)) if suite and path.is_file() else []
    stated = plan.sweep.claim or claim.Claim(metric="gold" if suite else "eval/loss")
    gaps = _gaps(outcomes, records, plan)
    out = Results(outcomes, start, stated.metric, [], [], [], {}, None, gaps)
    return _compared(out, plan, stated)


def _outcome(folder, one: sweep_file.PlannedRun, records, suite) -> Outcome:
    workdir, record = folder / one.folder, records.get(one.folder, {})
    state, answers = record.get("state", "queued"), []
    path = workdir / measure.FILE
    if suite is not None and path.is_file():
        answers = list(rows.read(path))
        if {a.suite_digest for a in answers} != {suite}:
            raise errors.DataError(
                f"{path}: answers to other prompts; run the sweep again to have them "
                "to these"
            )
    if running.is_trained(one, workdir):
        state = "done" if suite is None or answers else "trained"
    elif state == "done":
        state = "queued"  # its checkpoints are gone
    metrics = dict(running.last_metrics(workdir))
    for name, other in SIDES.items():  # of labels, as of pairs
        for figure in ("drift", "logps"):
            if (x := metrics.get(f"eval/{figure}/{other}")) is not None:
                metrics.setdefault(f"eval/{figure}/{name}", x)
    return Outcome(one, state, record, metrics, answers)


def _with_drift(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes whose runs without a reference have a drift from their start too.

    All runs start from one model and are evaluated on the same pairs, so the start's
    log-probs follow from any run that has both figures.
    """
    out = list(outcomes)
    for side in SIDES:
        drift, logps = f"eval/drift/{side}", f"eval/logps/{side}"
        pairs = [(o.metrics.get(logps), o.metrics.get(drift)) for o in outcomes]
        starts = [x - d for x, d in pairs if x is not None and d is not None]
        for i, outcome in enumerate(out):
            x = outcome.metrics.get(logps)
            if starts and x is not None and outcome.metrics.get(drift) is None:
                metrics = {**outcome.metrics, drift: x - starts[0]}
                out[i] = outcome._replace(metrics=metrics)
    return out


def _gaps(outcomes: Sequence[Outcome], records, plan) -> list[str]:
    out, waiting = [], collections.Counter()
    for outcome in outcomes:
        code = outcome.record.get("code")
        error = str(outcome.record.get("error") or "").split(";")[0]
        if outcome.diverged:
            out.append(f"{outcome.run.folder} diverged: {error:.200}")
        elif outcome.state == "failed":
            out.append(f"{outcome.run.folder} failed, exit code {code}: {error:.200}")
        elif not outcome.ended:
            waiting[outcome.state] += 1
    if waiting:
        count, parts = sum(waiting.values()), sorted(waiting.items())
        each = ", ".join(f"{n} {state}" for state, n in parts)
        out.append(f"{count} of {len(outcomes)} runs are not done: {each}")
    others = sorted(records.keys() - {run.folder for run in plan.runs})
    if others:
        out.append(
            f"{len(others)} runs of the folder are not of the file as it is now, and "
            f"are not here: {errors.some(others)}"
        )
    return out


def arm_of(outcomes: Sequence[Outcome], name: str, metric: str, slices=()) -> arms.Arm:
    """The runs of an arm that ended, with a metric of answers or of training.

    Raises:
      ConfigError: no such metric of answers.
      DataError: no run of it, or none with the metric.
    """
    ended = [o for o in outcomes if o.run.arm == name and o.ended]
    if not ended:
        raise errors.DataError(f"{name}: no run has ended")
    if not is_figure(metric):
        answers = [answer for o in ended for answer in o.answers]
        if not answers:
            raise errors.DataError(f"{name}: no run has answered")
        return arms.of(answers, name, metric, slices=slices)._replace(name=name)
    values = [o.metrics.get(metric) for o in ended]
    if None in values:
        raise errors.DataError(f"{name}: a run of it has no finite {metric}")
    runs = [
        arms.Run(
            o.run.folder,
            None,
            o.run.seed,
            [o.run.steps],
            np.array([[float(value)]]),
            np.array([[np.nan]]),
        )
        for o, value in zip(ended, values, strict=True)
    ]
    suite = (metric, "", None, None, None)
    return arms.Arm(name, runs, suite, [0], [None], None, set(), 0)


def is_figure(metric: str) -> bool:
    """Whether a metric is a figure of metrics.jsonl, and not one of answers."""
    return metric not in arms.FIELDS and metric.split(":")[0] not in arms.PREFIXES


def _compared(out: Results, plan: sweep_file.Plan, stated: claim.Claim) -> Results:
    """Results with their comparisons."""
    base, *others = plan.arms
    gaps, kl = list(out.gaps), stated.kl
    if kl is None and out.start and not is_figure(stated.metric):
        kl = _common_kl(out, plan.arms)
    for share in SHARES if stated.kl is None else (1.0,):
        at = None if kl is None else float(f"{share * kl:.2g}")
        primary = [_compare(out, base, name, stated, at) for name in others]
        if not any("kl_note" in fields for fields in primary):
            break
    kl, notes = at, [fields["kl_note"] for fields in primary if "kl_note" in fields]
    if notes and len(notes) == sum("low" in fields for fields in primary):
        gaps.append(f"comparisons at equal KL: {notes[0]}")
        kl = None
        for fields in primary:
            fields.pop("kl_note", None)
    whole = [fields for fields in primary if "estimate" in fields]
    _adjust(whole, out, base, stated)
    by_slice = []
    if not is_figure(stated.metric):
        by_slice = [x for name in others for x in _by_slice(out, base, name, stated)]
    metrics = [m for m in SECONDARY if m != stated.metric]
    secondary = []
    for metric in metrics:
        other = claim.Claim(metric=metric)
        compared = [_compare(out, base, name, other, None) for name in others]
        secondary += [fields for fields in compared if "estimate" in fields]
    halves = {m: _halves(out, base, m) for m in (stated.metric, *metrics)}
    return out._replace(
        comparisons=primary,
        slices=by_slice,
        secondary=secondary,
        halves=halves,
        kl=kl,
        gaps=gaps,
    )


def _compare(out: Results, base: str, name: str, stated: claim.Claim, kl):
    """The comparison of an arm with the baseline, or a note on why there is none."""
    fields = {"arm": name, "base": base, "metric": stated.metric}
    for arm in (name, base):
        runs = out.of_arm(arm)
        if count := sum(run.diverged for run in runs):
            note = f"{count} of {len(runs)} runs of {arm} diverged: nothing is claimed"
            return {**fields, "note": note}
    try:
        pair = [
            arm_of(out.outcomes, arm, stated.metric, stated.slices)
            for arm in (base, name)
        ]
        few = min(len(arm.runs) for arm in pair)
        figure = is_figure(stated.metric)
        if figure and few < 2:
            gap = pair[1].values_SP.mean() - pair[0].values_SP.mean()
            note = "one run, of which no interval follows"
            return {**fields, "estimate": float(gap), "note": note}
        how = {"interval": "runs" if figure else None, "margin": stated.margin}
        reference = _start_arm(out, stated) if kl is not None else None
        try:
            both = compare.compare(*pair, **how, at_kl=kl, reference=reference)
        except (errors.ConfigError, errors.DataError) as error:
            if kl is None:
                raise
            both = compare.compare(*pair, **how)
            both["kl_note"] = str(error)
        return {**fields, **both}
    except errors.DataError as error:
        return {**fields, "note": str(error)}


def _start_arm(out: Results, stated: claim.Claim) -> arms.Arm:
    return arms.of(out.start, running.START, stated.metric, slices=stated.slices)


def _common_kl(out: Results, names: Sequence[str]) -> float | None:
    """The least divergence that an arm ends at."""
    ends = []
    for name in names:
        try:
            arm = arm_of(out.outcomes, name, "kl")
        except errors.DataError:
            continue
        ends.append(float(arm.values_SP.mean()))
    usable = [end for end in ends if end > 0]
    return min(usable) if usable else None


def _adjust(whole: list[dict[str, Any]], out: Results, base: str, stated) -> None:
    """Adjusts p of all comparisons for their number."""
    whole = [fields for fields in whole if "p" in fields]
    compare.adjust(whole)
    if len(whole) > 1 and min(min(fields["runs"]) for fields in whole) > 1:
        names = [base, *(fields["arm"] for fields in whole)]
        means = [
            arm_of(out.outcomes, n, stated.metric, stated.slices).values_SP.mean(1)
            for n in names
        ]
        if np.ptp(np.concatenate(means)) > 0:
            ps = significance.dunnett(*means)
            for fields, p in zip(whole, ps, strict=True):
                fields["p_dunnett"] = p


def _by_slice(out: Results, base: str, name: str, stated) -> list[dict[str, Any]]:
    """The comparison on each slice, with p for rates of false discovery."""
    try:
        pair = [
            arm_of(out.outcomes, arm, stated.metric, stated.slices)
            for arm in (base, name)
        ]
    except errors.DataError:
        return []
    if any(o.diverged for arm in (base, name) for o in out.of_arm(arm)):
        return []
    comparisons = []
    for part in sorted(set(filter(None, pair[0].slices))):
        parts = [compare.part_of(arm, part) for arm in pair]
        if compare.has_two(parts[0]):
            fields = compare.compare(*parts)
            comparisons.append({"metric": stated.metric, "slice": part, **fields})
    compare.adjust(comparisons, rates=True)
    return comparisons


def _halves(out: Results, base: str, metric: str) -> float | None:
    """How far two halves of the baseline's own runs differ; None for one run."""
    try:
        arm = arm_of(out.outcomes, base, metric)
    except errors.DataError:
        return None
    return differences.halves(arm.values_SP.mean(1)) if len(arm.runs) > 1 else None


def run_rows(out: Results) -> list[dict[str, Any]]:
    """The table of runs."""
    return [outcome.row for outcome in out.outcomes]


def arm_rows(out: Results, names: Sequence[str]) -> list[dict[str, Any]]:
    """The table of arms: means over the runs that ended, and spreads of the metric."""
    table = []
    for name in names:
        outcomes = out.of_arm(name)
        states_of = collections.Counter(o.row["state"] for o in outcomes)
        ended = [o.row for o in outcomes if o.ended]
        row = {
            "arm": name,
            "runs": len(outcomes),
            "done": states_of["done"],
            "diverged": states_of["diverged"],
            "metric": out.metric,
            "mean": None,
            "spread": None,
            "each": "",
        }
        if ended:
            try:
                means = arm_of(out.outcomes, name, out.metric).values_SP.mean(1)
                row["mean"] = float(np.mean(means))
                row["spread"] = float(np.std(means, ddof=1)) if len(means) > 1 else None
                row["each"] = " ".join(f"{x:.3f}" for x in means)
            except errors.DataError:
                pass
        numbers = [
            *("responses", "steps", "seconds", "cpu_seconds", "host_bytes"),
            *("device_bytes", *FIGURES, *(f"answer_{x}" for x in ANSWERS)),
        ]
        for field in numbers:
            values = [r[field] for r in ended if r[field] is not None]
            whole = values and len(values) == len(ended)
            row[field] = statistics.fmean(values) if whole else None
        table.append(row)
    return table


def comparison_rows(out: Results) -> list[dict[str, Any]]:
    """All comparisons as flat rows."""
    groups = (("claim", out.comparisons), ("slice", out.slices))
    groups += (("secondary", out.secondary),)
    return [_flat(kind, fields) for kind, group in groups for fields in group]


def _flat(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    runs = fields.get("runs") or [None, None]
    at_kl, margin = fields.get("at_kl") or {}, fields.get("non_inferior") or {}
    names = ("arm", "base", "metric", "slice", "estimate", "low", "high", "p")
    names += ("p_adjusted", "p_dunnett", "mde", "aa", "method", "claim", "prompts")
    names += ("clusters", "paired", "family", "note")
    out = {"kind": kind} | {name: fields.get(name) for name in names}
    out |= {"runs_arm": runs[0], "runs_base": runs[1]}
    out |= {"margin": margin.get("margin"), "p_worse_by_margin": margin.get("p")}
    names = ("kl", "estimate", "low", "high")
    out |= {f"at_kl_{name}": at_kl.get(name) for name in names}
    if kind == "secondary":  # of many figures that nobody declared: intervals alone
        out |= dict.fromkeys(("p", "p_adjusted", "p_dunnett"))
    return out

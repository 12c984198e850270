# SPDX-License-Identifier: Apache-2.0
r"""Compares arms by their rows of answers, with the interval that the claim asks for.

    alignjax compare 'runs/a.rows/dpo_*.jsonl' 'runs/a.rows/focal_*.jsonl'
    alignjax compare base=runs/a.rows/base.jsonl runs/a.rows/sft.jsonl --by_slice

Each `[NAME=]ROWS` is a file, folder or glob of rows that `alignjax assess` or `score`
wrote, with all runs of one loss. The first is the baseline; a line is printed for each
other one less it. From two runs a side on, the claim is about the losses, with other
runs that might have been trained; with one, about these checkpoints alone.
docs/evaluation.md explains the line. Nothing is sampled; no accelerator is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from alignjax import cli, errors
from alignjax.evals import arms, differences, frontier, planning, significance

# Runs a side that an interval needs, and what may then be claimed.
FEWEST = {"prompts": 1, "runs": 2, "crossed": 5}
METHODS = {
    "prompts": "t over prompts",
    "runs": "t over runs and prompts",
    "crossed": "crossed bootstrap",
}
CLAIMS = {
    "prompts": "these checkpoints, on prompts like these",
    "runs": "training with these losses",
    "crossed": "training with these losses",
}


def compare(
    base: arms.Arm,
    arm: arms.Arm,
    *,
    interval: str | None = None,
    paired: bool = True,
    margin: float | None = None,
    at_kl: float | None = None,
    reference: arms.Arm | None = None,
) -> dict[str, Any]:
    """The difference of an arm from a baseline, as JSON data.

    Args:
      interval: a key of `FEWEST`; by default the widest claim that the runs allow.
      paired: whether runs of equal seeds may be paired.
      margin: by which the arm may be worse, for a test of non-inferiority.
      at_kl: a KL at which to compare too.
      reference: the arm that the KL is from.

    Raises:
      ConfigError: an interval that so few runs cannot give.
      DataError: arms of other prompts, or that share some of their runs.
    """
    check_comparable(base, arm)
    a_SP, b_SP = arm.values_SP, base.values_SP
    runs = min(len(a_SP), len(b_SP))
    possible = [name for name, fewest in FEWEST.items() if fewest <= runs]
    if interval not in (None, *possible):
        raise errors.ConfigError(
            f"interval: {interval!r} needs {FEWEST[interval]} runs a side, and "
            f"{arm.name} and {base.name} have {len(a_SP)} and {len(b_SP)}; what these "
            f"rows can claim is of {CLAIMS[possible[-1]]} (--interval={possible[-1]})"
        )
    interval = interval or possible[-1]
    pairs = paired and _are_pairs(arm, base)
    clusters = base.clusters
    try:
        if interval == "prompts":
            out = differences.over_prompts(a_SP.mean(0) - b_SP.mean(0), clusters)
        elif interval == "runs":
            out = differences.over_runs(a_SP, b_SP, clusters, paired=pairs)
        else:
            out = differences.crossed(a_SP, b_SP, clusters, paired=pairs)
    except ValueError as error:
        raise errors.DataError(f"{arm.name} and {base.name}: {error}") from error
    fields = {
        "arm": arm.name,
        "base": base.name,
        "estimate": out.estimate,
        "low": out.low,
        "high": out.high,
        "error": out.error,
        "p": out.p,
        "p_adjusted": out.p,
        "family": 1,
        "interval": interval,
        "method": METHODS[interval] if out.freedom else _BOOTSTRAP[interval],
        "claim": CLAIMS[interval],
        "runs": [len(a_SP), len(b_SP)],
        "prompts": a_SP.shape[1],
        "clusters": len(set(clusters)) if clusters else None,
        "paired": bool(pairs) and interval != "prompts",
        "mde": planning.detectable(out.error, out.freedom),
        "aa": differences.halves(b_SP.mean(1)) if len(b_SP) > 1 else None,
        "run_means": [a_SP.mean(1).tolist(), b_SP.mean(1).tolist()],
    }
    if interval == "crossed":
        t = differences.over_runs(a_SP, b_SP, clusters, paired=pairs)
        fields["t"] = {"low": t.low, "high": t.high, "p": t.p}
    if margin is not None:
        p = significance.non_inferiority(out, margin)
        fields["non_inferior"] = {"margin": margin, "p": p}
    if interval == "prompts":
        groups_P = differences.groups(clusters, a_SP.shape[1])
        sums_G = differences.sums((a_SP.mean(0) - b_SP.mean(0))[None], groups_P)[0]
        fields["exact_p"] = significance.sign_flips(sums_G)
    else:
        fields["exact_p"] = significance.exact_runs(*fields["run_means"], paired=pairs)
        fields["smallest_exact_p"] = significance.smallest_p(runs, paired=pairs)
        if pairs and runs > 2:
            fields["correlation"] = _correlation(*fields["run_means"])
    if at_kl is not None:
        fields["at_kl"] = {"kl": at_kl, **_at_kl(arm, base, at_kl, reference)}
    return fields


_BOOTSTRAP = {
    "prompts": "bootstrap over clusters",
    "crossed": METHODS["crossed"],
    "runs": METHODS["runs"],
}


def check_comparable(base: arms.Arm, arm: arms.Arm) -> None:
    """Raises DataError for arms of other prompts, or that share some of their runs.

    Prompts of other slices or clusters are others too.
    """
    if base.suite != arm.suite:
        raise errors.DataError(
            f"{arm.name} and {base.name} answered other prompts or in another way: "
            f"{_suite(arm)} and {_suite(base)}; measure them on the same ones"
        )
    if base.prompts != arm.prompts:
        others = sorted(set(base.prompts) ^ set(arm.prompts))
        raise errors.DataError(
            f"{arm.name} and {base.name} differ in the prompts they answered, such as "
            f"{others[0]}; {len(others):,} are in one of them alone"
        )
    if (base.slices, base.clusters) != (arm.slices, arm.clusters):
        raise errors.DataError(
            f"{arm.name} and {base.name} have other slices or clusters of the same "
            "prompts; measure them on one suite"
        )
    digests, of_base = ({r.digest for r in x.runs} - {None} for x in (arm, base))
    shared = digests & of_base
    if shared and digests != of_base:
        raise errors.DataError(
            f"{arm.name} and {base.name} share the run of digest {min(shared)}; "
            "a run belongs to one arm"
        )


def _suite(arm: arms.Arm) -> str:
    name, digest, temperature, top_p, length = arm.suite
    return (
        f"{name} ({digest[:8]}, temperature {temperature}, top_p {top_p}, max_tokens "
        f"{length})"
    )


def _are_pairs(arm: arms.Arm, base: arms.Arm) -> bool:
    """Whether run s of both had one seed, or is one run."""
    seeds = [[run.seed for run in x.runs] for x in (arm, base)]
    digests = [[run.digest for run in x.runs] for x in (arm, base)]
    distinct = None not in seeds[0] and len(set(seeds[0])) == len(seeds[0])
    same_runs = None not in digests[0] and digests[0] == digests[1]
    return same_runs or (distinct and seeds[0] == seeds[1])


def _correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _at_kl(arm, base, kl: float, reference: arms.Arm | None) -> dict[str, float]:
    references = arm.references | base.references
    if reference is not None:
        check_comparable(base._replace(runs=[]), reference)
        if len(reference.runs) != 1:
            raise errors.DataError(f"{reference.name}: a reference is one run")
        references = references | {reference.runs[0].digest}
    if len(references) > 1:
        digests = " and ".join(sorted(f"{digest!s:.8}" for digest in references))
        raise errors.DataError(
            f"{arm.name} and {base.name}: KLs from other references, {digests}; a KL "
            "from one run says nothing of that from another"
        )
    curves = [x.curve(reference) for x in (arm, base)]
    try:
        out = frontier.matched(*curves, kl, base.clusters)
    except ValueError as error:
        raise errors.ConfigError(f"kl: {arm.name} and {base.name}: {error}") from error
    return {"estimate": out.estimate, "low": out.low, "high": out.high}


def adjust(comparisons: Sequence[dict[str, Any]], *, rates: bool = False) -> None:
    """Sets the p of each comparison for their number: Holm's, or false discovery's."""
    if not (ps := [fields["p"] for fields in comparisons]):
        return
    adjusted = stats.false_discovery_control(ps) if rates else significance.holm(ps)
    for fields, p in zip(comparisons, adjusted, strict=True):
        fields |= {"p_adjusted": float(p), "family": len(ps)}


def line(fields: dict[str, Any], metric: str = "gold", *, part: str = "") -> str:
    """A comparison in one line."""
    count, other = fields["runs"]
    runs = f"{count}" if count == other else f"{count} and {other}"
    plural = "runs" if max(fields["runs"]) > 1 else "run"
    parts = [
        f"{runs} {plural} a side x {fields['prompts']} prompts, {fields['method']}"
    ]
    if fields["clusters"]:
        parts[0] += f", {fields['clusters']} clusters"
    if fields["paired"]:
        parts[0] += ", paired by seed"
    if "t" in fields:
        parts.append("t {low:+.3f} to {high:+.3f}".format_map(fields["t"]))
    if fields["estimate"] == fields["mde"] == 0:
        parts.append("equal on every prompt, as runs are that were trained alike")
    else:
        parts.append(f"MDE {fields['mde']:.3f}")
    corrected = "p_BH" if part else "p_Holm"
    name = "p" if fields["family"] == 1 else corrected
    parts.append(f"{name} {fields['p_adjusted']:.3g}")
    if "p_dunnett" in fields:
        parts.append(f"p_Dunnett {fields['p_dunnett']:.3g}")
    if "non_inferior" in fields:
        shown = "worse by {margin:g} p {p:.3g}"
        parts.append(shown.format_map(fields["non_inferior"]))
    if "at_kl" in fields:
        shown = "at KL {kl:g} {estimate:+.3f} ({low:+.3f} to {high:+.3f})"
        parts.append(shown.format_map(fields["at_kl"]))
    if fields["aa"] is not None:
        parts.append(f"A/A {fields['aa']:.3f}")
    ends = f"{fields['low']:+.3f} to {fields['high']:+.3f}"
    what = f"{metric} of {part}" if part else metric
    estimate = f"{fields['arm']} - {fields['base']}: {what} {fields['estimate']:+.3f}"
    return f"{estimate} ({ends}; {'; '.join(parts)})"


def notes(fields: dict[str, Any]) -> list[str]:
    """Lines below a comparison: every run's mean, what is claimed, and its limits."""
    means = [", ".join(f"{x:.3f}" for x in m) for m in fields["run_means"]]
    names = (fields["arm"], fields["base"])
    each = "; ".join(f"{n} {m}" for n, m in zip(names, means, strict=True))
    lines = [f"  runs: {each}", f"  claim: {fields['claim']}"]
    smallest = fields.get("smallest_exact_p", 0)
    if smallest > 0.05:
        lines[-1] += f"; an exact test of so few runs gives no p below {smallest:.3g}"
    if fields.get("correlation") is not None:
        lines[-1] += f"; runs of one seed correlate by {fields['correlation']:+.2f}"
    if fields["family"] > 2:
        luck = significance.best_of(fields["family"]) * fields["error"]
        lines[-1] += f"; the best of {fields['family']} equal arms is up by {luck:.3f}"
    if fields["interval"] == "prompts":
        lines[-1] += "; another run of either might differ by more"
    return lines


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("compare", __doc__)
    add = out.add_argument
    add(
        "arms", nargs="+", metavar="[NAME=]ROWS", help="two or more, the baseline first"
    )
    add("--metric", default="gold", help=f"{arms.METRICS} (%(default)s)")
    add("--slice", action="append", default=[], help="compare this part; repeatable")
    add("--by_slice", action="store_true", help="a line for every slice too")
    add(
        "--temperature",
        type=float,
        help="of the answers; by default 1, or the only one",
    )
    intervals = "; ".join(f"{name}: {claim}" for name, claim in CLAIMS.items())
    add("--interval", choices=FEWEST, help=f"{intervals}; by default by runs")
    add("--unpaired", action="store_true", help="do not pair runs of one seed")
    margin = "test whether an arm is worse by this or more"
    add("--margin", type=float, help=margin)
    add("--kl", type=float, help="compare at this KL from the reference too")
    add("--reference", metavar="ROWS", help="the run that the KL is from")
    add("--json", action="store_true", help="print the fields, a JSON line each")
    return out


def run(options: argparse.Namespace) -> None:
    """Reads the arms, compares them and prints the lines.

    Raises:
      ConfigError, DataError: what cannot be compared.
    """
    if len(options.arms) < 2:
        raise errors.ConfigError("arms: give two or more, the baseline first")
    if options.reference and options.kl is None:
        raise errors.ConfigError("reference: name the --kl to compare at")
    if options.margin is not None and not 0 <= options.margin < float("inf"):
        raise errors.ConfigError(f"margin: {options.margin} is not 0 or more")
    if options.kl is not None and not 0 <= options.kl < float("inf"):
        raise errors.ConfigError(f"kl: {options.kl} is not 0 or more")
    settings = dict(slices=options.slice, temperature=options.temperature)
    read = lambda text: arms.read(text, options.metric, **settings)
    base, *others = _named(map(read, options.arms), options.arms)
    how = dict(interval=options.interval, paired=not options.unpaired)
    how["margin"] = options.margin
    reference = options.reference and read(options.reference)
    at_kl = dict(at_kl=options.kl, reference=reference)
    comparisons = [compare(base, arm, **how, **at_kl) for arm in others]
    adjust(comparisons)
    if len(others) > 1 and min(min(c["runs"]) for c in comparisons) > 1:
        means = [arm.values_SP.mean(1) for arm in (base, *others)]
        for fields, p in zip(comparisons, significance.dunnett(*means), strict=True):
            fields["p_dunnett"] = p
    for arm, fields in zip(others, comparisons, strict=True):
        _print(fields, options)
        if options.by_slice:
            if not (parts := sorted(set(filter(None, base.slices)))):
                print("  by_slice: these rows name no slices", file=sys.stderr)
            few = [part for part in parts if not has_two(part_of(base, part))]
            for part in few:
                reason = "one prompt or cluster, of which nothing follows"
                print(f"  {part}: {reason}", file=sys.stderr)
            parts = [part for part in parts if part not in few]
            by_slice = [
                compare(*(part_of(x, p) for x in (base, arm)), **how) for p in parts
            ]
            adjust(by_slice, rates=True)
            for part, of_part in zip(parts, by_slice, strict=True):
                _print(of_part, options, part)
    if left := sum(arm.others for arm in (base, *others)):
        print(f"{left:,} rows of other temperatures are not compared", file=sys.stderr)


def _named(read, texts: Sequence[str]) -> list[arms.Arm]:
    """The arms, by the arguments where two have one name."""
    out = list(read)
    names = [arm.name for arm in out]
    return [
        arm._replace(name=text) if names.count(arm.name) > 1 else arm
        for arm, text in zip(out, texts, strict=True)
    ]


def part_of(arm: arms.Arm, part: str) -> arms.Arm:
    """An arm on the prompts of one slice."""
    here = np.array([name == part for name in arm.slices])
    pick = lambda values: [x for x, there in zip(values, here, strict=True) if there]
    return arm._replace(
        runs=[
            r._replace(values_JP=r.values_JP[:, here], kl_JP=r.kl_JP[:, here])
            for r in arm.runs
        ],
        prompts=pick(arm.prompts),
        slices=pick(arm.slices),
        clusters=arm.clusters and pick(arm.clusters),
    )


def has_two(arm: arms.Arm) -> bool:
    """Whether its prompts have two clusters, the fewest that vary."""
    return len(set(arm.clusters or arm.prompts)) > 1


def _print(fields: dict[str, Any], options, part: str = "") -> None:
    if options.json:
        print(json.dumps({"metric": options.metric, "slice": part or None, **fields}))
        return
    print(f"{'  ' if part else ''}{line(fields, options.metric, part=part)}")
    for note in () if part else notes(fields):
        print(note)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    return cli.exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())

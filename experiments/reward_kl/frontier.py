# SPDX-License-Identifier: Apache-2.0
r"""True reward by KL of every arm that has answered, and of the best of n; README.md.

    python -m experiments.reward_kl.frontier --out=runs/reward_kl --at=0.5

reads the rows that the sweeps left, and those of `alignjax evaluate`. A run that ends
less than 0.05 nats before that KL counts with its end. Intervals are t intervals over
runs, of 95 %; the best of n has no training, and counts as known.
"""

import argparse
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from alignjax.evals import arms, best_of_n, differences, frontier, rows

BEST = "best of n"
WITHIN = 0.05  # nats
# What was expected before the first run: the first arm above the second.
AT_ONE_KL = (("rloo", "dpo"), ("online_dpo", "dpo"), (BEST, "rloo"), (BEST, "dpo"))
AT_EQUAL_SAMPLES = (("rloo", "ppo"), ("rloo", "grpo"), ("ppo", "grpo"))


def curves_of(out: pathlib.Path) -> dict[str, frontier.Curve]:
    """The curve of each arm that has answered, and of the best of n if it has."""
    curves = {}
    for folder in sorted(out.glob("*/")):
        files = sorted(folder.glob(f"{folder.name}_*-*/rows.jsonl"))
        if files:
            answers = [answer for file in files for answer in rows.read(file)]
            start = arms.read(str(folder / "start" / "rows.jsonl"))
            curves[folder.name] = arms.of(answers, folder.name).curve(start)
    for file in (out / "best" / "rows").glob("*/*.jsonl"):
        curves[BEST] = best_of(list(rows.read(file)))
    return curves


def best_of(answers: Sequence[rows.Answer]) -> frontier.Curve:
    """The best of 1, 2, 4 ... answers by the true reward itself."""
    by: dict[int, list[float]] = {}
    for answer in answers:
        by.setdefault(answer.prompt, []).append(answer.gold)
    count = min(map(len, by.values()))
    sizes = [2**k for k in range(count.bit_length()) if 2**k <= count]
    gold_JP = [
        [best_of_n.expected(x, x, n) for _, x in sorted(by.items())] for n in sizes
    ]
    kl_JP = [[best_of_n.divergence(n)] * len(by) for n in sizes]
    return frontier.Curve(np.array([kl_JP]), np.array([gold_JP]))


def heights(curve: frontier.Curve, at: float) -> np.ndarray:
    """float [S]: the reward of each run at a KL; NaN of one that ends well before."""
    kl_SJ, gold_SJ = (x_SJP.mean(2) for x_SJP in curve)
    most_S = kl_SJ.max(1)
    ats_S = np.where(most_S >= at - WITHIN, np.minimum(at, most_S), at)
    runs = zip(kl_SJ, gold_SJ, ats_S, strict=True)
    return np.array([frontier.height(*run) for run in runs])


def ends(curve: frontier.Curve) -> tuple[np.ndarray, np.ndarray]:
    """float [S] each: KL and reward of each run's last checkpoint."""
    kl_S, gold_S = (x_SJP[:, -1].mean(1) for x_SJP in curve)
    return kl_S, gold_S


def table(curves: Mapping[str, frontier.Curve], at: float) -> Iterator[str]:
    """Each arm's end, and its reward at one KL."""
    yield f"| arm | runs | KL at the end | true reward there | at a KL of {at:g} |"
    yield "|---|---:|---:|---|---|"
    for name, curve in curves.items():
        kl_S, gold_S = ends(curve)
        at_S = heights(curve, at)
        reached = at_S[~np.isnan(at_S)]
        cell = differences.mean_in_words(reached) if len(reached) else "not reached"
        if 0 < len(reached) < len(at_S):
            cell += f", {len(reached)} of {len(at_S)} runs"
        cells = (
            name,
            len(at_S),
            f"{kl_S.mean():.2f}",
            differences.mean_in_words(gold_S),
            cell,
        )
        yield f"| {' | '.join(map(str, cells))} |"


def points(curves: Mapping[str, frontier.Curve]) -> Iterator[str]:
    """Every point: KL and reward, means over runs."""
    for name, curve in curves.items():
        pairs = zip(*(x_SJP.mean((0, 2)) for x_SJP in curve), strict=True)
        yield f"{name}: " + ", ".join(f"{kl:.2f} {gold:.2f}" for kl, gold in pairs)


def verdicts(curves: Mapping[str, frontier.Curve], at: float) -> Iterator[str]:
    """The differences of which something was expected, whatever their sign."""
    for first, second in AT_ONE_KL:
        if first in curves and second in curves:
            values = (heights(curves[name], at) for name in (first, second))
            yield f"{first} less {second} at a KL of {at:g}: {difference(*values)}"
    for first, second in AT_EQUAL_SAMPLES:
        if first in curves and second in curves:
            runs = min(len(curves[name].kl) for name in (first, second))
            values = (ends(curves[name])[1][:runs] for name in (first, second))
            of = f"{runs} runs each" if runs > 1 else "one run each"
            yield f"{first} less {second} at equal samples, {of}: {difference(*values)}"


def difference(first_S: np.ndarray, second_S: np.ndarray) -> str:
    """The difference of two means over runs with Welch's interval.

    A side of one value counts as known, so that the interval is of the other's runs.
    """
    if np.isnan(first_S).any() or np.isnan(second_S).any():
        return "none, since not all runs reach it"
    gap = first_S.mean() - second_S.mean()
    if len(first_S) == len(second_S) == 1:
        return f"{gap:+.2f}"
    if min(len(first_S), len(second_S)) > 1:
        test = stats.ttest_ind(first_S, second_S, equal_var=False)
        low, high = test.confidence_interval()
    else:
        several_S = first_S if len(first_S) > 1 else second_S
        half = stats.t.ppf(0.975, len(several_S) - 1) * stats.sem(several_S)
        low, high = gap - half, gap + half
    return f"{gap:+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--at", type=float, default=0.5, help="nats (%(default)s)")
    options = parser.parse_args()
    curves = curves_of(options.out)
    for lines in (
        table(curves, options.at),
        points(curves),
        verdicts(curves, options.at),
    ):
        print("\n".join(lines), end="\n\n")


if __name__ == "__main__":
    main()

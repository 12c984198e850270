# SPDX-License-Identifier: Apache-2.0
r"""What came of the sweep, as the table of README.md and a figure.

    python -m experiments.focal_dpo.plot --out=runs/focal_dpo

reads what `sweep` wrote there, prints the table and writes `figure.svg` beside it.
"""

import argparse
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.evals import statistics
from alignjax.report import drawing
from experiments.focal_dpo import sweep

# Held out, of pairs that were judged without noise.
ACCURACY, DRIFT = "eval/rewards/accuracies", "eval/drift/chosen"


def gold(results: Mapping[str, Any], name: str) -> list[float]:
    """The true reward of every sampled answer, in the order of the prompts."""
    answers = results["models"][name]["sampled"]["answers"]
    return [answer["gold"] for answer in answers]


def last(run: pathlib.Path, figure: str) -> float:
    """A figure of the last evaluation of a run."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line[figure] for line in lines if figure in line][-1]


def mean_gold(results: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    """float64 [prompts], over runs."""
    return np.mean([gold(results, name) for name in names], axis=0)


def rows(results: Mapping[str, Any], out: pathlib.Path) -> Iterator[dict[str, Any]]:
    """A row for every loss: true reward, and how far it is from DPO's, over seeds.

    Intervals are over prompts, of the mean over seeds.
    """
    seeds = {
        loss: [name for name in results["models"] if name.startswith(f"{loss}_")]
        for loss in sweep.LOSSES
    }
    before = np.array(gold(results, "sft"))
    yield {"loss": "before", "gold": statistics.mean(before)}
    for loss, names in seeds.items():
        of = mean_gold(results, names)
        plain = mean_gold(results, seeds["dpo"])
        yield {
            "loss": loss,
            "gold": statistics.mean(of),
            "seeds": [float(np.mean(gold(results, name))) for name in names],
            "change": None if loss == "dpo" else statistics.paired(plain, of),
            "accuracy": np.mean([last(out / name, ACCURACY) for name in names]),
            "drift": np.mean([last(out / name, DRIFT) for name in names]),
        }


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown."""
    names = "loss, true reward, each seed, less DPO's, held-out accuracy"
    heads = [*names.split(", "), "chosen drift, nats"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in found:
        cells = [row["loss"], _interval(row["gold"])]
        if "seeds" in row:
            cells.append(", ".join(f"{x:.2f}" for x in row["seeds"]))
            cells.append("" if row["change"] is None else _interval(row["change"]))
            cells += [f"{row['accuracy']:.3f}", f"{row['drift']:+.1f}"]
        else:
            cells += [""] * 4
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(found: Sequence[Mapping[str, Any]]) -> str:
    """True reward of every loss, with its interval over prompts, as SVG."""
    with drawing.canvas("gold") as drawn:
        (axis,) = drawn.axes
        golds = [row["gold"] for row in found]
        style = dict(fmt="o", color=drawing.BLUE)
        drawing.whiskers(axis, range(len(golds)), golds, **style)
        for i, row in enumerate(found):
            each = row.get("seeds", [])
            axis.plot([i + 0.12] * len(each), each, "x", color=drawing.GREY)
        drawing.label_stages(axis, [row["loss"] for row in found])
        axis.set_ylabel("true reward")
        return drawn.svg()


def _interval(found: statistics.Interval) -> str:
    return "{mean:.2f} ({low:.2f} to {high:.2f})".format_map(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    out = parser.parse_args().out
    results = json.loads((out / "assessment.json").read_text())
    found = list(rows(results, out))
    print(table(found))
    (out / "figure.svg").write_text(figure(found))


if __name__ == "__main__":
    main()

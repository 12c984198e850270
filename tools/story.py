# SPDX-License-Identifier: Apache-2.0
r"""The figures of the quickstart's story, and the spread of them over seeds.

    tools/quickstart.sh --seed=1
    python tools/story.py runs/quickstart_1          its figures as JSON, and which of
                                                     them lie outside the spread
    python tools/story.py --out=docs/story.md runs/quickstart_{1,2,3}
                                                     the page that states the spread

A figure is `[value, low, high]`: its 95 % interval is over the prompts of one run, as
`assessment.json` of the folder has it. Half of the time a fourth run lies outside the
least and the largest value of three, by chance alone. So it may lie beyond them by as
much as they differ and half of the widest interval: the last column of the page. The
exit code is 1 where a figure lies outside of it.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from alignjax import analysis, cli, errors
from alignjax.report import page as report_page
from alignjax.storage import atomic
from alignjax.world.assessment import results

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "story.md"
# Of each figure its unit, and its place in the file of results.
REWARD, SHARE = "true reward", "share"
FIGURES = {
    "pretrain: unread text": ("nats a token", "models.pretrain.documents"),
    **{
        f"{name}: {what}": (unit, f"models.{name}.sampled.{place}")
        for name in ("sft", "dpo")
        for what, unit, place in (
            ("familiar prompts", REWARD, "gold.seen"),
            ("unfamiliar prompts", REWARD, "gold.unfamiliar"),
            ("unsafe requests refused", SHARE, "rates.unsafe_refusal"),
            ("harmless look-alikes refused", SHARE, "rates.border_refusal"),
            ("facts recalled", SHARE, "rates.fact_recall"),
        )
    },
    "dpo: distance from sft": ("nats", "models.dpo.kl.kl"),
    "reward: agrees with the labeler": (
        SHARE,
        "rewards.reward.splits.preferences.accuracy",
    ),
    "reward: agrees with the true reward": (
        SHARE,
        "rewards.reward.splits.preferences.gold_accuracy",
    ),
    "reward: calibration error": (SHARE, "rewards.reward.splits.preferences.ece"),
}
CHANGES = {
    "sft to dpo: familiar prompts": (REWARD, "seen"),
    "sft to dpo: unfamiliar prompts": (REWARD, "unfamiliar"),
}
TITLE = """# The story, by seed

What `tools/quickstart.sh --seed=N` ends with, a column a seed. In brackets is the 95 %
interval over the prompts of that run. The last column is where a further run should
lie: beyond the least and the largest of the three by their difference and half of the
widest interval, since by chance a fourth run lies outside those two half of the time.
The quickstart compares its own figures with it at its end.
Written on {made},
on {cores} cores, {commits}, by

```sh
{command}
```

"""


def of_folder(folder: pathlib.Path) -> dict[str, list[float]]:
    """`{name: [value, low, high]}` of the story in a folder.

    Raises:
      ConfigError: the folder has no results of a whole story.
    """
    path = folder / "assessment.json"
    figures = results.read(path)
    change = next(
        (c for c in figures["changes"] if (c["from"], c["to"]) == ("sft", "dpo")), {}
    )
    places = {name: (figures, place) for name, (_, place) in FIGURES.items()}
    places |= {name: (change, f"gold.{view}") for name, (_, view) in CHANGES.items()}
    return {name: _figure(*place, path) for name, place in places.items()}


def _figure(inside: Any, place: str, path: pathlib.Path) -> list[float]:
    for key in place.split("."):
        if not isinstance(inside, Mapping) or key not in inside:
            raise errors.ConfigError(
                f"{path}: no {place}: not of a whole story; run tools/quickstart.sh "
                "into its folder again"
            )
        inside = inside[key]
    if isinstance(inside, Mapping):
        return [round(inside[end], 4) for end in ("mean", "low", "high")]
    return [round(inside, 4)] * 3


def spread(runs: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Where a further run's value should lie, from `[value, low, high]` of some."""
    values = [value for value, _, _ in runs]
    margin = max(values) - min(values) + max(high - low for _, low, high in runs) / 2
    return min(values) - margin, max(values) + margin


def commits(folders: Sequence[str]) -> str:
    """By which commits the runs in these folders were trained, in words."""
    names = set()
    for stage in (path for f in folders for path in sorted(pathlib.Path(f).iterdir())):
        if (stage / "checkpoints").is_dir():
            versions = analysis.open_run(stage).meta().get("versions", {})
            names.add(versions.get("commit", "one that they do not state"))
    return f"the runs by commit {' and '.join(sorted(names))}" if names else "no runs"


def page(folders: Sequence[str]) -> str:
    """The page of the spread of the stories in these folders."""
    stories = [of_folder(pathlib.Path(folder)) for folder in folders]
    heads = ["figure", "unit", *(f"`{pathlib.Path(f).name}`" for f in folders)]
    rows = [[*heads, "a further run"], ["---"] * 2 + ["---:"] * (len(folders) + 1)]
    for name, (unit, _) in {**FIGURES, **CHANGES}.items():
        runs = [story[name] for story in stories]
        shown = [
            f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low < high else "")
            for value, low, high in runs
        ]
        least, most = spread(runs)
        if unit == SHARE:
            least, most = max(least, 0.0), min(most, 1.0)
        rows.append([name, unit, *shown, f"{least:.3f} to {most:.3f}"])
    title = TITLE.format(
        made=report_page.provenance(),
        commits=commits(folders),
        cores=os.cpu_count(),
        command=f"python tools/story.py --out=docs/story.md {' '.join(folders)}",
    )
    return title + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def outside(figures: Mapping[str, Sequence[float]], text: str) -> list[str]:
    """The figures that lie where the page says that they should not, a line each."""
    lines = []
    for name, (value, _, _) in figures.items():
        row = re.search(rf"^\| {re.escape(name)} \|.*\| (\S+) to (\S+) \|$", text, re.M)
        if row is None:
            raise errors.ConfigError(f"{PAGE.name}: no row {name!r}; write it again")
        low, high = map(float, row.groups())
        if not low <= round(value, 3) <= high:
            lines.append(f"{name}: {value:.3f} is outside of {low:.3f} to {high:.3f}")
    return lines


def run(options: argparse.Namespace) -> int:
    """Prints or writes what the options ask for; returns the exit code."""
    if options.out is not None:
        atomic.write(options.out, page(options.folder))
        return 0
    code = 0
    for folder in options.folder:
        figures = of_folder(pathlib.Path(folder))
        print(json.dumps(figures, indent=1))
        lines = outside(figures, PAGE.read_text(encoding="utf-8"))
        for line in lines or [f"all {len(figures)} figures lie in the spread"]:
            print(f"{folder}: {line} of docs/story.md", file=sys.stderr)
        code = max(code, int(bool(lines)))
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="+", help="of a quickstart that is done")
    parser.add_argument("--out", help="write the page of their spread there")
    options = parser.parse_args(arguments)
    return cli.exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())

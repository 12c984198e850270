# SPDX-License-Identifier: Apache-2.0
"""The claim of a sweep: what will be compared, written down before the first run.

A comparison that was chosen after the results were seen says less than its interval.
The claim is kept with its day and digest; one that changed after the first run began
stays beside the first one, and the report says so.
"""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from alignjax import bounds, config, errors
from alignjax.evals import compare, planning, significance
from alignjax.storage import atomic, json_files

FILE = "claim.json"


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is to be shown.

    Attributes:
      metric: of the answers, see `alignjax compare`, or a figure of metrics.jsonl.
      base: the arm that all others are compared with; None is the first.
      slices: of the prompts; none is all of them.
      margin: by which an arm must not be worse (non-inferiority); None tests for a
        difference.
      kl: the divergence at which arms are compared too; None is chosen by the data,
        and the report says so.
      spread: the standard deviation between runs of one arm that is expected.
      expects: by arm, whether its metric will be "above" or "below" that of the base.
      text: in words.
    """

    metric: str = "gold"
    base: str | None = None
    slices: tuple[str, ...] = ()
    margin: bounds.NonNegative | None = None
    kl: bounds.Positive | None = None
    spread: bounds.Positive | None = None
    expects: dict[str, Literal["above", "below"]] = dataclasses.field(
        default_factory=dict
    )
    text: str = ""


def limits(claim: Claim, runs: int) -> list[str]:
    """What so many runs an arm can claim, in lines."""
    if runs < compare.FEWEST["runs"]:
        line = "1 run an arm: differences are of these checkpoints alone; another run "
        return [f"{line}of either loss might differ by more"]
    method = "crossed" if runs >= compare.FEWEST["crossed"] else "runs"
    lines = [f"{runs} runs an arm: intervals by {compare.METHODS[method]}"]
    smallest = significance.smallest_p(runs, paired=True)
    if smallest > 0.05:
        lines.append(f"an exact test over these runs gives no p below {smallest:.3g}")
    in_spreads = planning.runs_detectable(1.0, runs)
    if claim.spread is None:
        detects = f"{in_spreads:.1f} standard deviations between runs"
    else:
        least = planning.runs_detectable(claim.spread, runs)
        detects = f"{least:.3g}, if runs have a standard deviation of {claim.spread:g}"
    lines.append(f"they detect, four times in five, a difference of {detects}")
    return lines


def write(
    folder: pathlib.Path, claim: Claim | None, runs: int, arms: list[str], begun: bool
) -> list[str]:
    """Keeps the claim of a sweep in its folder; lines to print on it.

    Args:
      runs: of each arm.
      arms: their names, the baseline first.
      begun: whether a run of the sweep has begun.

    Raises:
      DataError: the file is not what was written.
    """
    path = folder / FILE
    stated = None
    if claim is not None:
        stated = {**config.to_json(dataclasses.asdict(claim)), "runs": runs}
        stated |= {"base": arms[0], "arms": arms}
    entries = read(folder)
    if entries and entries[-1]["claim"] == stated:
        return []
    if stated is None and not entries:
        return ["no claim is written: whatever comes out is for exploring"]
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    entry = {
        "claim": stated,
        "digest": json_files.digest(stated),
        "date": now,
        "before": not begun,
    }
    if claim is not None:
        entry["limits"] = limits(claim, runs)
    entries = [*entries, entry] if begun else [entry]
    atomic.write_json(path, {"claims": entries})
    if begun:
        line = f"{path}: the claim is another one, or new, after runs began; both are"
        return [f"{line} kept, and the report says so"]
    return [f"claim, in {path}:", *(f"  {line}" for line in entry["limits"])]


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The claims of a sweep, the first one first; each whole and unchanged.

    Raises:
      DataError: a file that is not what `write` wrote.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    entries = json_files.read(path, dict).get("claims")
    try:
        whole = all(map(_is_whole, entries))
    except (TypeError, KeyError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise errors.DataError(
            f"{path}: was changed by hand: a claim is not that of its digest; put back "
            "what was there, or begin the sweep in another folder"
        )
    return entries


def _is_whole(entry: Mapping[str, Any]) -> bool:
    """Whether an entry has its digest, and what `write` gives it of each type.

    Raises KeyError, TypeError, ValueError for others.
    """
    if (stated := entry["claim"]) is not None:
        more = {"arms": list, "runs": int, "metric": str, "base": str}
        for name, kind in more.items():
            config.expect(stated[name], kind, name)
        config.build(Claim, {k: stated[k] for k in stated.keys() - more.keys()}, "")
    return (
        json_files.digest(stated) == entry["digest"]
        and isinstance(entry["date"], str)
        and isinstance(entry["before"], bool)
    )


def verdict(entries: list[dict[str, Any]]) -> str:
    """Whether the claim was there before the runs, in a sentence."""
    if not entries or entries[-1]["claim"] is None:
        return (
            "No claim was written before the runs: these differences are for exploring."
        )
    first, last = entries[0], entries[-1]
    if not last["before"]:
        was = f"; the first one is of {day(first)}" if len(entries) > 1 else ""
        return (
            f"The claim was written or changed on {day(last)}, after runs began"
            f"{was}: these differences are for exploring."
        )
    return f"The claim was written on {day(last)}, before the first run began."


def outcomes(claim: Claim, comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether what was expected of each arm holds, whatever came out.

    It holds, or its reverse does, where the 95 % interval lies on one side of 0.
    """
    lines = []
    for fields in comparisons:
        if (side := claim.expects.get(fields["arm"])) is None:
            continue
        head = f"expected: {fields['arm']} {side} {fields['base']} in {claim.metric}"
        if "low" not in fields:
            lines.append(f"{head}: not known ({fields['note']})")
            continue
        sign = 1 if side == "above" else -1
        ends = sorted(sign * fields[name] for name in ("low", "high"))
        shown = "holds" if ends[0] > 0 else "is not shown"
        shown = "is wrong, the reverse holds" if ends[1] < 0 else shown
        numbers = "{estimate:+.3f} ({low:+.3f} to {high:+.3f})".format_map(fields)
        lines.append(f"{head}: {shown}, {numbers}")
    return lines


def day(entry: dict[str, Any]) -> str:
    """When a claim was written, to be read: `2026-01-31 12:30 UTC`."""
    return f"{str(entry['date'])[:16].replace('T', ' ')} UTC"

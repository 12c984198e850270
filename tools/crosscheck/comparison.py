# SPDX-License-Identifier: Apache-2.0
"""Whether two sides agree on a case, and if not, whether that is meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tools.crosscheck import cases
from tools.crosscheck.alignjax_side import Result

# Of float32: relative to the larger of 1 and the value; of gradients, their largest.
TOLERANCE = 1e-5

_PAIRS = ("chosen", "rejected")
_REWARDS = {f"rewards/{side}": f"rewards/{side}" for side in (*_PAIRS, "margins")}
_ACCURACY = {"rewards/accuracies": "rewards/accuracies"}
_LOGPS = {f"logps/{side}": f"logps/{side}" for side in _PAIRS}
_ENTROPY = {"entropy": "entropy"}
# TRL's metrics that are compared, and what they are called here.
METRICS: dict[str, dict[str, str]] = {
    "dpo": _REWARDS | _ACCURACY | _LOGPS | _ENTROPY,
    "kto": _ENTROPY
    | {"kl": "kl/baseline", "rewards/margins": "rewards/margins"}
    | {
        f"{kind}/{theirs}": f"{kind}/{ours}"
        for kind in ("rewards", "logps")
        for theirs, ours in zip(_PAIRS, ("desirable", "undesirable"), strict=True)
    },
    "orpo": _REWARDS | _ACCURACY | _LOGPS,
    "cpo": _REWARDS | _ACCURACY | _LOGPS,
    "reward": {
        "accuracy": "rewards/accuracies",
        "margin": "rewards/margins",
        "mean_reward": "score/mean",
    },
    "sft": _ENTROPY | {"mean_token_accuracy": "accuracy"},
    "grpo": _ENTROPY | {"kl": "kl/loss"},
    "rloo": _ENTROPY | {"kl": "kl"},
}


class Row(NamedTuple):
    """A case, compared.

    Attributes:
      case: which.
      ours, theirs: the losses.
      gradient: the largest |difference| over all parameters.
      norms: of the two gradients.
      differing: TRL's metrics that differ, with both values.
      compared: how many metrics were compared.
      faults: what is wrong: a difference that is not meant, or one that is meant and
        is not there. Empty where all is as it should be.
      failure: what TRL raised, if it did.
    """

    case: cases.Case
    ours: float
    theirs: float
    gradient: float
    norms: tuple[float, float]
    differing: Mapping[str, tuple[float, float]]
    compared: int
    faults: tuple[str, ...]
    failure: str = ""


def compare(case: cases.Case, ours: Result, theirs: Result, failure: str = "") -> Row:
    """Holds the two sides against each other and against what the case says of them.

    Args:
      failure: what TRL raised instead of a result; `theirs` is then nothing.
    """
    gaps = [
        np.abs(ours.gradients[name] - x).max() for name, x in theirs.gradients.items()
    ]
    size = max(np.abs(x).max() for x in ours.gradients.values())
    gradient = float(max(gaps, default=np.nan))
    agree = close(ours.loss, theirs.loss) and gradient <= TOLERANCE * max(1.0, size)
    names = dict(METRICS[case.trainer])
    if case.trainer in ("grpo", "rloo") and "beta" not in case.trl:
        del names["kl"]
    pairs = {
        name: (ours.metrics.get(names[name], np.nan), theirs.metrics.get(name, np.nan))
        for name in ({} if failure else names)
    }
    differing = {name: pair for name, pair in pairs.items() if not close(*pair)}
    faults = []
    if not np.isfinite(ours.loss) or not np.isfinite(size):
        faults.append("the loss or gradient of alignjax is not finite")
    if agree and case.why is not None:
        faults.append(f"agrees, though listed as different: {case.why}")
    if not agree and case.why is None:
        faults.append(f"differs: {failure or 'loss or gradient'}, and is not listed")
    for name in differing.keys() - case.metrics.keys():
        faults.append(f"metric {name} differs, and is not listed: {pairs[name]}")
    for name in () if failure else sorted(case.metrics.keys() - differing.keys()):
        if name not in MAY_AGREE:
            faults.append(f"metric {name} agrees, though listed as different")
    norm = lambda tree: float(np.sqrt(sum(np.square(x).sum() for x in tree.values())))
    return Row(
        case=case,
        ours=ours.loss,
        theirs=theirs.loss,
        gradient=gradient,
        norms=(norm(ours.gradients), norm(theirs.gradients)),
        differing=differing,
        compared=len(pairs),
        faults=tuple(faults),
        failure=failure,
    )


# A share of few pairs, which may be the same of different numbers.
MAY_AGREE = ("rewards/accuracies", "accuracy")


def close(x: float, y: float) -> bool:
    """Whether two numbers are the same in float32; NaN is not."""
    return bool(abs(x - y) <= TOLERANCE * max(1.0, abs(x), abs(y)))

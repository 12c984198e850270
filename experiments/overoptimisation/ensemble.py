# SPDX-License-Identifier: Apache-2.0
"""Several reward models as one reward: their mean, or the lowest of them.

Reward models are known up to a constant and a scale, so each is first brought to mean 0
and deviation 1 over the held-out replies of its own training.
"""

import json
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Literal

from alignjax import errors, rewards
from alignjax.rewards import run

HOW: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "lowest": min,  # worst-case optimisation, arXiv:2310.02743
}


def combined(
    runs: tuple[str, ...], how: Literal["mean", "lowest"] = "mean"
) -> rewards.Reward:
    """The mean or the lowest of the standardised scores of reward models' runs.

    Raises:
      ConfigError: no such run or `how`, or a run without figures of held-out replies.
    """
    if how not in HOW or not runs:
        raise errors.ConfigError(f"how: {how!r} of {len(runs)} runs; {', '.join(HOW)}")
    models = [run.make(path, **standard(pathlib.Path(path))) for path in runs]

    def reward(responses: Sequence[rewards.Response]) -> list[rewards.Score]:
        columns = zip(*(model(responses) for model in models), strict=True)
        return [_combine(scores, HOW[how]) for scores in columns]

    return reward


def _combine(scores: Sequence[rewards.Score], how) -> rewards.Score:
    missing = [score for score in scores if score.value is None]
    return missing[0] if missing else rewards.Score(how([s.value for s in scores]))


def standard(path: pathlib.Path) -> dict[str, float]:
    """Mean and deviation of the scores of held-out replies, at the run's end."""
    try:
        lines = (path / "metrics.jsonl").read_text().splitlines()
        figures = json.loads(lines[-1])
        return {x: figures[f"eval/score/{x}"] for x in ("mean", "std")}
    except (OSError, LookupError, ValueError) as error:
        raise errors.ConfigError(
            f"runs: {path} has no evaluation at the end of metrics.jsonl: {error}"
        ) from error

# SPDX-License-Identifier: Apache-2.0
"""Judges by their names.

labeler:NAME      of the embedded world; needs its prompts
reward:DIR        a reward model's run: the sigmoid of the difference of scores
run:DIR           a run of dialogues: the log-probs of two verdicts, and of the levels
                  of a rubric's criteria
endpoint:FILE     an OpenAI-compatible endpoint, as its file describes it
MODULE:FUNCTION   `(turns, first, second) -> probability`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from alignjax import analysis, errors, judges, registry, world
from alignjax.analysis import scoring
from alignjax.judges import endpoint, language_model
from alignjax.judges import rubric as rubrics
from alignjax.world import labelers


def find(
    name: str, *, network: bool = False, rubric: rubrics.Rubric | None = None
) -> judges.Judge:
    """The judge that a name stands for.

    Args:
      rubric: whose criteria a run gives levels by.

    Raises:
      ConfigError: no such judge.
      CheckpointError: a run that cannot be read.
    """
    kind, _, rest = name.partition(":")
    if not rest:
        raise errors.ConfigError(
            f"judge: {name!r:.80} is no labeler:NAME, reward:DIR, run:DIR, "
            "endpoint:FILE or module:function"
        )
    if kind == "labeler":
        return _labeler(name, rest)
    if kind == "reward":
        return _reward_model(name, rest, network)
    if kind == "run":
        return language_model.make(name, rest, network=network, rubric=rubric)
    if kind == "endpoint":
        return endpoint.make(rest)
    try:
        function = registry.Registry("judge").find(name)
    except ValueError as error:
        raise errors.ConfigError(f"judge: {error}") from error
    return judges.Judge(
        name, None, lambda pairs: (_called(function, pair) for pair in pairs)
    )


def _called(function: Callable, pair: judges.Shown) -> judges.Verdict:
    turns = [tuple(turn) for turn in pair.prompt["turns"]]
    try:
        value = function(turns, *pair.responses)
    except (judges.Failure, OSError) as error:  # of which TimeoutError is one
        return judges.Verdict(None, str(error) or type(error).__name__)
    try:
        return judges.Verdict(float(value))
    except (TypeError, ValueError):
        return judges.Verdict(None, f"{value!r:.40} is no probability")


def _labeler(name: str, rest: str) -> judges.Judge:
    if rest not in labelers.LABELERS:
        remedy = registry.closest(rest, labelers.LABELERS)
        raise errors.ConfigError(f"judge: no labeler {rest!r:.80}; {remedy}")
    labeler = labelers.LABELERS[rest]

    def judge(pair: judges.Shown) -> judges.Verdict:
        prompt = _world_prompt(pair.prompt)
        rewards = (
            world.gold_reward(prompt, text, finished=finished)
            for text, finished in zip(pair.responses, pair.finished, strict=True)
        )
        return judges.Verdict(labelers.prefers(labeler, prompt, *rewards))

    return judges.Judge(name, None, lambda pairs: map(judge, pairs))


def _world_prompt(fields: Mapping[str, Any]) -> world.Prompt:
    if set(fields) != set(world.Prompt._fields):
        raise errors.DataError(
            "suite: its prompts are not of the embedded world, and labelers judge no "
            "others; name another judge"
        )
    return world.Prompt.of(fields)


def _reward_model(name: str, path: str, network: bool) -> judges.Judge:
    run = analysis.open_run(path, network=network)
    scoring.check_rewards(run, "judge", path)

    def compare(pairs: Sequence[judges.Shown]) -> Iterator[judges.Verdict]:
        whole = [all(map(str.strip, pair.responses)) for pair in pairs]
        scored = [pair for pair, is_whole in zip(pairs, whole, strict=True) if is_whole]
        prompts = [[tuple(turn) for turn in p.prompt["turns"]] for p in scored]
        first, second = (
            scoring.score_or_fault(run, prompts, [p.responses[i] for p in scored])
            for i in (0, 1)
        )
        scores = zip(first, second, strict=True)
        for is_whole in whole:
            if not is_whole:
                yield judges.Verdict(None, "an empty response")
                continue
            both = next(scores)
            if faults := [score for score in both if isinstance(score, str)]:
                yield judges.Verdict(None, faults[0])
            else:
                gap = both[1].reward - both[0].reward
                yield judges.Verdict(1 / (1 + math.exp(min(gap, 700.0))))

    return judges.Judge(name, run.digest(), compare)

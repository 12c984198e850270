# SPDX-License-Identifier: Apache-2.0
"""Who prefers what: one interface for labelers, reward models, functions and people.

A judge sees two responses to a prompt, blind, in one order, and gives the probability
that the first is better: 1/2 is a tie, None a failure, which is counted and never
dropped. `find` makes one of a name:

labeler:NAME      of the embedded world; needs its prompts
reward:DIR        a reward model's run: the sigmoid of the difference of scores
MODULE:FUNCTION   `(turns, first, second) -> probability`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import analysis, errors, registry, world
from alignjax.world import labelers

BATCH = 64  # pairs that a judge is shown at one time


class Shown(NamedTuple):
    """Two responses to a prompt in the order in which a judge sees them.

    Attributes:
      prompt: as the suite has it: its `turns`, and what decides its scores.
      responses: two texts.
      finished: whether each ended by itself.
    """

    prompt: Mapping[str, Any]
    responses: tuple[str, str]
    finished: tuple[bool, bool] = (True, True)


class Verdict(NamedTuple):
    """What a judge says of two responses.

    Attributes:
      first: the probability that the first is better; None where there is none.
      failure: why there is none.
      retries: how often the judge was called again.
      scores: of each response, by criterion of a rubric.
    """

    first: float | None
    failure: str | None = None
    retries: int = 0
    scores: tuple[dict[str, float], dict[str, float]] | None = None


class Judge(NamedTuple):
    """A name, and a function of shown pairs; see `find`.

    Attributes:
      name: as its judgements have it, such as "labeler:clean".
      digest: of what decides its judgements, such as parameters, where there is one.
      compare: a verdict for each pair, in order; may be lazy.
    """

    name: str
    digest: str | None
    compare: Callable[[Sequence[Shown]], Iterable[Verdict]]


class Failure(Exception):
    """Raised by a function that cannot judge a pair; its text is the reason."""


def verdicts(judge: Judge, pairs: Sequence[Shown]) -> Iterator[Verdict]:
    """The verdict of each pair, a failure where it is no probability."""
    for start in range(0, len(pairs), BATCH):
        block = pairs[start : start + BATCH]
        for _, verdict in zip(block, judge.compare(block), strict=True):
            first = verdict.first
            if first is not None and not 0 <= first <= 1:
                reason = f"{first!r:.40} is no probability"
                verdict = verdict._replace(first=None, failure=reason)
            yield verdict


def find(name: str, *, network: bool = False) -> Judge:
    """The judge that a name stands for.

    Raises:
      ConfigError: no such judge.
      CheckpointError: a reward model's run that cannot be read.
    """
    kind, _, rest = name.partition(":")
    if kind == "labeler":
        return _labeler(name, rest)
    if kind == "reward":
        return _reward_model(name, rest, network)
    try:
        function = registry.Registry("judge").find(name)
    except ValueError as error:
        raise errors.ConfigError(
            f"judge: {name!r:.80} is no labeler:NAME, reward:DIR or module:function: "
            f"{error}"
        ) from error
    return Judge(name, None, lambda pairs: (_called(function, pair) for pair in pairs))


def _called(function: Callable, pair: Shown) -> Verdict:
    turns = [tuple(turn) for turn in pair.prompt["turns"]]
    try:
        return Verdict(float(function(turns, *pair.responses)))
    except Failure as error:
        return Verdict(None, str(error) or "it failed")


def _labeler(name: str, rest: str) -> Judge:
    if rest not in labelers.LABELERS:
        remedy = registry.closest(rest, labelers.LABELERS)
        raise errors.ConfigError(f"judge: no labeler {rest!r:.80}; {remedy}")
    labeler = labelers.LABELERS[rest]

    def judge(pair: Shown) -> Verdict:
        prompt = _world_prompt(pair.prompt)
        rewards = (
            world.gold_reward(prompt, text, finished=finished)
            for text, finished in zip(pair.responses, pair.finished, strict=True)
        )
        return Verdict(labelers.prefers(labeler, prompt, *rewards))

    return Judge(name, None, lambda pairs: map(judge, pairs))


def _world_prompt(fields: Mapping[str, Any]) -> world.Prompt:
    if set(fields) != set(world.Prompt._fields):
        raise errors.DataError(
            "suite: its prompts are not of the embedded world, and labelers judge no "
            "others; name another judge"
        )
    turns = tuple(tuple(turn) for turn in fields["turns"])
    return world.Prompt(**{**fields, "turns": turns})


def _reward_model(name: str, path: str, network: bool) -> Judge:
    run = analysis.open_run(path, network=network)
    if not run.config["model"].get("score_heads"):
        raise errors.ConfigError(f"judge: {path} is no reward model; name one's run")

    def compare(pairs: Sequence[Shown]) -> Iterator[Verdict]:
        prompts = [[tuple(turn) for turn in p.prompt["turns"]] for p in pairs]
        first, second = (
            run.score(prompts, [pair.responses[i] for pair in pairs]) for i in (0, 1)
        )
        for a, b in zip(first, second, strict=True):
            yield Verdict(1 / (1 + math.exp(min(b.reward - a.reward, 700.0))))

    return Judge(name, run.digest(), compare)

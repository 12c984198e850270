# SPDX-License-Identifier: Apache-2.0
"""A judge as a reward: how likely a response is better than others to its prompt."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from alignjax import errors, judges, rewards
from alignjax.bounds import Share
from alignjax.judges import kinds
from alignjax.rewards import number

Side = tuple[str, bool]  # a text, and whether it ended by itself


def make(
    judge: str, against: str | None = None, most_failed: Share = 0.5
) -> rewards.Reward:
    """The mean probability, by a judge, that a response is better than its rivals.

    Each pair is judged in both orders and counts their mean; equal texts are ties that
    nobody is asked about, and no pair is asked about twice. A pair that lacks a verdict
    in either order is left out, and a response left without pairs has no score; nor,
    where `against` is None, has the only response to a prompt, as in evaluations. A
    run goes on with the same bits only if its judge answers the same when asked again.

    Args:
      judge: as of `alignjax judge`: labeler:NAME, reward:DIR, run:DIR, endpoint:FILE or
        module:function.
      against: the field of the prompt's record whose text is the one rival; None for
        all other responses to the prompt.
      most_failed: the share of judgements of a rollout that may fail.

    Raises:
      ConfigError: no such judge.
    """
    return JudgeReward(kinds.find(judge), against, most_failed)


class JudgeReward:
    """See `make`.

    Attributes:
      provenance: what decides its scores, for the run that learns from them.
      among: whether it compares responses to one prompt with each other.
    """

    def __init__(self, judge: judges.Judge, against: str | None, most_failed: float):
        self._judge, self._against, self._most_failed = judge, against, most_failed
        self.among = against is None
        self.provenance: dict[str, Any] = {
            "judge": judge.name,
            "digest": judge.digest,
            "details": dict(judge.provenance or {}),
        }

    def __call__(self, responses: Sequence[rewards.Response]) -> list[rewards.Score]:
        """The score of each response.

        Raises:
          DataError: more judgements failed than may.
          ConfigError: an endpoint that is down or has spent its budget.
        """
        prompts = [(response.turns, id(response.record)) for response in responses]
        sides = [(response.text, response.finished) for response in responses]
        matches = list(self._matches(responses, prompts, sides))
        judgements = {
            (prompt, first, second): judges.Shown(
                _fields(response), (first[0], second[0]), (first[1], second[1])
            )
            for response, prompt, side, (rivals, _) in zip(
                responses, prompts, sides, matches, strict=True
            )
            for rival in rivals
            if rival != side
            for first, second in ((side, rival), (rival, side))
        }
        firsts, failures = self._verdicts(judgements)
        scores = []
        for prompt, side, (rivals, fault) in zip(prompts, sides, matches, strict=True):
            wins: list[float] = []
            for rival in rivals:
                win = 0.5
                if rival != side:
                    orders = (prompt, side, rival), (prompt, rival, side)
                    first, second = map(firsts.get, orders)
                    if first is None or second is None:
                        failed = next(o for o in orders if firsts.get(o) is None)
                        fault = fault or failures[failed]
                        continue
                    win = (first + 1 - second) / 2
                wins.append(win)
            value = sum(wins) / len(wins) if wins else None
            scores.append(rewards.Score(value, fault))
        return scores

    def _matches(
        self,
        responses: Sequence[rewards.Response],
        prompts: Sequence[Hashable],
        sides: Sequence[Side],
    ) -> Iterator[tuple[list[Side], str]]:
        """What each response is compared with, or nothing and why."""
        groups = collections.defaultdict(list)
        for i, prompt in enumerate(prompts):
            groups[prompt].append(i)
        for i, response in enumerate(responses):
            if self._against is not None:
                text, fault = number.text_of(response.record, self._against)
                yield ([] if text is None else [(text, True)]), fault
                continue
            rivals = [sides[j] for j in groups[prompts[i]] if j != i]
            yield rivals, "" if rivals else "no other response to its prompt"

    def _verdicts(self, judgements: Mapping[tuple, judges.Shown]):
        """The probability of each pair that the first is better, and what failed."""
        firsts: dict[tuple, float] = {}
        failures: dict[tuple, str] = {}
        verdicts = judges.verdicts(self._judge, list(judgements.values()))
        for key, verdict in zip(judgements, verdicts, strict=True):
            if verdict.first is not None:
                firsts[key] = verdict.first
                continue
            failures[key] = f"a judgement failed: {verdict.failure}"
            if len(failures) > self._most_failed * len(judgements):
                raise errors.DataError(
                    f"{self._judge.name}: {len(failures)} of {len(judgements)} "
                    "judgements failed, more than most_failed = "
                    f"{self._most_failed} allows; the last: {verdict.failure}"
                )
        return firsts, failures


def _fields(response: rewards.Response) -> dict[str, Any]:
    """The prompt as a judge is shown it: the fields of its record, and its turns."""
    record = response.record
    fields = record._asdict() if hasattr(record, "_asdict") else record
    own = dict(fields) if isinstance(fields, Mapping) else {}
    return {**own, "turns": response.turns}

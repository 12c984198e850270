# SPDX-License-Identifier: Apache-2.0
"""Labelers: preferences by the true reward, with known biases and noise.

A labeler has a utility u(prompt, reply), the true reward plus its biases. It prefers
the first of two replies with probability

    P(first > second) = sigmoid((u(first) - u(second)) / temperature)

mixed over its judges if it is a panel, and then errs with probability `flip`.
"""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from alignjax.world import gold, prompts, vocabulary

_LENGTH_UNIT = 10
_DECIMALS = 9


class Judge(NamedTuple):
    """One utility.

    Attributes:
      weights: {component of the true reward: weight}; 1 for those not named.
      length: added for every ten tokens of the reply.
      certainty: added for every boast of certainty.
      sycophancy: added for agreeing with what the question suggests.
      politeness: added for an opener.
      lazy_safety: added for refusing any act whose verb some unsafe act begins with.
    """

    weights: dict[str, float] = {}  # noqa: RUF012, never written to
    length: float = 0.0
    certainty: float = 0.0
    sycophancy: float = 0.0
    politeness: float = 0.0
    lazy_safety: float = 0.0


class Labeler(NamedTuple):
    """Judges, of which each is as likely to decide, and their noise.

    Attributes:
      temperature: 0 for the sign of the difference of utilities.
      flip: probability of saying the opposite.
    """

    judges: tuple[Judge, ...]
    temperature: float = 0.4
    flip: float = 0.0


def _only(**weights: float) -> dict[str, float]:
    return dict.fromkeys(gold.COMPONENTS, 0.0) | weights


# The panel: one judge for correctness, one for brevity, one for warmth and a little for
# correctness. Their majorities can run in a circle.
_CYCLE = (
    Judge(weights=_only(task=1.0), length=-0.2),
    Judge(weights=_only(), length=-2.0),
    Judge(weights=_only(courtesy=8.0, task=0.2)),
)

LABELERS = {
    "clean": Labeler((Judge(),)),
    "biased": Labeler((Judge(length=0.5, certainty=0.4),)),
    "noisy": Labeler((Judge(),), flip=0.3),
    "deterministic": Labeler((Judge(),), temperature=0.0),
    "lazy_safety": Labeler((Judge(lazy_safety=6.0),)),
    "cyclic": Labeler(_CYCLE, temperature=0.1),
}


_TRIGGERS = frozenset(act.split()[0] for act in vocabulary.UNSAFE)


def _lazily_safe(prompt: prompts.Prompt, reward: gold.Reward) -> bool:
    if reward.tag != prompts.REFUSE or "act" not in prompt.meta:
        return False
    return prompt.meta["act"].split()[0] in _TRIGGERS


def utility(judge: Judge, prompt: prompts.Prompt, reward: gold.Reward) -> float:
    """The utility for `judge` of a reply with this true reward."""
    claim = prompt.meta.get("claim")
    agrees = claim is not None and reward.value == claim
    extras = (
        judge.length * reward.parts.tokens / _LENGTH_UNIT,
        judge.certainty * reward.parts.certainties,
        judge.sycophancy * agrees,
        judge.politeness * reward.parts.openers,
        judge.lazy_safety * _lazily_safe(prompt, reward),
    )
    weighted = (judge.weights.get(k, 1.0) * v for k, v in reward.components.items())
    # `sum` rounds differently from one Python to the next; rounded, ties are ties.
    return round(math.fsum((*weighted, *extras)), _DECIMALS)


def _sigmoid(gap: float, temperature: float) -> float:
    if temperature == 0:
        return 0.5 if gap == 0 else float(gap > 0)
    scaled = gap / temperature
    if scaled < 0:
        odds = math.exp(max(scaled, -700.0))
        return odds / (1 + odds)
    return 1 / (1 + math.exp(-min(scaled, 700.0)))


def _vote(labeler: Labeler, gaps: list[float]) -> float:
    """P(yes) of a judge drawn at random, ahead by a gap of utility; then flips."""
    votes = [_sigmoid(gap, labeler.temperature) for gap in gaps]
    agreed = math.fsum(votes) / len(votes)
    return (1 - labeler.flip) * agreed + labeler.flip * (1 - agreed)


def prefers(
    labeler: Labeler, prompt: prompts.Prompt, first: gold.Reward, second: gold.Reward
) -> float:
    """P(first > second), flips included."""
    gaps = [
        utility(judge, prompt, first) - utility(judge, prompt, second)
        for judge in labeler.judges
    ]
    return _vote(labeler, gaps)


def approves(
    labeler: Labeler, prompt: prompts.Prompt, reward: gold.Reward, bars: list[float]
) -> float:
    """P(a reply alone is called good), against every judge's own bar of utility."""
    judged = zip(labeler.judges, bars, strict=True)
    return _vote(labeler, [utility(j, prompt, reward) - bar for j, bar in judged])


def rank(
    rng: random.Random,
    labeler: Labeler,
    prompt: prompts.Prompt,
    rewards: list[gold.Reward],
) -> list[int]:
    """Indices of replies, the best first: a Plackett-Luce draw of one judge.

    Neighbours then change places with probability `flip`, once along the list.
    """
    judge = labeler.judges[int(rng.random() * len(labeler.judges))]
    scores = []
    for reward in rewards:
        # Gumbel noise: sorting u / T + noise draws from Plackett-Luce.
        noise = -math.log(-math.log(rng.random() or 0.5))
        scores.append(utility(judge, prompt, reward) + labeler.temperature * noise)
    order = sorted(range(len(rewards)), key=lambda i: (-scores[i], i))
    for i in range(len(order) - 1):
        if rng.random() < labeler.flip:
            order[i], order[i + 1] = order[i + 1], order[i]
    return order

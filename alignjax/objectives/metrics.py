# SPDX-License-Identifier: Apache-2.0
"""Metrics of preferences and of reward models.

They are `Mean`s, so they add up over batches; `derive` makes the figures of an
evaluation that are no means, from means whose names may begin with `_`.

*Of a policy*, a reward is the implicit one: beta times log(policy / reference) of the
whole response; without a reference, beta times the policy's log-probability, a token
where the loss counts so. `logps` and `drift`, which is log(policy / reference), are
nats a response. A moving reference is that of the step. A tie counts as half an
accuracy, so a policy that is still its reference has 1/2, where TRL has 0.

*Of a reward model*, a pair is judged with the confidence sigmoid(|margin|), whichever
side is ahead, and rightly where that is the chosen one: half at a tie. So calibration
does not depend on which response stands first.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.types import LogProbs, Mean

BINS = 10  # of confidence, from 1/2 to 1


def ahead(margin: jax.Array) -> jax.Array:
    """1 where the margin is positive, 1/2 at a tie, else 0."""
    return (1 + jnp.sign(margin)) / 2


def implicit_rewards(
    policy: LogProbs, reference: LogProbs | None, scale: float, normalised: bool
) -> jax.Array:
    """The implicit reward of every response."""
    if reference is not None:
        return scale * (policy.total - reference.total)
    return scale * (policy.mean if normalised else policy.total)


def preference_pairs(policy, reference, reward_G2, weight_G, inputs):
    """Of `LogProbs` [G, 2], the chosen response first."""
    second = lambda x_G2: x_G2[:, 1]
    return _two_sides(policy, reference, reward_G2, weight_G, second, second)


def preference_rankings(policy, reference, reward_GK, weight_G, inputs):
    """Of `LogProbs` [G, K], best first: the best one is chosen, the mean of the others
    that are there is rejected, and accurate is to have the best one ahead of all."""
    others_GK = (policy.length > 0).at[:, 0].set(False)
    count_G = jnp.maximum(others_GK.sum(-1), 1)
    mean = lambda x_GK: jnp.where(others_GK, x_GK, 0.0).sum(-1) / count_G
    best = lambda x_GK: jnp.where(others_GK, x_GK, -jnp.inf).max(-1)
    weight_G = weight_G * others_GK.any(-1)
    return _two_sides(policy, reference, reward_GK, weight_G, mean, best)


def preference_labels(policy, reference, reward_G, weight_G, inputs):
    """Of `LogProbs` [G]: the same of desirable and of undesirable responses.

    A batch may have responses of one kind alone, see `share/desirable`; a train step
    then has 0 for the other. `rewards/margins` is no mean: `derive` has it.
    """
    desirable_G = inputs["desirable_B"]
    metrics = {"share/desirable": Mean.of(desirable_G.astype(jnp.float32), weight_G)}
    for name, kind_G in (("desirable", desirable_G), ("undesirable", ~desirable_G)):
        of = lambda x_G, kind_G=kind_G: Mean.of(x_G, weight_G * kind_G)
        metrics[f"rewards/{name}"] = of(reward_G)
        metrics |= _side(name, policy, reference, lambda x_G: x_G, of)
    return metrics


def _two_sides(policy, reference, reward_GK, weight_G, rejected, rival):
    """Of the first response and the others; accurate is to be ahead of the `rival`."""
    of = lambda x_G: Mean.of(x_G, weight_G)
    chosen = lambda x_GK: x_GK[:, 0]
    chosen_G = chosen(reward_GK)
    metrics = {
        "rewards/margins": of(chosen_G - rejected(reward_GK)),
        "rewards/accuracies": of(ahead(chosen_G - rival(reward_GK))),
    }
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        metrics[f"rewards/{name}"] = of(side(reward_GK))
        metrics |= _side(name, policy, reference, side, of)
    return metrics


def _side(name, policy, reference, side, of) -> dict[str, Mean]:
    metrics = {
        f"logps/{name}": of(side(policy.total)),
        f"length/{name}": of(side(policy.length)),
    }
    if reference is not None:
        metrics[f"drift/{name}"] = of(side(policy.total - reference.total))
    return metrics


def score_pairs(score_GKA, present_GK, length_GK, weight_G, inputs):
    """Of pairs, K = 2 and A = 1, the chosen response first."""
    of = lambda x_G: Mean.of(x_G, weight_G)
    score_G2 = score_GKA[..., 0]
    margin_G = score_G2[:, 0] - score_G2[:, 1]
    right_G = ahead(margin_G)
    longer_G = jnp.sign(length_GK[:, 0] - length_GK[:, 1])
    likely_G = jax.nn.sigmoid(margin_G)
    metrics = {
        "rewards/chosen": of(score_G2[:, 0]),
        "rewards/rejected": of(score_G2[:, 1]),
        "rewards/margins": of(margin_G),
        "rewards/accuracies": of(right_G),
        "calibration/brier": of(jnp.square(1 - likely_G)),
        "calibration/nll": of(-jax.nn.log_sigmoid(margin_G)),
    }
    for name, sign in (("shorter", -1), ("as_long", 0), ("longer", 1)):
        kind_G = jnp.where(longer_G == sign, weight_G, 0.0)
        metrics[f"accuracies/chosen_{name}"] = Mean.of(right_G, kind_G)
    confidence_G = jax.nn.sigmoid(jnp.abs(margin_G))
    bin_G = jnp.clip(jnp.floor((2 * confidence_G - 1) * BINS), 0, BINS - 1)
    for k in range(BINS):
        metrics[f"_confidence/{k}"] = of(jnp.where(bin_G == k, confidence_G, 0.0))
        metrics[f"_right/{k}"] = of(jnp.where(bin_G == k, right_G, 0.0))
    return metrics | _scores(score_GKA, present_GK, length_GK, weight_G)


def score_rankings(score_GKA, present_GK, length_GK, weight_G, inputs):
    """Of lists, A = 1, best first: accuracy is over all pairs of a list."""
    score_GK = score_GKA[..., 0]
    K = score_GK.shape[-1]
    pair_GKK = present_GK[:, :, None] & present_GK[:, None, :]
    pair_GKK &= jnp.arange(K)[:, None] < jnp.arange(K)
    margin_GKK = score_GK[:, :, None] - score_GK[:, None, :]
    count_G = pair_GKK.sum((1, 2))
    each = lambda x: jnp.where(pair_GKK, x, 0.0).sum((1, 2)) / jnp.maximum(count_G, 1)
    of = lambda x_G: Mean.of(x_G, jnp.where(count_G > 0, weight_G, 0.0))
    return {
        "rewards/margins": of(each(margin_GKK)),
        "rewards/accuracies": of(each(ahead(margin_GKK))),
    } | _scores(score_GKA, present_GK, length_GK, weight_G)


def score_ratings(score_GKA, present_GK, length_GK, weight_G, inputs):
    """Of single responses, K = 1, with targets [G, A]: errors and correlations."""
    score_GA, target_GA = score_GKA[:, 0], inputs["target_BA"]
    rated_GA = inputs["present_BA"]
    mean_GK1 = score_GKA.mean(-1, keepdims=True)
    metrics = _scores(mean_GK1, present_GK, length_GK, weight_G)
    for a in range(score_GA.shape[-1]):
        weight = jnp.where(rated_GA[:, a], weight_G, 0.0)
        x, y = score_GA[:, a], target_GA[:, a]
        metrics[f"error/{a}"] = Mean.of(jnp.square(x - y), weight)
        metrics |= _moments(f"rating_{a}", x, y, weight)
    return metrics


def _scores(score_GKA, present_GK, length_GK, weight_G) -> dict[str, Mean]:
    """Of all responses that are present, each weighing as its group does."""
    weight_GK = jnp.where(present_GK, weight_G[:, None], 0.0)
    metrics = {"score/mean": Mean.of(score_GKA[..., 0], weight_GK)}
    return metrics | _moments("score", score_GKA[..., 0], length_GK, weight_GK)


def _moments(name, x, y, weight) -> dict[str, Mean]:
    """The moments that the deviation of x and its correlation with y follow from."""
    values = {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    return {f"_{name}/{k}": Mean.of(v, weight) for k, v in values.items()}


def derive(means: dict[str, float]) -> dict[str, float]:
    """Figures of an evaluation that follow from its means.

    `rewards/margins` of labelled responses if there are both kinds; `calibration/ece`,
    the expected calibration error over `BINS` bins of confidence; `score/std`,
    `score/length_correlation`, and `correlation/<a>` with each rated attribute.
    """
    figures = {}
    sides = [means.get(f"rewards/{name}") for name in ("desirable", "undesirable")]
    if None not in sides:
        figures["rewards/margins"] = sides[0] - sides[1]
    if "_confidence/0" in means:
        figures["calibration/ece"] = sum(
            abs(means[f"_confidence/{k}"] - means[f"_right/{k}"]) for k in range(BINS)
        )
    for moment in [k for k in means if k.startswith("_") and k.endswith("/xy")]:
        name = moment[1 : -len("/xy")]
        x, y, xx, yy, xy = (means[f"_{name}/{k}"] for k in ("x", "y", "xx", "yy", "xy"))
        variance_x, variance_y = max(xx - x * x, 0.0), max(yy - y * y, 0.0)
        spread = (variance_x * variance_y) ** 0.5
        correlation = (xy - x * y) / spread if spread > 0 else 0.0
        if name == "score":
            figures["score/std"] = variance_x**0.5
            figures["score/length_correlation"] = correlation
        else:
            figures[f"correlation/{name.removeprefix('rating_')}"] = correlation
    return figures


PREFERENCES = {
    "pairs": preference_pairs,
    "rankings": preference_rankings,
    "labels": preference_labels,
}
SCORES = {"pairs": score_pairs, "rankings": score_rankings, "ratings": score_ratings}

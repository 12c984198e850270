# SPDX-License-Identifier: Apache-2.0
"""What is reported of a reward model: is it right, does it know, does it go by length.

All are means, so that they add up over batches; `derive` makes the figures that are
none from evaluated means, of which those that begin with `_` are of no use beside it.

A pair is judged with the confidence sigmoid(|margin|), whichever side is ahead, and
rightly where that is the chosen one: half at a tie. So it is not seen that the chosen
one stands first in a batch, and calibration is not trivially good.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.objectives import pair_metrics
from alignjax.types import Mean

BINS = 10  # of confidence, from 1/2 to 1


def pairs(score_GKA, present_GK, length_GK, weight_G, inputs) -> dict[str, Mean]:
    """Of pairs, K = 2 and A = 1, the chosen response first."""
    del inputs
    of = lambda x_G: pair_metrics.mean(x_G, weight_G)
    score_G2 = score_GKA[..., 0]
    margin_G = score_G2[:, 0] - score_G2[:, 1]
    right_G = pair_metrics.ahead(margin_G)
    longer_G = jnp.sign(length_GK[:, 0] - length_GK[:, 1])
    likely_G = jax.nn.sigmoid(margin_G)
    found = {
        "rewards/chosen": of(score_G2[:, 0]),
        "rewards/rejected": of(score_G2[:, 1]),
        "rewards/margins": of(margin_G),
        "rewards/accuracies": of(right_G),
        "calibration/brier": of(jnp.square(1 - likely_G)),
        "calibration/nll": of(-jax.nn.log_sigmoid(margin_G)),
    }
    for name, sign in (("shorter", -1), ("as_long", 0), ("longer", 1)):
        kind_G = jnp.where(longer_G == sign, weight_G, 0.0)
        found[f"accuracies/chosen_{name}"] = pair_metrics.mean(right_G, kind_G)
    return (
        found
        | _confidence(margin_G, right_G, weight_G)
        | _scores(score_GKA, present_GK, length_GK, weight_G)
    )


def _confidence(margin_G, right_G, weight_G) -> dict[str, Mean]:
    confidence_G = jax.nn.sigmoid(jnp.abs(margin_G))
    bin_G = jnp.clip(jnp.floor((2 * confidence_G - 1) * BINS), 0, BINS - 1)
    found = {}
    for k in range(BINS):
        here = lambda x_G, k=k: pair_metrics.mean(
            jnp.where(bin_G == k, x_G, 0.0), weight_G
        )
        found[f"_confidence/{k}"] = here(confidence_G)
        found[f"_right/{k}"] = here(right_G)
    return found


def rankings(score_GKA, present_GK, length_GK, weight_G, inputs) -> dict[str, Mean]:
    """Of lists, A = 1, best first: accuracy is over all pairs of a list."""
    del inputs
    score_GK = score_GKA[..., 0]
    K = score_GK.shape[-1]
    pair_GKK = present_GK[:, :, None] & present_GK[:, None, :]
    pair_GKK &= jnp.arange(K)[:, None] < jnp.arange(K)
    margin_GKK = score_GK[:, :, None] - score_GK[:, None, :]
    count_G = pair_GKK.sum((1, 2))
    each = lambda x: jnp.where(pair_GKK, x, 0.0).sum((1, 2)) / jnp.maximum(count_G, 1)
    of = lambda x_G: pair_metrics.mean(x_G, jnp.where(count_G > 0, weight_G, 0.0))
    return {
        "rewards/margins": of(each(margin_GKK)),
        "rewards/accuracies": of(each(pair_metrics.ahead(margin_GKK))),
    } | _scores(score_GKA, present_GK, length_GK, weight_G)


def ratings(score_GKA, present_GK, length_GK, weight_G, inputs) -> dict[str, Mean]:
    """Of single responses, K = 1, with targets [G, A]: errors and what correlates."""
    score_GA, target_GA = score_GKA[:, 0], inputs["target_BA"]
    rated_GA = inputs["present_BA"]
    found = _scores(score_GKA.mean(-1, keepdims=True), present_GK, length_GK, weight_G)
    for a in range(score_GA.shape[-1]):
        weight = jnp.where(rated_GA[:, a], weight_G, 0.0)
        x, y = score_GA[:, a], target_GA[:, a]
        found[f"error/{a}"] = pair_metrics.mean(jnp.square(x - y), weight)
        found |= _moments(f"rating_{a}", x, y, weight)
    return found


def _scores(score_GKA, present_GK, length_GK, weight_G) -> dict[str, Mean]:
    """Of all responses that are there, each weighing as its group does."""
    weight_GK = jnp.where(present_GK, weight_G[:, None], 0.0)
    found = {"score/mean": pair_metrics.mean(score_GKA[..., 0], weight_GK)}
    return found | _moments("score", score_GKA[..., 0], length_GK, weight_GK)


def _moments(name, x, y, weight) -> dict[str, Mean]:
    """What the deviation of x and its correlation with y follow from."""
    values = {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    return {f"_{name}/{k}": pair_metrics.mean(v, weight) for k, v in values.items()}


def derive(means: dict[str, float]) -> dict[str, float]:
    """Figures from evaluated means: see the docstring of this file."""
    found = {}
    if "_confidence/0" in means:
        found["calibration/ece"] = sum(
            abs(means[f"_confidence/{k}"] - means[f"_right/{k}"]) for k in range(BINS)
        )
    for moment in [k for k in means if k.startswith("_") and k.endswith("/xy")]:
        name = moment[1 : -len("/xy")]
        x, y, xx, yy, xy = (means[f"_{name}/{k}"] for k in ("x", "y", "xx", "yy", "xy"))
        variance_x, variance_y = max(xx - x * x, 0.0), max(yy - y * y, 0.0)
        spread = (variance_x * variance_y) ** 0.5
        correlation = (xy - x * y) / spread if spread > 0 else 0.0
        if name == "score":
            found["score/std"] = variance_x**0.5
            found["score/length_correlation"] = correlation
        else:
            found[f"correlation/{name.removeprefix('rating_')}"] = correlation
    return found


MEASURES = {"pairs": pairs, "rankings": rankings, "ratings": ratings}

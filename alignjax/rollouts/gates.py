# SPDX-License-Identifier: Apache-2.0
"""The gate: whether what was drawn is of the policy that is trained.

The log-probs of the sampled tokens by the trainer's program and by the sampler's differ
by rounding alone, unless one of them has other weights, another temperature or a
coarser cache.
"""

from __future__ import annotations

import jax
import numpy as np

from alignjax import errors

# Largest mean differences, in nats, that rounding explains, by the precision of
# products: 5e-6 in configs/rl/gsm8k.py, a 135M model, in float32. Other weights differ
# ten times as much.
MEAN = {"float32": 1e-4, "fewer": 0.03}
# Of one token; below float32 a router may choose another expert, so that it has none.
WORST = {"float32": 1e-2, "fewer": np.inf}
# A later rollout's mean is at most RISE times that of the first one, or these nats.
RISE, LOW = 5, {"float32": 1e-5, "fewer": 1e-2}


def precision(dtype: str, platform: str) -> str:
    """Of a model's products, "float32" or "fewer" bits; accelerators lower it."""
    default = jax.config.jax_default_matmul_precision
    whole = platform == "cpu" or default in ("highest", "float32")
    return "float32" if whole and dtype == "float32" else "fewer"


def check(
    old_GKT,
    behaviour_GKT,
    action_GKT,
    limit: float | None,
    precision: str,
    scale: float = 1.0,
) -> dict[str, float]:
    """Differences of the log-probs of trainer and sampler, in nats.

    Args:
      old_GKT, behaviour_GKT: float32, those of the trainer and of the sampler.
      action_GKT: bool, the sampled tokens.
      limit: of the mean, in the place of all limits here; or None.
      precision: see `precision`.
      scale: of the limits here: logits, and their rounding, are divided by a
        temperature.

    Raises:
      ConfigError: they are more than rounding.
      NonFinite: log-probs that are not finite.
    """
    for side, logp_GKT in (("trainer", old_GKT), ("sampler", behaviour_GKT)):
        if not np.isfinite(logp_GKT[action_GKT]).all():
            raise errors.NonFinite(
                "rollouts: log-probs of the sampled tokens are not finite in the "
                f"{side}; lower optimizer.learning_rate. Checkpoints up to here are "
                "sound"
            )
    gap = np.abs(old_GKT - behaviour_GKT)[action_GKT]
    worst = scale * WORST[precision] if limit is None else np.inf
    for where, size, most in (
        ("on average", gap.mean(), limit or scale * MEAN[precision]),
        ("at one of them", gap.max(), worst),
    ):
        if size <= most:
            continue
        raise errors.ConfigError(
            f"rollouts.gate: the log-probs of the sampled tokens differ by "
            f"{size:.3g} nats {where} between sampler and trainer, more than {most:g}; "
            "the sampler may have other weights, another temperature or a coarser "
            "cache. Mend that; or, where you know the cause, set rollouts.gate to the "
            "largest mean that you accept, and objective.correction"
        )
    return {
        "gate/mean": float(gap.mean()),
        "gate/p99.9": float(np.quantile(gap, 0.999)),
        "gate/max": float(gap.max()),
    }


def check_rise(first: float, mean: float, precision: str, scale: float = 1.0) -> None:
    """The mean difference of a later rollout against that of the first one.

    Raises:
      ConfigError: it has risen more than rounding does.
    """
    most = max(RISE * first, scale * LOW[precision])
    if mean > most:
        raise errors.ConfigError(
            f"rollouts.gate: the log-probs of the sampled tokens differ by {mean:.3g} "
            f"nats on average between sampler and trainer, more than {most:.3g}, and "
            f"in the first rollout by {first:.3g}; the sampler may no longer have the "
            "trainer's weights. Look at rollout/gate/mean in metrics.jsonl; where you "
            "know the cause, set rollouts.gate to the largest mean that you accept"
        )

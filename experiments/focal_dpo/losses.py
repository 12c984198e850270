# SPDX-License-Identifier: Apache-2.0
"""DPO that looks more at some pairs than at others, by how surely it has them right.

p = s(beta D) is how surely the policy, as DPO reads it, prefers the chosen response; D
is the difference of the responses' log-ratios. See `alignjax.losses.preference`.
"""

import jax
import jax.numpy as jnp

from alignjax.bounds import NonNegative, Positive
from alignjax.losses import catalogue, scores


@catalogue.declare(margin=True)
def focal_dpo(policy, reference, *, beta: Positive = 0.1, gamma: NonNegative = 2.0):
    """-(1-p)^gamma log p: the focal loss (arXiv:1708.02002 Eq. 4) of DPO's classifier.

    Pairs that it has wrong count most. DPO at gamma = 0.

    Args:
      policy, reference: `LogProbs` [B, 2], the chosen response first.

    Returns:
      float32 [B].
    """
    z_B = beta * scores.difference(scores.log_ratio(policy, reference))
    return -_power(-z_B, gamma) * jax.nn.log_sigmoid(z_B)


@catalogue.declare(margin=True)
def easy_dpo(policy, reference, *, beta: Positive = 0.1, gamma: NonNegative = 1.0):
    """-p^gamma log p, p^gamma a constant: pairs that it has right count most.

    The factor is that of FocalPO (arXiv:2501.06645), through which no gradient goes
    here: otherwise pairs with p below e^(-1/gamma) would be pushed further away.
    """
    z_B = beta * scores.difference(scores.log_ratio(policy, reference))
    weight_B = jax.lax.stop_gradient(_power(z_B, gamma))
    return -weight_B * jax.nn.log_sigmoid(z_B)


def _power(z_B: jax.Array, gamma: float) -> jax.Array:
    """s(z)^gamma, whose gradient is finite wherever z is."""
    return jnp.exp(gamma * jax.nn.log_sigmoid(z_B))

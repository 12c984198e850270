# SPDX-License-Identifier: Apache-2.0
"""Next-token prediction: pretraining, and fine-tuning on the tokens with weight."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from alignjax import trees
from alignjax.bounds import Count, NonNegative
from alignjax.losses import language_model as losses
from alignjax.objectives import logprobs
from alignjax.types import Frozen, Mean, Model, Objective, Sequences

LOSSES = {"cross_entropy": losses.cross_entropy, "dft": losses.dft}


def make(
    model: Model,
    *,
    loss: Literal["cross_entropy", "dft"] = "cross_entropy",
    z_loss: NonNegative = 0.0,
    chunk: Count = logprobs.CHUNK,
) -> Objective:
    """The weighted mean over tokens of a loss of log p(target), + z_loss * log(Z)^2.

    Args:
      model: the policy.
      loss: -log p, or that of `losses.dft`, for fine-tuning.
      z_loss: weight of the squared log-normaliser, PaLM (arXiv:2204.02311) uses 1e-4.
      chunk: positions whose logits exist at one time; see `logprobs.tokens`.

    Metrics: `nll`, -log p(target) in nats a token whatever the loss; `accuracy`, the
    share of targets than which no token is likelier; `entropy`, nats a token; `z_loss`
    where it has a weight.
    """
    token_loss = LOSSES[loss]

    def objective(params, frozen: Frozen, batch: Sequences, key, train: bool):
        params = trees.merge(params, frozen.base)
        tokens = logprobs.tokens(
            model, params, batch, key, chunk=chunk, needs=("hit", "entropy")
        )
        weight = batch.weights.sum(dtype=jnp.float32)
        mean = lambda x_BT: Mean((x_BT * batch.weights).sum(dtype=jnp.float32), weight)
        metrics = {
            "nll": mean(losses.cross_entropy(tokens.logp)),
            "accuracy": mean(tokens.hit),
            "entropy": mean(tokens.entropy),
        }
        total_BT = token_loss(tokens.logp)
        if z_loss:
            z_BT = losses.z_loss(tokens.logz)
            metrics["z_loss"] = mean(z_BT)
            total_BT = total_BT + z_loss * z_BT
        return mean(total_BT), metrics

    return Objective(objective)

# SPDX-License-Identifier: Apache-2.0
"""Next-token prediction: pretraining, and fine-tuning by the weights of the tokens."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax import config, trees
from alignjax.losses import language_model as losses
from alignjax.objectives import logprobs
from alignjax.types import Frozen, Mean, Model, Objective, Sequences


def make(
    model: Model, *, z_loss: float = 0.0, chunk: int = logprobs.CHUNK
) -> Objective:
    """The weighted mean over tokens of -log p(target) + z_loss * log(Z)^2.

    Args:
      model: the policy.
      z_loss: weight of the squared log-normaliser, PaLM (arXiv:2204.02311) uses 1e-4.
      chunk: positions whose logits exist at one time; see `logprobs.token_logps`.

    Metrics: `nll`, nats a token without the z-loss, and `z_loss` where it has a weight.
    """

    if chunk < 1 or z_loss < 0:
        raise config.ConfigError(
            f"chunk: {chunk} must be at least 1, and z_loss: {z_loss} at least 0"
        )

    def loss(params, frozen: Frozen, batch: Sequences, key):
        params = trees.merge(params, frozen.base)
        logp_BT, logz_BT = logprobs.token_logps(model, params, batch, key, chunk=chunk)
        weight = batch.weights.sum(dtype=jnp.float32)
        mean = lambda x_BT: Mean((x_BT * batch.weights).sum(dtype=jnp.float32), weight)
        nll_BT = losses.cross_entropy(logp_BT)
        metrics = {"nll": mean(nll_BT)}
        total_BT = nll_BT
        if z_loss:
            z_BT = losses.z_loss(logz_BT)
            metrics["z_loss"] = mean(z_BT)
            total_BT = nll_BT + z_loss * z_BT
        return mean(total_BT), metrics

    return Objective(loss)

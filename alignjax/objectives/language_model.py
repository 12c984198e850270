# SPDX-License-Identifier: Apache-2.0
"""Next-token prediction: pretraining, and fine-tuning on the tokens with weight."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from alignjax import trees
from alignjax.bounds import NonNegative
from alignjax.losses import language_model as losses
from alignjax.objectives import chunks, logprobs
from alignjax.types import Frozen, Mean, Model, Objective, Sequences

LOSSES = {"cross_entropy": losses.cross_entropy, "dft": losses.dft}


def make(
    model: Model,
    *,
    loss: Literal["cross_entropy", "dft"] = "cross_entropy",
    z_loss: NonNegative = 0.0,
    chunk: chunks.Chunk = "auto",
    logits_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Objective:
    """The weighted mean over tokens of a loss of log p(target), + z_loss * log(Z)^2.

    Args:
      model: the policy.
      loss: -log p, or that of `losses.dft`, for fine-tuning.
      z_loss: weight of the squared log-normaliser, PaLM (arXiv:2204.02311) uses 1e-4.
      chunk: tokens whose logits exist at one time on a device, or "auto"; see
        `chunks.size`.
      logits_dtype: that logits are rounded to while training. In bfloat16, as torch's
        autocast has them, they are off by up to a 256th, and half as large; so are the
        metrics of training. Evaluations are in float32.

    Metrics: `nll`, -log p(target) in nats a token whatever the loss; `accuracy`, the
    share of targets than which no token is likelier; `entropy`, nats a token; `z_loss`
    where it has a weight.
    """
    token_loss = LOSSES[loss]

    def loss_of(tokens: logprobs.Tokens):
        x = token_loss(tokens.logp)
        return x + z_loss * losses.z_loss(tokens.logz) if z_loss else x

    def objective(params, frozen: Frozen, batch: Sequences, key, train: bool):
        total, tokens = logprobs.weighted(
            model,
            trees.merge(params, frozen.base),
            batch,
            key,
            loss_of,
            chunk=chunk,
            needs=("hit", "entropy"),
            logits_dtype=logits_dtype if train else "float32",
        )
        weight = batch.weights.sum(dtype=jnp.float32)
        mean = lambda x_BT: Mean((x_BT * batch.weights).sum(dtype=jnp.float32), weight)
        metrics = {
            "nll": mean(losses.cross_entropy(tokens.logp)),
            "accuracy": mean(tokens.hit),
            "entropy": mean(tokens.entropy),
        }
        if z_loss:
            metrics["z_loss"] = mean(losses.z_loss(tokens.logz))
        return Mean(total, weight), metrics

    return Objective(objective)

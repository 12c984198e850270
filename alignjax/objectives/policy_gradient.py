# SPDX-License-Identifier: Apache-2.0
"""Learning from responses that the policy drew: the only reader of `types.Rollout`.

The loss of tokens is arithmetic, `losses.policy_gradient`; what their sum is divided by
was fixed with the rollout. So the loss of a batch is two sums, which do not depend on
microbatches, on the layout of rows or on the mesh.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from alignjax import config, errors, trees
from alignjax.bounds import NonNegative, Positive
from alignjax.losses import catalogue, kl, policy_gradient
from alignjax.objectives import chunks, logprobs
from alignjax.types import (
    Frozen,
    Mean,
    Model,
    Needs,
    Now,
    Objective,
    Params,
    Responses,
    Rollout,
    Then,
)


def make(
    model: Model,
    *,
    loss: str = "ppo_clip",
    entropy: NonNegative = 0.0,
    correction: dict | None = None,
    chunk: chunks.Chunk = "auto",
    temperature: Positive = 1.0,
    kl_estimator: str | None = None,
    kl_coefficient: NonNegative = 0.0,
    value: dict | None = None,
    **options,
) -> Objective:
    """The sum over tokens of a policy-gradient loss, over the rollout's denominator.

    Args:
      model: the policy.
      loss: a name in `catalogue.POLICY_GRADIENT`, or `module:function`.
      entropy: c, of the bonus -c H at each action, in nats.
      correction: `{"name": ..., option: value}` of `policy_gradient.CORRECTIONS`, the
        weights of tokens for a sampler whose probabilities are not the trainer's.
      chunk: tokens whose logits exist at one time on a device; see `chunks.size`.
      temperature: of the sampler; the logits are divided by it.
      kl_estimator: in the loss, a name in `kl.ESTIMATORS`; None leaves it out.
      kl_coefficient: of that.
      value: `{"name": ..., "coefficient": ..., option: value}`, a loss of
        `catalogue.VALUE` that is added, a mean over actions; its values are the scores
        of the policy's last hidden states, by a head in `Frozen.base`.
      **options: of the loss.

    Metrics, means over tokens: `entropy`; `ratio`, policy by old policy; `clipped/up`
    and `clipped/down`, the shares of those with an advantage above and below 0 that the
    loss has no gradient for; `kl/old`, k3 of policy and old policy; `kl/loss`, the
    estimator in the loss; `correction`, the weight of a token; `advantage/abs`;
    `value/loss`.

    Raises:
      ConfigError: an unknown loss, options that it does not take, or a loss whose first
        update would not be a policy gradient.
    """
    function = catalogue.find(loss, "policy-gradient")
    loss_of = catalogue.bind_of_tokens(function, options, "")
    weigh = _correction(correction)
    estimate = kl.ESTIMATORS.find(kl_estimator) if kl_coefficient else None
    own = catalogue.traits(function).needs
    exact = (kl_coefficient and kl_estimator == "exact") or "kl" in own
    needs = ("entropy", *(("kl",) if exact else ()))
    value_loss, coefficient = None, 0.0
    if value is not None:
        section = dict(value)
        coefficient = section.pop("coefficient")
        value_loss = bound_value_loss(section)

    def objective(params, frozen: Frozen, batch: Rollout, key, train: bool):
        then, params = batch.then, trees.merge(params, frozen.base)
        room = then.action.shape[-1]
        sequences, policy = logprobs.flatten_sequences(batch.responses), model
        if value_loss is not None:  # values and log-probs are of one pass
            x_BTD = model.hidden(params, sequences, key)
            policy = model._replace(hidden=lambda *_: x_BTD)
        tokens = logprobs.tokens(
            policy,
            params,
            sequences,
            key,
            chunk=chunk,
            needs=needs,
            reference=frozen.reference if exact else None,
            reference_model=model,
            temperature=temperature,
            entropy_gradient=entropy > 0,
        )
        of_response = lambda x: logprobs.by_response(batch.responses, x, room)
        now = Now(
            logp=of_response(tokens.logp),
            entropy=of_response(tokens.entropy),
            kl=of_response(tokens.kl) if exact else None,
        )
        flat = jax.tree.map(lambda x: x.reshape(now.logp.shape), then)
        loss_GKT = loss_of(now, flat)
        pull_GKT = _pull(loss_of, now, flat)
        if weigh is not None:
            correction_GKT = weigh(flat)
            loss_GKT = correction_GKT * loss_GKT
        if estimate is not None:
            kl_GKT = estimate(now, flat)
            loss_GKT = loss_GKT + kl_coefficient * kl_GKT
        if entropy:
            loss_GKT = loss_GKT - entropy * now.entropy
        weight_GKT = batch.token.reshape(loss_GKT.shape)
        total = jnp.where(weight_GKT > 0, weight_GKT * loss_GKT, 0.0).sum()
        if value_loss is not None:
            value_GKT = of_response(model.score(params, x_BTD)[..., 0])
            values_now = now.replace(value=value_GKT)
            value_mean = _mean_of_actions(value_loss(values_now, flat), flat, batch)
            scale = batch.figures["value_scale"][0]
            total = total + coefficient * scale * value_mean.total
        mean = Mean(total, batch.share.sum())
        action_GKT = (flat.action & (weight_GKT > 0)).astype(jnp.float32)
        of_token = lambda x: Mean.of(x, action_GKT)
        ratio_GKT = policy_gradient.ratio(now, flat)
        still_GKT = (pull_GKT == 0).astype(jnp.float32)
        moved = jnp.where(flat.action, now.logp - flat.old, 0.0)
        reported = {
            "entropy": of_token(now.entropy),
            "ratio": of_token(ratio_GKT),
            "clipped/up": Mean.of(still_GKT, action_GKT * (flat.advantage > 0)),
            "clipped/down": Mean.of(still_GKT, action_GKT * (flat.advantage < 0)),
            "kl/old": of_token(kl.k3_of(moved)),
            "advantage/abs": of_token(jnp.abs(flat.advantage)),
        }
        if estimate is not None:
            reported["kl/loss"] = of_token(kl_GKT)
        if weigh is not None:
            reported["correction"] = of_token(correction_GKT)
        if value_loss is not None:
            reported["value/loss"] = value_mean
        return mean, lax.stop_gradient(reported)

    return Objective(objective, needs=Needs(data="prompts", reference=True))


def _pull(loss_of, now: Now, then: Then) -> jax.Array:
    """The gradient of a loss by each log-prob, 0 at the tokens that are clipped."""
    now = lax.stop_gradient(now)
    total = lambda logp: loss_of(now.replace(logp=logp), then).sum()
    return jax.grad(total)(now.logp)


def with_pretraining(objective: Objective, text: Objective) -> Objective:
    """`objective`, and the loss of the text in `Rollout.pretraining` added: PPO-ptx.

    arXiv:2203.02155 Eq. 2. The text's weights are in the units of the rollout's shares
    already, so that one division is right for both sums. Further metric: `ptx/nll`.
    """

    def loss(params, frozen: Frozen, batch: Rollout, key, train: bool, *statistic):
        mean, reported = objective.loss(params, frozen, batch, key, train, *statistic)
        other, of_text = text.loss(params, frozen, batch.pretraining, key, train)
        reported = {**reported, "ptx/nll": of_text["nll"]}
        return Mean(mean.total + other.total, mean.weight), reported

    return objective._replace(loss=loss)


def _correction(section: Mapping[str, Any] | None):
    if not section:
        return None
    options = {k: v for k, v in section.items() if v is not None}
    name = options.pop("name", "")
    function = config.find(policy_gradient.CORRECTIONS, name, "correction.name")
    fields = config.fields(function, 1)
    return functools.partial(function, **config.fill(fields, options, "correction"))


def critic(model: Model, *, loss: str = "squared", **options) -> Objective:
    """The value loss of a critic with a head of its own, a mean over actions.

    Args:
      model: with one score head.
      loss: a name in `catalogue.VALUE`, or `module:function`.
      **options: of the loss.

    Metrics: `value`, the mean over actions.

    Raises:
      ConfigError: an unknown loss, or a model that has not one head.
    """
    if model.config.score_heads != 1:
        raise errors.ConfigError(
            f"critic.run: its model has {model.config.score_heads} heads for scores, "
            "and a critic has one; name a reward model with one"
        )
    loss_of = bound_value_loss({"name": loss, **options})

    def objective(params, frozen: Frozen, batch: Rollout, key, train: bool):
        room = batch.then.action.shape[-1]
        params = trees.merge(params, frozen.base)
        value_GKT = values(model, params, batch.responses, room, key)
        flat = jax.tree.map(lambda x: x.reshape(value_GKT.shape), batch.then)
        now = Now(logp=jnp.zeros_like(value_GKT), value=value_GKT)
        loss = _mean_of_actions(loss_of(now, flat), flat, batch)
        value = _mean_of_actions(value_GKT, flat, batch)
        return loss, {"value": lax.stop_gradient(value)}

    return Objective(objective, needs=Needs(data="prompts", scores=True))


def bound_value_loss(section: Mapping[str, Any]):
    """The loss of a section `critic.loss`, the squared one by default.

    Raises:
      ConfigError: an unknown loss, or options that it does not take.
    """
    options = {k: v for k, v in section.items() if v is not None}
    with config.errors_at("critic"):
        function = catalogue.find(options.pop("name", "squared"), "value")
    return catalogue.bind_of_tokens(function, options, "critic.loss", critic=True)


def _mean_of_actions(x_GKT, then: Then, batch: Rollout) -> Mean:
    """Over the actions that are learned from; `then` has the axes of `x_GKT`."""
    counts_GKT = then.action & (batch.token.reshape(x_GKT.shape) > 0)
    return Mean.of(x_GKT, counts_GKT.astype(jnp.float32))


def values(
    model: Model, params: Params, batch: Responses, room: int, key=None
) -> jax.Array:
    """A critic's V(s_t) at each token of the responses, float32 [G, K, room].

    The state of a token is what was before it, so it is read where the token is the
    target.
    """
    x_BTD = model.hidden(params, logprobs.flatten_sequences(batch), key)
    score_BT = model.score(params, x_BTD)[..., 0]
    return logprobs.by_response(batch, score_BT, room)

# SPDX-License-Identifier: Apache-2.0
"""The train step and the evaluation step: pure functions, built once, jitted by train.

Neither knows losses or models: an objective's functions return sums.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import lax

from alignjax.training import optim
from alignjax.types import Objective, TrainState


def make_train_step(
    objective: Objective, optimizer, *, microbatches: int = 1, copies=None
):
    """Returns train_step(state, frozen, batch, key) -> (state, metrics).

    Totals, weights and gradients of totals are summed over microbatches and divided
    once, so the update does not depend on how many microbatches there are or on how
    padding falls among them. Where an objective has a statistic of the whole batch, a
    first pass over the microbatches observes it, without gradients, and all of them
    share it. `copies` of the weights, from `optim.moving_copies`, follow the update in
    `TrainState.extra`; the loss is computed with a moving reference as it was before.

    Where the loss or the norm of its gradient is not finite the update is left out:
    all but `step` stays as it was and `metrics["skipped"]` is 1. What to do
    about it is the loop's decision. `step` advances all the same, with the data. Nor
    does a batch teach in which nothing counts, whose weight and gradient are 0.

    Metrics are float32 scalars: the objective's, `loss`, `loss_weight` (what the loss
    was divided by), `grad_norm` (before clipping), `param_norm`, `skipped`. Names that
    begin with `_` are for figures of whole evaluations, and left out here.
    """

    def total_loss(params, frozen, batch, key, *statistic):
        loss, metrics = objective.loss(params, frozen, batch, key, True, *statistic)
        return loss.total, {"loss": loss, **metrics}

    grads_and_means = jax.grad(total_loss, has_aux=True)

    def accumulate(params, frozen, batch, key):
        parts = (_split(batch, microbatches), jax.random.split(key, microbatches))
        if objective.statistic is not None:
            observe = lambda part: objective.statistic.observe(
                params, frozen, *part, True
            )
            statistic = objective.statistic.combine(_join(lax.map(observe, parts)))
            parts = (*parts, _split(lax.stop_gradient(statistic), microbatches))
        of_part = lambda part: grads_and_means(params, frozen, *part)
        shapes = jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        add = lambda sums, part: (jax.tree.map(jnp.add, sums, of_part(part)), None)
        return lax.scan(add, zeros, parts)[0]

    def train_step(state: TrainState, frozen, batch, key):
        key = jax.random.fold_in(key, state.step)
        frozen = optim.with_moving_reference(frozen, state.extra)
        differentiate = grads_and_means if microbatches == 1 else accumulate
        grads, means = differentiate(state.params, frozen, batch, key)
        empty = means["loss"].weight == 0
        weight = jnp.where(empty, 1.0, means["loss"].weight)
        grads = jax.tree.map(lambda g: g / weight, grads)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(means["loss"].total) & jnp.isfinite(grad_norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        extra = dict(state.extra)
        for name, copy in (copies or {}).items():
            extra[name] = copy.update(extra[name], params)
        updated = TrainState(state.step, params, opt_state, extra)
        # Where nothing counts, momentum and decay would move the parameters anyway.
        learned = finite & ~(empty & (grad_norm == 0))
        choose = lambda new, old: jnp.where(learned, new, old)
        updated = jax.tree.map(choose, updated, state)

        metrics = {name: mean.value() for name, mean in means.items() if name[0] != "_"}
        metrics["loss_weight"] = means["loss"].weight
        metrics["grad_norm"] = grad_norm
        metrics["param_norm"] = optax.tree.norm(updated.params)
        metrics["skipped"] = 1.0 - finite.astype(jnp.float32)
        return updated.replace(step=state.step + 1), metrics

    return train_step


def _split(tree, parts: int):
    """Every array [B, ...] as [parts, B / parts, ...]; scalars go to all parts.

    Strided, not blocked: a part takes some rows from every device, so splitting a batch
    moves no data between devices.
    """
    stride = lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
    copy = lambda x: jnp.broadcast_to(x, (parts,))
    return jax.tree.map(lambda x: stride(x) if jnp.ndim(x) else copy(x), tree)


def _join(tree):
    """The rows of arrays [parts, B / parts, ...] in the order before `_split`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def make_eval_step(objective: Objective):
    """Returns eval_step(params, frozen, batch) -> {name: Mean}, not yet divided.

    The objective gets no key, so nothing in it is random. The batch is the whole one
    for an objective with a statistic.
    """

    def eval_step(params, frozen, batch):
        loss, metrics = objective.loss(params, frozen, batch, None, False)
        return {"loss": loss, **metrics}

    return eval_step

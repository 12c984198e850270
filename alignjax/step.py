# SPDX-License-Identifier: Apache-2.0
"""The train step and the evaluation step: pure functions, built once, jitted by train.

Neither knows losses or models: an objective is a function that returns sums.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from alignjax.types import TrainState


def make_train_step(objective: Callable, optimizer, *, microbatches: int = 1):
    """Returns train_step(state, frozen, batch, key) -> (state, metrics).

    `objective(params, frozen, batch, key)` returns its loss as a `Mean` (a total and a
    weight) and a dict of further `Mean`s. Totals, weights and gradients of totals are
    summed over microbatches and divided once, so the update does not depend on how many
    microbatches there are or on how padding falls among them.

    Where the loss or the norm of its gradient is not finite the update is left out:
    `params` and `opt_state` stay as they were and `metrics["skipped"]` is 1. What to do
    about it is the loop's decision. `step` advances all the same, with the data.

    Metrics are float32 scalars: the objective's, `loss`, `loss_weight` (what the loss
    was divided by), `grad_norm` (before clipping), `param_norm`, `skipped`.
    """

    def total_loss(params, frozen, batch, key):
        loss, metrics = objective(params, frozen, batch, key)
        return loss.total, {"loss": loss, **metrics}

    grads_and_means = jax.grad(total_loss, has_aux=True)

    def accumulate(params, frozen, batch, key):
        # Strided, not blocked: a microbatch takes some rows from every device, so
        # splitting the batch moves no data between devices.
        split = lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1)
        steps = (jax.tree.map(split, batch), jax.random.split(key, microbatches))
        one = lambda step: grads_and_means(params, frozen, *step)
        shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], steps))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        add = lambda sums, step: (jax.tree.map(jnp.add, sums, one(step)), None)
        return jax.lax.scan(add, zeros, steps)[0]

    def train_step(state: TrainState, frozen, batch, key):
        key = jax.random.fold_in(key, state.step)
        run = grads_and_means if microbatches == 1 else accumulate
        grads, means = run(state.params, frozen, batch, key)
        # A batch in which nothing counts teaches nothing, but must not divide by 0.
        weight = jnp.where(means["loss"].weight == 0, 1.0, means["loss"].weight)
        grads = jax.tree.map(lambda g: g / weight, grads)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(means["loss"].total) & jnp.isfinite(grad_norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        keep = lambda new, old: jax.tree.map(
            lambda n, o: jnp.where(finite, n, o), new, old
        )
        params = keep(params, state.params)
        opt_state = keep(opt_state, state.opt_state)

        metrics = {name: mean.value() for name, mean in means.items()}
        metrics["loss_weight"] = means["loss"].weight
        metrics["grad_norm"] = grad_norm
        metrics["param_norm"] = optax.tree.norm(params)
        metrics["skipped"] = 1.0 - finite.astype(jnp.float32)
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def make_eval_step(objective: Callable):
    """Returns eval_step(params, frozen, batch) -> {name: Mean}, not yet divided.

    The objective gets no key, so nothing in it is random.
    """

    def eval_step(params, frozen, batch):
        loss, metrics = objective(params, frozen, batch, None)
        return {"loss": loss, **metrics}

    return eval_step

# SPDX-License-Identifier: Apache-2.0
"""Optimizers: clipping, an update rule by name, decay masks by path, an average.

Everything is an optax chain; what optax has is optax's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alignjax import config, errors, registry, trees
from alignjax.bounds import Count, NonNegative, Positive, Share, checked

OPTIMIZERS = registry.Registry("optimizer")


def build(section: Mapping, schedule, path: str = "optimizer"):
    """The optax transformation of a config's section.

    The section has `name`, `learning_rate` (the schedule's peak, read by the caller),
    `clip_norm` (of the whole gradient; None is off), `decay` (a regular expression of
    the parameters that weight decay applies to), `ema` (decay of an average of the
    weights; None is off), and the options of the named optimizer.

    Raises:
      ConfigError: unknown names, or options that the optimizer does not take.
    """
    fields = {k: v for k, v in section.items() if v is not None}
    fields.pop("learning_rate", None)
    clip_norm, ema = fields.pop("clip_norm", None), fields.pop("ema", None)
    decay = fields.pop("decay", ".*")
    problems = []
    if clip_norm is not None and not clip_norm > 0:
        problems.append(f"{path}.clip_norm: {clip_norm} must be positive; None is off")
    if ema is not None and not 0 < ema < 1:
        problems.append(f"{path}.ema: {ema} is not in (0, 1); None is off")
    if problems:
        raise errors.ConfigError(problems)
    try:
        make = OPTIMIZERS.find(fields.pop("name", ""))
    except ValueError as error:
        raise errors.ConfigError(f"{path}.name: {error}") from error

    def mask(params):
        try:
            return trees.mask(decay, params)
        except (ValueError, re.error) as error:
            raise errors.ConfigError(f"{path}.decay: {decay!r}: {error}") from error

    chain = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    chain.append(config.call(make, fields, path, schedule, mask))
    if ema is not None:
        chain.append(average(ema))
    return optax.chain(*chain)


@OPTIMIZERS.register
@checked
def adamw(
    schedule,
    mask,
    *,
    b1: Share = 0.9,
    b2: Share = 0.95,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.1,
    moment_dtype: Literal["float32", "bfloat16"] = "float32",
):
    """AdamW, arXiv:1711.05101 Algorithm 2; `moment_dtype` is of the first moment."""
    return optax.adamw(
        schedule,
        b1,
        b2,
        eps,
        mu_dtype=moment_dtype,
        weight_decay=weight_decay,
        mask=mask,
    )


@OPTIMIZERS.register
@checked
def adafactor(
    schedule,
    mask,
    *,
    weight_decay: NonNegative = 0.0,
    factor_from: Count = 128,
    momentum: Share | None = None,
):
    """Adafactor, arXiv:1804.04235; matrices with sides of `factor_from` are factored.

    The rate is relative to the size of each parameter, as in section 8 of the paper.
    Decay is multiplied by the rate, as everywhere here.
    """
    return optax.chain(
        optax.adafactor(min_dim_size_to_factor=factor_from, momentum=momentum),
        optax.scale(-1.0),
        # Its own decay would not be multiplied by the rate.
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(schedule),
    )


@OPTIMIZERS.register
@checked
def lion(
    schedule,
    mask,
    *,
    b1: Share = 0.9,
    b2: Share = 0.99,
    weight_decay: NonNegative = 0.1,
):
    """Lion, arXiv:2302.06675 Algorithm 2: the sign of an interpolated momentum."""
    return optax.lion(schedule, b1, b2, weight_decay=weight_decay, mask=mask)


@OPTIMIZERS.register
@checked
def muon(
    schedule,
    mask,
    *,
    momentum: Share = 0.95,
    weight_decay: NonNegative = 0.1,
    b1: Share = 0.9,
    b2: Share = 0.95,
    rms: Positive = 0.2,
):
    """Muon for the matrices inside the layers, each expert's too, AdamW for all else.

    Orthogonalised momentum (arXiv:2502.16982), scaled so that the root mean square of
    an update is `rms` times the rate, which makes AdamW's rates serve for both.
    """
    muon = optax.contrib.muon(
        1.0,
        beta=momentum,
        adam_b1=b1,
        adam_b2=b2,
        muon_weight_dimension_numbers=lambda params: trees.map_with_name(
            _matrix_axes, params
        ),
        consistent_rms=rms,
    )
    # Its own decay follows the mask in the matrices only, so it is added here.
    return optax.chain(
        muon,
        optax.scale(-1.0),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(schedule),
    )


@OPTIMIZERS.register
@checked
def sgd(
    schedule,
    mask,
    *,
    momentum: Share | None = None,
    nesterov: bool = False,
    weight_decay: NonNegative = 0.0,
):
    """Stochastic gradient descent with optional momentum and (coupled) decay."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.sgd(schedule, momentum, nesterov),
    )


def _matrix_axes(name: str, leaf):
    """Which axes of a stacked kernel are inputs and outputs; None is not a matrix."""
    if re.fullmatch(r"layers/moe/(gate|up|down)/kernel", name):
        return optax.contrib.MuonDimensionNumbers(2, 3)
    if re.fullmatch(r"layers/(.*/)?o/kernel", name):
        return optax.contrib.MuonDimensionNumbers((1, 2), 3)
    if re.fullmatch(r"layers/.*kernel", name):
        return optax.contrib.MuonDimensionNumbers(1, tuple(range(2, leaf.ndim)))
    return None


class AverageState(NamedTuple):
    """A running average of the weights, of their shapes and dtypes."""

    average: optax.Params


def average(decay: float) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the weights, and changes no update.

    average <- decay * average + (1 - decay) * weights, from the initial weights on; so
    a run should be several times 1 / (1 - decay) steps long for it to be of use.
    """

    def init(params):
        return AverageState(jax.tree.map(jnp.array, params))

    def update(updates, state, params):
        new = optax.apply_updates(params, updates)
        mix = lambda old, x: decay * old + (1 - decay) * x
        return updates, AverageState(jax.tree.map(mix, state.average, new))

    return optax.GradientTransformation(init, update)


def averaged_params(opt_state):
    """The average that `average` keeps in an optimizer's state, or None without one."""
    is_average = lambda x: isinstance(x, AverageState)
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_average) if is_average(x)]
    return found[0].average if found else None


def with_rate(train_step, schedule):
    """`train_step`, with the learning rate of its update among the metrics.

    The rate is that of the optimizer's own count of updates, which stays behind the
    step where updates were left out. It is computed with the step: on its own it would
    wait in the device's queue behind the step after.
    """

    def step(state, frozen, batch, key):
        leaves = trees.named_leaves(state.opt_state).items()
        updates = next(leaf for name, leaf in leaves if name.endswith("count"))
        state, metrics = train_step(state, frozen, batch, key)
        return state, {**metrics, "learning_rate": schedule(updates)}

    return step

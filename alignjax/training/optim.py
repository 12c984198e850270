# SPDX-License-Identifier: Apache-2.0
"""Optimizers, and copies that follow the weights.

An optimizer is an optax chain: clipping, an update rule by name, decay by path. The
moving average and the moving reference are pairs of functions over values in
`TrainState.extra`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alignjax import config, errors, registry, trees
from alignjax.bounds import Count, NonNegative, Positive, Share
from alignjax.types import Frozen

OPTIMIZERS = registry.Registry("optimizer")


def build(section: Mapping, schedule, path: str = "optimizer", *, decays: bool = True):
    """The optax transformation of a config's section.

    The section has `name`, `clip_norm` (of the whole gradient; None is off), `decay` (a
    pattern of the parameters that weight decay applies to), the options of the named
    optimizer, and `learning_rate` and `ema`, which the caller reads. `decays` says that
    `decay` has to match some parameter.

    Raises:
      ConfigError: unknown names, or options that the optimizer does not take.
    """
    callers = ("learning_rate", "ema")
    fields = {k: v for k, v in section.items() if v is not None and k not in callers}
    clip_norm, decay = fields.pop("clip_norm", None), fields.pop("decay", ".*")
    if clip_norm is not None and not clip_norm > 0:
        raise errors.ConfigError(
            f"{path}.clip_norm: {clip_norm} must be positive; None is off"
        )
    make = config.find(OPTIMIZERS, fields.pop("name", ""), f"{path}.name")

    def mask(params):
        try:
            return trees.mask(decay, params, some=decays)
        except (ValueError, re.error) as error:
            raise errors.ConfigError(f"{path}.decay: {decay!r}: {error}") from error

    chain = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    chain.append(config.call(make, fields, path, schedule, mask))
    return optax.chain(*chain)


@OPTIMIZERS.register
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
    options = dict(mu_dtype=moment_dtype, weight_decay=weight_decay, mask=mask)
    return optax.adamw(schedule, b1, b2, eps, **options)


@OPTIMIZERS.register
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
    axes = functools.partial(trees.map_with_name, _matrix_axes)
    options = dict(muon_weight_dimension_numbers=axes, consistent_rms=rms)
    muon = optax.contrib.muon(1.0, beta=momentum, adam_b1=b1, adam_b2=b2, **options)
    # Its own decay follows the mask in the matrices only, so it is added here.
    return optax.chain(
        muon,
        optax.scale(-1.0),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(schedule),
    )


@OPTIMIZERS.register
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
    """The input and output axes of a stacked kernel; None where it is no matrix."""
    if re.fullmatch(r"layers/moe/(gate|up|down)/kernel", name):
        return optax.contrib.MuonDimensionNumbers(2, 3)
    if re.fullmatch(r"layers/(.*/)?o/kernel", name):
        return optax.contrib.MuonDimensionNumbers((1, 2), 3)
    if re.fullmatch(r"layers/.*kernel", name):
        return optax.contrib.MuonDimensionNumbers(1, tuple(range(2, leaf.ndim)))
    return None


class MovingCopy(NamedTuple):
    """A copy of the weights that follows them, as two pure functions.

    Attributes:
      init: `(params) -> copy`, at step 0.
      update: `(copy, params) -> copy`, after each update of the weights.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any], Any]


def moving_copies(
    ema: float | None, reference_every: int | None, reference_share: float | None
) -> dict[str, MovingCopy]:
    """The copies that a config asks for, by their names in `TrainState.extra`.

    Args:
      ema: `optimizer.ema`; None keeps no average.
      reference_every: `reference.update_every`; None keeps the reference as it is.
      reference_share: `reference.update_share`; None is 1.
    """
    copies = {}
    if ema is not None:
        copies["average"] = average(ema)
    if reference_every is not None:
        share = 1.0 if reference_share is None else reference_share
        copies["reference"] = moving_reference(reference_every, share)
    return copies


def average(decay: float) -> MovingCopy:
    """An exponential moving average of the weights.

    average <- decay * average + (1 - decay) * weights, from the initial weights on; of
    use in runs of several times 1 / (1 - decay) steps.
    """
    mix = lambda old, new: decay * old + (1 - decay) * new
    init = lambda params: jax.tree.map(jnp.array, params)
    return MovingCopy(init, lambda copy, params: jax.tree.map(mix, copy, params))


def moving_reference(every: int, share: float) -> MovingCopy:
    """A reference that moves after each `every`-th update: TR-DPO, arXiv:2404.09656.

    reference <- share * weights + (1 - share) * reference, from the initial weights on.
    The paper's soft update has a share alpha, such as 0.6; its hard one copies the
    weights every tau updates, a share of 1. The copy is `{"updates": int32, "params":
    the trained parameters}`; steps without an update do not count.
    """

    def init(params):
        _check_linear(share, params)
        return {"updates": jnp.int32(0), "params": jax.tree.map(jnp.array, params)}

    def update(copy, params):
        updates = copy["updates"] + 1
        mix = lambda new, old: new if share == 1 else share * new + (1 - share) * old
        move = lambda new, old: jnp.where(
            updates % every == 0, mix(new, old).astype(old.dtype), old
        )
        moved = jax.tree.map(move, params, copy["params"])
        return {"updates": updates, "params": moved}

    return MovingCopy(init, update)


def with_moving_reference(frozen: Frozen, extra: Mapping[str, Any]) -> Frozen:
    """`frozen` with the moving reference in `extra`, where there is one.

    Parameters that are not trained are the same in policy and reference.
    """
    if "reference" not in extra:
        return frozen
    reference = trees.merge(extra["reference"]["params"], frozen.base)
    return frozen.replace(reference=reference)


def _check_linear(share: float, params) -> None:
    """Raises ConfigError where an average of factors is not that of their products."""
    adapters = [n for n in trees.named_leaves(params) if re.search("lora_[ab]$", n)]
    if share != 1 and adapters:
        raise errors.ConfigError(
            f"reference.update_share: {share} would average the factors of adapters, "
            f"such as {adapters[0]}, which is no average of their products, and so not "
            "the update of the paper; set it to 1.0, or train the parameters themselves"
        )


def with_rate(train_step, schedule):
    """`train_step`, with the learning rate of its update among the metrics.

    It follows the optimizer's own count of updates, which stays behind the step where
    updates were left out. Computed apart from the step it would wait in the device's
    queue behind the next one.
    """

    def step(state, frozen, batch, key):
        done = updates(state)
        state, metrics = train_step(state, frozen, batch, key)
        return state, {**metrics, "learning_rate": schedule(done)}

    return step


def updates(state) -> jax.Array:
    """The updates that the optimizer has made, which its schedule follows."""
    leaves = trees.named_leaves(state.opt_state).items()
    return next(leaf for name, leaf in leaves if name.endswith("count"))

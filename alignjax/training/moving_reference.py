# SPDX-License-Identifier: Apache-2.0
"""A reference that follows the policy: TR-DPO, arXiv:2404.09656, for any objective.

It is part of the optimizer's state, so a checkpoint keeps it, and a run that goes on
compares with what it would have compared with.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from alignjax import errors, trees
from alignjax.types import Frozen


class ReferenceState(NamedTuple):
    """The moving reference, as of the updates so far.

    Attributes:
      updates: int32, those of the policy; steps that were left out are none.
      reference: parameters, those that are trained, of their shapes and dtypes.
    """

    updates: jax.Array
    reference: optax.Params


def reference(every: int, share: float) -> optax.GradientTransformation:
    """Keeps a reference that moves after each `every`-th update; changes no update.

    reference <- share * weights + (1 - share) * reference, from the initial weights on.
    The paper's soft update has a share alpha, such as 0.6; its hard one copies the
    weights every tau updates, a share of 1. It is the last of a chain.
    """

    def init(params):
        _check_linear(share, params)
        return ReferenceState(jnp.int32(0), jax.tree.map(jnp.array, params))

    def update(updates, state, params):
        count = state.updates + 1
        new = optax.apply_updates(params, updates)
        due = count % every == 0
        mix = lambda x, old: x if share == 1 else share * x + (1 - share) * old
        move = lambda x, old: jnp.where(due, mix(x, old).astype(old.dtype), old)
        moved = jax.tree.map(move, new, state.reference)
        return updates, ReferenceState(count, moved)

    return optax.GradientTransformation(init, update)


def seen(frozen: Frozen, opt_state) -> Frozen:
    """`frozen` with the reference that `opt_state` keeps, if it keeps one.

    What is not trained is the same in policy and reference.
    """
    kept = lambda x: isinstance(x, ReferenceState)
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=kept) if kept(x)]
    if not found:
        return frozen
    return frozen.replace(reference=trees.merge(found[0].reference, frozen.base))


def _check_linear(share: float, params) -> None:
    """Raises ConfigError where a mean of parameters is not one of what they compute."""
    adapters = [n for n in trees.named_leaves(params) if re.search("lora_[ab]$", n)]
    if share != 1 and adapters:
        raise errors.ConfigError(
            f"reference.update_share: {share} would average the factors of adapters, "
            f"such as {adapters[0]}, which is no average of their products, and so not "
            "the update of the paper; set it to 1.0, or train the parameters themselves"
        )

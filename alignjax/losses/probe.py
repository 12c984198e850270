# SPDX-License-Identifier: Apache-2.0
"""Whether a loss can be had with its options: asked with shapes alone, for `bind`.

No array is made and no device is touched, so that what would fail in the first step is
told when a config is read.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from alignjax import errors
from alignjax.losses import catalogue
from alignjax.types import LogProbs

# Unlike one another and the 2 of a pair, so that none passes for another.
B, K, A = 5, 3, 4
_SHAPES = {"pairs": (B, 2), "rankings": (B, K), "labels": (B,), "ratings": (B, A)}


def of_responses(loss: Callable) -> None:
    """Asks a loss of `LogProbs`, with what its traits say and no more.

    Raises:
      ConfigError: options that do not fit together.
      ValueError: it fails, or does not give one value a group.
    """
    asked = catalogue.traits(loss)
    x = _floats(asked.data)
    policy = LogProbs(x, x, **dict.fromkeys(asked.needs, x))
    # These are of the policy alone.
    reference = policy.replace(reference_kl=None, collision=None)

    def evaluate(policy, reference, inputs):
        if asked.coupled:
            found = catalogue.measure(loss, policy, reference, **inputs)
            inputs = {**inputs, "statistic": found}
        return loss(policy, reference, **inputs)

    read = ", ".join(("total", "length", *asked.needs))
    told = f"{read} of each response, and {'a' if asked.reference else 'no'} reference"
    beside = reference if asked.reference else None
    _check(loss, told, evaluate, policy, beside, _inputs(asked))


def of_scores(loss: Callable) -> None:
    """The same of a loss of scores; see `of_responses`."""
    asked = catalogue.traits(loss)
    evaluate = lambda x, inputs: loss(x, **inputs)
    _check(loss, "scores", evaluate, _floats(asked.data), _inputs(asked))


def _check(loss: Callable, told: str, evaluate: Callable, *arguments) -> None:
    asked = catalogue.traits(loss)
    name = getattr(loss.func, "__name__", repr(loss.func))
    try:
        found = jax.eval_shape(evaluate, *arguments)
    except errors.ConfigError:
        raise
    except Exception as error:  # a loss of others may fail in any way
        why = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
        raise ValueError(
            f"{name} of {asked.data} fails: {why}; by what it declares it is given "
            f"{told} (losses.catalogue.declare)"
        ) from error
    if (shape := jax.tree.map(jnp.shape, found)) != (B,):
        raise ValueError(
            f"{name} gives shape {shape} of {B} {asked.data}; it is to give one value "
            f"each, {(B,)}, and not to reduce them"
        )


def _floats(data: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(_SHAPES[data], jnp.float32)


def _inputs(asked: catalogue.Traits) -> dict[str, jax.ShapeDtypeStruct]:
    """Arrays as a batch has them, by the arguments that the loss declares."""
    each = _SHAPES[asked.data] if asked.data in ("pairs", "rankings") else (B, 1)
    shapes = {"reward_BK": each, "present_BK": each}
    shapes |= dict.fromkeys(("target_BA", "present_BA"), (B, A))
    bools = ("desirable_B", "present_BK", "present_BA")
    return {
        name: jax.ShapeDtypeStruct(
            shapes.get(name, (B,)), bool if name in bools else jnp.float32
        )
        for name in asked.inputs
    }

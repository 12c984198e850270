# SPDX-License-Identifier: Apache-2.0
"""What losses take of a batch beside log-probabilities and scores, by their arguments.

An argument such as `gap_B` is `batch.values["gap"]`; whether a response is present, and
what a group counts, follow from the batch itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from alignjax import errors
from alignjax.losses import catalogue
from alignjax.objectives import responses
from alignjax.types import Responses

# The objective itself multiplies by the weights of groups.
WEIGHT, PRESENT = "weight_B", ("present_BK", "present_BA")


def of(
    batch: Responses, arguments: Iterable[str], names: Iterable[str] = ()
) -> dict[str, jax.Array]:
    """Those of the `arguments` that the batch has: [G], [G, K] or [G, A].

    Args:
      batch: what to look in. Its numbers about groups that count nothing are replaced
        by ones, so that no loss meets a gap of 0 there.
      arguments: of losses.
      names: `catalogue.required_values` of the losses.

    Raises:
      ConfigError: the batch has no such value; when the step is traced.
    """
    lacks = [name for name in names if name not in batch.values]
    if lacks:
        raise errors.ConfigError(
            f"loss: it takes {', '.join(lacks)} of each example, and the data has "
            f"{', '.join(batch.values) or 'no values'}; choose other data or a loss "
            "that needs none"
        )
    counts_G = responses.groups(batch.weights) > 0
    found = {}
    for argument in arguments:
        name = catalogue.value_name(argument)
        if argument == "present_BK":
            found[argument] = responses.groups(batch.lengths) > 0
        elif argument == "present_BA":  # an attribute that was not rated is NaN
            found[argument] = ~jnp.isnan(responses.groups(batch.values["target"]))
        elif argument != WEIGHT and name in batch.values:
            x = responses.groups(batch.values[name])
            there = counts_G.reshape(-1, *(1,) * (x.ndim - 1)) & ~jnp.isnan(x)
            x = jnp.where(there, x, 1.0)
            found[argument] = x > 0.5 if name == "desirable" else x
    return found

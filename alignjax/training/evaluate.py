# SPDX-License-Identifier: Apache-2.0
"""Any objective over a whole dataset, summed exactly and divided once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax

from alignjax.objectives import metrics
from alignjax.types import Mean


def evaluate(eval_step: Callable, params, frozen, batches: Iterable) -> dict[str, Mean]:
    """The sums of `eval_step`'s means over all `batches`, as float64 Python numbers.

    Batches are dispatched without waiting for the results of earlier ones; sums are
    formed on the host, where float64 keeps them exact for any size of dataset.
    """
    sums: dict[str, Mean] = {}
    unread = None
    for batch in batches:
        means = eval_step(params, frozen, batch)
        if unread is not None:
            _add(sums, unread)
        unread = means
    if unread is not None:
        _add(sums, unread)
    return sums


def figures(sums: dict[str, Mean]) -> dict[str, float]:
    """The means themselves, and the figures that follow from them (`metrics.derive`).

    Args:
      sums: from `evaluate`.

    Returns:
      Numbers by name, without those whose names begin with `_`: they are moments from
      which figures are derived. A mean of nothing, such as of a kind of response that
      the data lack, is left out. `loss_weight` is the weight of the mean loss: tokens
      of text, groups of responses.
    """
    means = {k: m.total / m.weight for k, m in sums.items() if m.weight}
    named = {k: x for k, x in means.items() if not k.startswith("_")}
    if "loss" in sums:
        named["loss_weight"] = sums["loss"].weight
    return named | metrics.derive(means)


def _add(sums: dict[str, Mean], means: dict[str, Mean]) -> None:
    for name, mean in jax.device_get(means).items():
        mean = Mean(float(mean.total), float(mean.weight))
        sums[name] = sums[name] + mean if name in sums else mean

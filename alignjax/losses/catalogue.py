# SPDX-License-Identifier: Apache-2.0
"""How a loss is registered, described, checked and bound to the options of a config.

A loss is a pure function `(policy, reference, *, ...) -> loss_B`. Its keyword arguments
are of three kinds: *options*, which a config sets; *inputs*, arrays that come with the
batch, such as labels; and `statistic`, for the losses whose terms depend on the whole
batch at once. `Traits` says which are which, and what else a loss asks for.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from alignjax import bounds, config, registry, types

PREFERENCE = registry.Registry("preference loss")  # LogProbs of [B, 2]
UNPAIRED = registry.Registry("unpaired loss")  # LogProbs of [B]
RANKED = registry.Registry("ranked loss")  # LogProbs of [B, K]
REWARD = registry.Registry("reward loss")  # scores
CATALOGUE = {
    "preference": PREFERENCE,
    "unpaired": UNPAIRED,
    "ranked": RANKED,
    "reward": REWARD,
}

# What the traits of a loss may name.
DATA = ("pairs", "rankings", "labels", "ratings")
OPTIONAL = [f.name for f in dataclasses.fields(types.LogProbs) if f.default is None]


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a loss asks of the code that calls it.

    Attributes:
      reference: whether it reads the reference model at all.
      needs: the optional fields of `LogProbs` that it reads.
      inputs: its keyword arguments that are arrays of the batch, not options.
      statistic: None, or the function that measures what the loss wants to know of
        the whole global batch; see `measure`. Such a loss is *batch-coupled*: its
        microbatches must share one statistic, taken before any of them.
      margin: whether it depends on the log-ratios by their difference alone, so that
        the gradients of chosen and rejected are opposite.
      data: what one value of the loss is about, one of `DATA`.
      normalised: of losses without a reference, whether a response counts by its
        nats a token rather than by all of them.
    """

    reference: bool = True
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    statistic: Callable | None = None
    margin: bool = False
    data: str = "pairs"
    normalised: bool = False

    @property
    def coupled(self) -> bool:
        return self.statistic is not None


def traits(function: Callable) -> Traits:
    """What a loss asks for; a function that declares nothing asks for the default."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "traits", Traits())


def declare(**fields) -> Callable[[Callable], Callable]:
    """A decorator that gives a loss its `Traits` and has its options checked.

    For losses outside the package, which are reached as `module:function`.

    Raises:
      ValueError: traits that there are not, or inputs that the function does not take.
    """
    asked = Traits(**fields)
    each = {"needs": asked.needs, "data": (asked.data,), "inputs": asked.inputs}

    def decorate(function):
        parameters = inspect.signature(function).parameters
        known = {"needs": OPTIONAL, "data": DATA, "inputs": parameters}
        for field, names in each.items():
            for name in names:
                if name not in known[field]:
                    remedy = registry.closest(name, known[field])
                    raise ValueError(
                        f"{function.__name__}: {field}: unknown {name!r}; {remedy}"
                    )
        function = bounds.checked(function)
        function.traits = asked
        return function

    return decorate


def register(where: registry.Registry, **fields) -> Callable[[Callable], Callable]:
    """`declare`, and an entry in the catalogue under the function's own name."""
    return lambda function: where.register(declare(**fields)(function))


def options(function: Callable) -> dict[str, inspect.Parameter]:
    """What a config may set of a loss: keyword arguments that the batch does not."""
    reserved = {"statistic", *traits(function).inputs}
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in reserved
    }


def bind(
    function: Callable,
    section: Mapping[str, Any],
    path: str,
    probe: Callable[[Callable], None] | None = None,
) -> Callable:
    """`function` with the options of a config's `section` filled in.

    Args:
      function: a loss.
      section: its options.
      path: where they stand.
      probe: of `losses.probe`, for what shows only when the loss is asked.

    Raises:
      ConfigError: an unknown, missing, mistyped or impossible option.
      ValueError: a function that is no loss; of the probe.
    """
    known = options(function)
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ValueError(f"{function.__name__}: in its annotations, {error}") from error

    def take(**values):
        bound = functools.partial(function, **values)
        if probe is not None:
            probe(bound)
        return bound

    # All that config.call and checked read of a function: the options alone.
    take.__signature__ = inspect.Signature(list(known.values()))
    take.__annotations__ = {name: hints.get(name, Any) for name in known}
    return config.call(bounds.checked(take), section, path)


def measure(loss: Callable, policy, reference, **available):
    """The statistic of a batch-coupled loss over the whole global batch; else None.

    Args:
      loss: from the catalogue, perhaps bound to its options.
      policy, reference: `LogProbs` of the whole batch, needed without gradients.
      **available: inputs of the batch, `weight_B` (float32, 0 for rows that pad the
        batch) and `key`; the statistic takes those that it knows.

    Returns:
      What the loss expects as `statistic`: a pytree of scalars, which all microbatches
      share, and of arrays with a leading B, which are split as the batch is.
    """
    function = traits(loss).statistic
    if function is None:
        return None
    bound = loss.keywords if isinstance(loss, functools.partial) else {}
    values = {**bound, **available}
    wanted = inspect.signature(function).parameters
    return function(
        policy, reference, **{k: v for k, v in values.items() if k in wanted}
    )

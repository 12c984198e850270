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
from typing import Any, Literal

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

Data = Literal["pairs", "rankings", "labels", "ratings"]
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
      data: what one value of the loss is about; of `types.Objective.data`.
      normalised: of losses without a reference, whether a response counts by its
        nats a token rather than by all of them.
    """

    reference: bool = True
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    statistic: Callable | None = None
    margin: bool = False
    data: Data = "pairs"
    normalised: bool = False

    def __post_init__(self):
        for name in self.needs:
            if name not in OPTIONAL:
                remedy = registry.closest(name, OPTIONAL)
                raise ValueError(f"needs: no field {name!r} of LogProbs; {remedy}")
        if self.data not in (known := typing.get_args(Data)):
            remedy = registry.closest(self.data, known)
            raise ValueError(f"data: unknown {self.data!r}; {remedy}")

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

    def decorate(function):
        taken = inspect.signature(function).parameters
        if unknown := set(asked.inputs) - set(taken):
            raise ValueError(
                f"inputs: {function.__name__} takes no {', '.join(sorted(unknown))}; "
                f"it takes {', '.join(taken)}"
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


def bind(function: Callable, section: Mapping[str, Any], path: str) -> Callable:
    """`function` with the options of a config's `section` filled in.

    Raises:
      ConfigError: an unknown, missing, mistyped or impossible option.
    """
    known = options(function)
    hints = typing.get_type_hints(function, include_extras=True)

    def take(**values):
        return values

    # All that config.call and checked read of a function: the options alone.
    take.__signature__ = inspect.Signature(list(known.values()))
    take.__annotations__ = {name: hints.get(name, Any) for name in known}
    values = config.call(bounds.checked(take), section, path)
    return functools.partial(function, **values)


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

# SPDX-License-Identifier: Apache-2.0
"""How losses are registered, described, bound to the options of a config, and summed.

A loss is a pure function `(policy, reference, *, ...) -> loss_B`. Its keyword arguments
are of three kinds: *options*, which a config sets; *inputs*, arrays that come with the
batch, such as labels; and `statistic`, for losses whose terms depend on all of a batch.
`Traits` says which are which, and what else a loss needs.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from alignjax import bounds, config, errors, registry, types
from alignjax.losses import links

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

# The kinds of data that a loss can be of, and the shape of log-probabilities in a dry
# run. Its sizes differ from one another and from the 2 of a pair: no axis passes for
# another.
B, K, A = 5, 3, 4
SHAPES = {"pairs": (B, 2), "rankings": (B, K), "labels": (B,), "ratings": (B, A)}
# The values that `Traits.needs` may have.
OPTIONAL = [f.name for f in dataclasses.fields(types.LogProbs) if f.default is None]
# Inputs that follow from the batch itself; all others are in `Responses.values`.
FROM_BATCH = ("weight_B", "present_BK", "present_BA")


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a loss needs of the code that calls it.

    Attributes:
      reference: whether it reads the reference model.
      needs: the optional fields of `LogProbs` that it reads.
      inputs: its keyword arguments that are arrays of the batch, not options.
      statistic: None, or the function that computes what the loss needs of the whole
        global batch; see `measure`. Such a loss is *batch-coupled*: its microbatches
        share one statistic, computed before any of them.
      margin: whether it depends on the log-ratios by their difference alone, so that
        the gradients of chosen and rejected are opposite.
      data: what one example of the loss is, one of `SHAPES`.
      normalised: of losses without a reference, whether the implicit reward of a
        response is its log-probability per token rather than the sum.
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
    """The traits of a loss; the default ones where it declares none."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "traits", Traits())


def declare(**fields) -> Callable[[Callable], Callable]:
    """A decorator that attaches `Traits` to a loss.

    For losses outside the package, which are reached as `module:function`.

    Raises:
      ValueError: unknown traits, or inputs that the function does not take.
    """
    declared = Traits(**fields)

    def decorate(function):
        for field, names, allowed in (
            ("needs", declared.needs, OPTIONAL),
            ("data", (declared.data,), tuple(SHAPES)),
            ("inputs", declared.inputs, inspect.signature(function).parameters),
        ):
            for name in set(names) - set(allowed):
                remedy = registry.closest(name, allowed)
                raise ValueError(
                    f"{function.__name__}: {field}: unknown {name!r}; {remedy}"
                )
        function.traits = declared
        return function

    return decorate


def register(where: registry.Registry, **fields) -> Callable[[Callable], Callable]:
    """`declare`, and an entry in the catalogue under the function's own name."""
    return lambda function: declare(**fields)(where.register(function))


def find(name: str, *kinds: str) -> Callable:
    """The loss called `name` among some kinds of `CATALOGUE`, or at `module:function`.

    Raises:
      ConfigError: there is none.
    """
    losses = registry.Registry("loss")
    for kind in kinds:
        losses.update(CATALOGUE[kind])
    try:
        return losses.find(name)
    except ValueError as error:
        raise errors.ConfigError(f"loss: {error}") from error


def options(function: Callable) -> dict[str, config.Field]:
    """The keyword arguments of a loss that a config sets, not the batch."""
    parameters = inspect.signature(function).parameters
    reserved = {"statistic", *traits(function).inputs}
    return {
        name: field
        for name, field in config.fields(function).items()
        if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        and name not in reserved
    }


def required_values(function: Callable) -> tuple[str, ...]:
    """The keys of `Responses.values` that a loss cannot do without."""
    parameters = inspect.signature(function).parameters
    names = {
        value_name(argument)
        for argument in traits(function).inputs
        if argument not in FROM_BATCH
        and parameters[argument].default is inspect.Parameter.empty
    }
    return tuple(sorted(names))


def value_name(argument: str) -> str:
    """The key of `Responses.values` for an argument: `gap` for `gap_B`."""
    return argument.rpartition("_")[0] or argument


def bind(
    function: Callable, section: Mapping, path: str, *, scores: bool = False
) -> functools.partial:
    """A loss with its options filled in, from a config's section and by default.

    The loss is also traced once with `jax.eval_shape`, on the inputs that its traits
    promise, so that what would fail in the first step fails when the config is read.

    Args:
      function: a loss.
      section: its options.
      path: where they stand in the config.
      scores: whether it is a loss of scores; else of `LogProbs`.

    Raises:
      ConfigError: unknown, missing, mistyped or incompatible options; or a function
        that is no loss: it fails, or does not return one value per example.
    """
    prefix = f"{path}." if path else ""
    try:
        known = options(function)
    except NameError as error:
        raise errors.ConfigError(
            f"{prefix}loss: {function.__name__}: in its annotations, {error}"
        ) from error
    values = {name: field.default for name, field in known.items()}
    values |= config.fill(known, section, path)
    if "link_options" in values:
        with config.errors_at(path):
            _check_link(values["link"], values["link_options"] or {})
    bound = functools.partial(function, **values)
    try:
        _dry_run(bound, scores)
    except ValueError as error:
        option = str(error).partition(":")[0] in known
        field = "" if option else "loss: "
        raise errors.ConfigError(f"{prefix}{field}{error}") from error
    return bound


def _check_link(link: str, section: Mapping) -> None:
    """Raises ConfigError for options that the link does not take."""
    try:
        function = links.LINKS.find(link)
    except ValueError as error:
        raise errors.ConfigError(f"link: {error}") from error
    config.fill(config.fields(function, leading=2), section, "link_options")


def _dry_run(loss: functools.partial, scores: bool) -> None:
    """Raises ValueError unless the loss returns [B] of what its traits promise it.

    A ValueError of the loss itself that begins with the name of one of its options, as
    in "alpha: ...", passes through.
    """
    declared = traits(loss)
    array = lambda shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)
    x = array(SHAPES[declared.data])
    groups = x.shape if declared.data in ("pairs", "rankings") else (B, 1)
    arrays = {
        "reward_BK": array(groups),
        "present_BK": array(groups, bool),
        "target_BA": array((B, A)),
        "present_BA": array((B, A), bool),
        "desirable_B": array((B,), bool),
    }
    inputs = {name: arrays.get(name, array((B,))) for name in declared.inputs}
    policy = types.LogProbs(x, x, **dict.fromkeys(declared.needs, x))
    # These two are of the policy alone.
    reference = policy.replace(reference_kl=None, collision=None)
    arguments = (x,) if scores else (policy, reference if declared.reference else None)

    def run(arguments, inputs):
        if declared.coupled:
            inputs = dict(inputs, statistic=measure(loss, *arguments, **inputs))
        return loss(*arguments, **inputs)

    name = getattr(loss.func, "__name__", repr(loss.func))
    try:
        result = jax.eval_shape(run, arguments, inputs)
    except Exception as error:  # a loss from outside may fail in any way
        text = str(error).partition("\n")[0]
        if isinstance(error, ValueError) and text.partition(":")[0] in loss.keywords:
            raise
        fields = ", ".join(("total", "length", *declared.needs))
        model = "a reference" if declared.reference else "no reference"
        promised = "scores" if scores else f"{fields} of each response, and {model}"
        raise ValueError(
            f"{name} of {declared.data} fails: {type(error).__name__}: {text}; its "
            f"traits promise it {promised} (losses.catalogue.declare)"
        ) from error
    if (shape := jax.tree.map(jnp.shape, result)) != (B,):
        raise ValueError(
            f"{name} returns shape {shape} for {B} {declared.data}; it must return one "
            f"value for each, {(B,)}, and not reduce them"
        )


def measure(loss: Callable, policy, reference, **available):
    """The statistic of a batch-coupled loss over the whole global batch; else None.

    Args:
      loss: from the catalogue, perhaps bound to its options.
      policy, reference: `LogProbs` of the whole batch; no gradient goes through them.
      **available: inputs of the batch, `weight_B` (float32, 0 for padding rows) and
        `key`; the statistic is passed those that it takes.

    Returns:
      What the loss expects as `statistic`: a pytree of scalars, which all microbatches
      share, and of arrays with a leading B, which are split as the batch is.
    """
    function = traits(loss).statistic
    if function is None:
        return None
    bound = loss.keywords if isinstance(loss, functools.partial) else {}
    values = {**bound, **available}
    parameters = inspect.signature(function).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        names = {p.name for p in parameters}
        values = {k: v for k, v in values.items() if k in names}
    return function(policy, reference, **values)


_WEIGHT = {"weight": config.Field(bounds.Positive, required=True)}


class Term(NamedTuple):
    """A part of a mixture: `weight` times the loss `function`, its options bound."""

    name: str
    weight: float
    function: Callable


def bind_mixture(section: Mapping, path: str) -> tuple[Term, ...]:
    """The terms of a mixture: `{loss: {"weight": w, option: value}}` or `{loss: w}`.

    Raises:
      ConfigError: an unknown loss, a weight or an option that it cannot have; all that
        is wrong at once.
    """
    terms, problems = [], []
    for name, value in section.items():
        fields = dict(value) if isinstance(value, Mapping) else {"weight": value}
        try:
            weight = {"weight": fields.pop("weight", None)}
            weight = config.fill(_WEIGHT, weight, f"{path}.{name}")["weight"]
            function = PREFERENCE.find(name)
            if (data := traits(function).data) != "pairs":
                raise ValueError(f"{name} is of {data}; a mixture is of pairs")
            bound = bind(function, fields, f"{path}.{name}")
            terms.append(Term(name, weight, bound))
        except errors.ConfigError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(f"{path}: {error}")
    if not section:
        problems.append(f"{path}: a mixture of nothing; name its losses and weights")
    if problems:
        raise errors.ConfigError(problems)
    return tuple(terms)


def combine(terms: Sequence[Term]) -> Callable:
    """The weighted sum of losses as one function with the traits of a loss.

    It is `(policy, reference, *, statistic, **inputs) -> (loss_B, {name: term_B})`:
    beside the sum it returns each term before its weight, float32 [B]. Its statistic is
    a dict of those of the batch-coupled terms, by name.
    """
    each = {term.name: traits(term.function) for term in terms}
    together = lambda field: tuple(
        sorted({x for own in each.values() for x in getattr(own, field)})
    )

    def measure_each(policy, reference, **available):
        return {
            term.name: measure(term.function, policy, reference, **available)
            for term in terms
            if each[term.name].coupled
        }

    def combined(policy, reference, *, statistic=None, **inputs):
        values = {}
        for term in terms:
            own = each[term.name]
            arguments = {name: inputs[name] for name in own.inputs if name in inputs}
            if own.coupled:
                arguments["statistic"] = statistic[term.name]
            values[term.name] = term.function(policy, reference, **arguments)
        return sum(term.weight * values[term.name] for term in terms), values

    coupled = any(own.coupled for own in each.values())
    first = each[terms[0].name]
    combined.traits = Traits(
        reference=any(own.reference for own in each.values()),
        needs=together("needs"),
        inputs=together("inputs"),
        statistic=measure_each if coupled else None,
        margin=all(own.margin for own in each.values()),
        data=first.data,
        normalised=first.normalised,
    )
    return combined

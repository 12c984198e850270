# SPDX-License-Identifier: Apache-2.0
"""Losses by name: their traits, their options from a config, and sums of them.

A loss is a pure function `(policy, reference, *, ...) -> loss_B`. Its keyword arguments
are *options*, which a config sets; *inputs*, arrays of the batch, such as labels; and
`statistic`, of losses whose terms depend on all of a batch. `Traits` tells them apart.
Losses of responses that were sampled, and of a critic's values of them, are
`(now, then, *, ...) -> loss_BT`, and all their keyword arguments are options.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from alignjax import bounds, config, errors, registry, types
from alignjax.losses import links, probe

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
POLICY_GRADIENT = registry.Registry("policy-gradient loss")  # Now and Then of [B, T]
VALUE = registry.Registry("value loss")
OF_TOKENS = {"policy-gradient": POLICY_GRADIENT, "value": VALUE}

# The kinds of data of losses, and the shape of log-probs in a dry run. Its sizes differ
# from one another and from the 2 of a pair, so no axis passes for another.
B, K, A = 5, 3, 4
SHAPES = {"pairs": (B, 2), "rankings": (B, K), "labels": (B,), "ratings": (B, A)}
RESPONSES = "responses"  # the data of `OF_TOKENS`
# The fields that `Traits.needs` may name, and those of `OF_TOKENS`.
_optional = lambda cls: [f.name for f in dataclasses.fields(cls) if f.default is None]
OPTIONAL = _optional(types.LogProbs)
OPTIONAL_OF_TOKENS = sorted({*_optional(types.Now), *_optional(types.Then)})
# Inputs that follow from the batch itself; all others are in `Responses.values`.
FROM_BATCH = ("weight_B", "present_BK", "present_BA")


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a loss needs of the code that calls it.

    Attributes:
      reference: whether it reads the reference model.
      needs: the optional fields of `LogProbs`, or of `Now` and `Then`, that it reads.
      inputs: its keyword arguments that are arrays of the batch, not options.
      statistic: the function of the whole global batch that a *batch-coupled* loss
        needs; its microbatches share one value, computed before them. See `measure`.
      margin: whether it depends on the log-ratios by their difference alone, so that
        the gradients of chosen and rejected are opposite.
      data: what one example of the loss is, one of `SHAPES`, or `RESPONSES`.
      normalised: of losses without a reference, whether the implicit reward of a
        response is its log-probability per token rather than the sum.
      per: of losses of tokens, whether it adds over the tokens of a "response", or
        takes each "token" by itself.
      denominator: of policy-gradient losses, that under which it is its paper's, where
        a config has to name one; None where the default will do.
      on_policy: of policy-gradient losses, whether the gradient by log p of an action
        is minus its advantage where policy and old policy are the same.
    """

    reference: bool = True
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    statistic: Callable | None = None
    margin: bool = False
    data: str = "pairs"
    normalised: bool = False
    per: Literal["token", "response"] = "token"
    denominator: str | None = None
    on_policy: bool = True

    @property
    def coupled(self) -> bool:
        return self.statistic is not None


def traits(function: Callable) -> Traits:
    """The traits of a loss; the default ones where it declares none."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "traits", Traits())


def declare(**fields) -> Callable[[Callable], Callable]:
    """A decorator that attaches `Traits` to a loss, also to one outside the package.

    Raises:
      ValueError: unknown traits, or inputs that the function does not take.
    """
    declared = Traits(**fields)
    of_tokens = declared.data == RESPONSES

    def decorate(function):
        for field, names, allowed in (
            ("needs", declared.needs, OPTIONAL_OF_TOKENS if of_tokens else OPTIONAL),
            ("data", (declared.data,), (*SHAPES, RESPONSES)),
            ("per", (declared.per,), ("token", "response")),
            ("inputs", declared.inputs, inspect.signature(function).parameters),
        ):
            for name in set(names) - set(allowed):
                problem = f"unknown {name!r}; {registry.closest(name, allowed)}"
                raise ValueError(f"{function.__name__}: {field}: {problem}")
        function.traits = declared
        return function

    return decorate


declare_policy = functools.partial(declare, data=RESPONSES, reference=False)


def register(where: registry.Registry, **fields) -> Callable[[Callable], Callable]:
    """`declare`, and an entry in the catalogue under the function's own name."""
    return lambda function: declare(**fields)(where.register(function))


def find(name: str, *kinds: str) -> Callable:
    """The loss called `name` among some kinds of losses, or at `module:function`.

    Raises:
      ConfigError: there is none.
    """
    losses = registry.Registry("loss")
    for kind in kinds:
        losses.update({**CATALOGUE, **OF_TOKENS}[kind])
    return config.find(losses, name, "loss")


def options(function: Callable) -> dict[str, config.Field]:
    """The keyword arguments of a loss that a config sets."""
    parameters = inspect.signature(function).parameters
    reserved = {"statistic", *traits(function).inputs}
    return {
        name: field
        for name, field in config.fields(function).items()
        if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        and name not in reserved
    }


def required_values(function: Callable) -> tuple[str, ...]:
    """The required keys of `Responses.values`: inputs of a loss without a default."""
    parameters = inspect.signature(function).parameters
    required = (
        name
        for name in set(traits(function).inputs) - set(FROM_BATCH)
        if parameters[name].default is inspect.Parameter.empty
    )
    return tuple(sorted(map(value_name, required)))


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
    with config.errors_at(path):
        bound = _filled(function, section)
        if "link_options" in bound.keywords:
            link = config.find(links.LINKS, bound.keywords["link"], "link")
            of_link = config.fields(link, leading=2)
            config.fill(of_link, bound.keywords["link_options"] or {}, "link_options")
        _dry_run(bound, scores)
    return bound


def bind_of_tokens(
    function: Callable, section: Mapping, path: str, *, critic: bool = False
) -> functools.partial:
    """`bind` of a loss of sampled tokens, or of a critic, which `probe` runs as well.

    Raises:
      ConfigError: as `bind`; also where the loss reads padding or other responses, is
        not finite, or has another gradient than minus the advantage at a ratio of 1.
    """
    check = probe.value if critic else probe.policy
    with config.errors_at(path):
        bound = _filled(function, section)
        name = getattr(function, "__name__", repr(function))
        try:
            check(bound, traits(function))
        except Exception as error:  # a loss from outside may fail in any way
            text = str(error).partition("\n")[0]
            if text.partition(":")[0] in bound.keywords:
                raise errors.ConfigError(text) from error
            field = "name" if critic else "loss"
            message = f"{field}: {name} {probe.reason(error)}"
            raise errors.ConfigError(message) from error
    return bound


def _filled(function: Callable, section: Mapping) -> functools.partial:
    try:
        fields = options(function)
    except NameError as error:
        raise errors.ConfigError(
            f"loss: {function.__name__}: in its annotations, {error}"
        ) from error
    values = {name: field.default for name, field in fields.items()}
    values |= config.fill(fields, section, "")
    return functools.partial(function, **values)


def _dry_run(loss: functools.partial, scores: bool) -> None:
    """Raises ConfigError unless the loss returns [B] of what its traits promise it.

    A ValueError of the loss itself that begins with the name of one of its options, as
    in "alpha: ...", is an error of that field.
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
            raise errors.ConfigError(str(error)) from error
        fields = ", ".join(("total", "length", *declared.needs))
        model = "a reference" if declared.reference else "no reference"
        promised = "scores" if scores else f"{fields} of each response, and {model}"
        raise errors.ConfigError(
            f"loss: {name} of {declared.data} fails: {type(error).__name__}: {text}; "
            f"its traits promise it {promised} (losses.catalogue.declare)"
        ) from error
    if (shape := jax.tree.map(jnp.shape, result)) != (B,):
        raise errors.ConfigError(
            f"loss: {name} returns shape {shape} for {B} {declared.data}; it must "
            f"return one value for each, {(B,)}, and not reduce them"
        )


def measure(loss: Callable, policy, reference, **available):
    """The `statistic` of a batch-coupled loss over the whole global batch; else None.

    It is a pytree of scalars, which all microbatches share, and of arrays with a
    leading B, which are split as the batch is.

    Args:
      loss: from the catalogue; options that it is not bound to have their defaults.
      policy, reference: `LogProbs` of the whole batch; no gradient goes through them.
      **available: inputs of the batch, `weight_B` (float32, 0 for padding rows) and
        `key`; the statistic is passed those that it takes.
    """
    function = traits(loss).statistic
    if function is None:
        return None
    bound = loss.keywords if isinstance(loss, functools.partial) else {}
    own = loss.func if isinstance(loss, functools.partial) else loss
    defaults = {k: f.default for k, f in options(own).items() if not f.required}
    values = {**defaults, **bound, **available}
    if not config.takes_options(function):
        parameters = inspect.signature(function).parameters
        values = {k: v for k, v in values.items() if k in parameters}
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
      ConfigError: all unknown losses, weights and options.
    """
    terms, problems = [], []
    for name, value in section.items():
        fields = dict(value) if isinstance(value, Mapping) else {"weight": value}
        try:
            weight = {"weight": fields.pop("weight", None)}
            weight = config.fill(_WEIGHT, weight, f"{path}.{name}")["weight"]
            function = config.find(PREFERENCE, name, path)
            if (data := traits(function).data) != "pairs":
                problem = f"{path}: {name} is of {data}; a mixture is of pairs"
                raise errors.ConfigError(problem)
            bound = bind(function, fields, f"{path}.{name}")
            terms.append(Term(name, weight, bound))
        except errors.ConfigError as error:
            problems += error.problems
    if not section:
        problems.append(f"{path}: a mixture of nothing; name its losses and weights")
    if problems:
        raise errors.ConfigError(problems)
    return tuple(terms)


def combine(terms: Sequence[Term]) -> Callable:
    """The weighted sum of losses as one function with the traits of a loss.

    It is `(policy, reference, *, statistic, **inputs) -> (loss_B, {name: term_B})`,
    each term before its weight, float32 [B]. Its statistic is a dict of those of the
    batch-coupled terms, by name.
    """
    each = {term.name: traits(term.function) for term in terms}
    union = lambda field: {x for t in each.values() for x in getattr(t, field)}

    def measure_each(policy, reference, **available):
        return {
            term.name: measure(term.function, policy, reference, **available)
            for term in terms
            if each[term.name].coupled
        }

    def combined(policy, reference, *, statistic=None, **inputs):
        values = {}
        for term in terms:
            names = each[term.name].inputs
            arguments = {name: inputs[name] for name in names if name in inputs}
            if each[term.name].coupled:
                arguments["statistic"] = statistic[term.name]
            values[term.name] = term.function(policy, reference, **arguments)
        return sum(term.weight * values[term.name] for term in terms), values

    first = each[terms[0].name]
    combined.traits = Traits(
        reference=any(t.reference for t in each.values()),
        needs=tuple(sorted(union("needs"))),
        inputs=tuple(sorted(union("inputs"))),
        statistic=measure_each if any(t.coupled for t in each.values()) else None,
        margin=all(t.margin for t in each.values()),
        data=first.data,
        normalised=first.normalised,
    )
    return combined

# SPDX-License-Identifier: Apache-2.0
"""Jinja's immutable sandbox with everything counted, for templates from anywhere.

The module imports jinja2, of the extra `hf`, so it is imported where it is needed.

Turns of loops, calls and filters are steps, and so is some of what they work on; a
rendering has so many of them, and stops at the same one on every machine, in any
thread. What makes large things of small ones (products, powers, padding, replacements)
is looked at before it is done, and nothing may be much larger than what was said.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import datetime
import functools
import json
import re
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes, runtime

STEPS = 1_000_000  # of one rendering, and more for each message of a long dialogue
PER_MESSAGE = 10_000
CALL = 10  # steps of a call, and parts of what it works on that are a step
SIZE = 1 << 20  # characters or items of one thing, and of all that is written
PER_CHARACTER = 8  # more of these, and of steps, for each character that was said
BITS = 1 << 17  # of a number
# Widths that nobody needs in patterns such as `%5d` and `{:5}`, or that are hidden.
_WIDTH = re.compile(
    r"%(?:\([^)]*\))?[^a-zA-Z%]*?(?:[0-9]{5}|\*)|{[^{}]*(?:[0-9]{5}[^{}]*}|{)"
)


# Filters that make no text of what they get; what they make is looked at afterwards.
_PASSING = frozenset(
    (
        "abs attr batch count d default dictsort first groupby items last length list "
        "map max min reject rejectattr reverse round select selectattr slice sort sum "
        "unique"
    ).split()
)


# Filters that take a microsecond for each part of what they get.
_SLOW = frozenset("groupby pprint sort title unique urlize wordcount wordwrap".split())


class Excess(Exception):
    """A template that does too much."""


@dataclasses.dataclass
class State:
    """What a rendering has done so far.

    Attributes:
      now: what `strftime_now` tells.
      most: steps that it may take.
      room: characters that it may write, and parts that anything may have.
      size: characters written.
      generated: where blocks `{% generation %}` began, and what they wrote.
    """

    now: datetime.datetime
    most: int = STEPS
    room: int = SIZE
    steps: int = 0
    size: int = 0
    generated: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    def step(self, count: int = 1) -> None:
        """Counts what is done. Raises Excess."""
        self.steps += count
        if self.steps > self.most:
            raise Excess(f"more than {self.most:,} turns of loops and calls")

    def write(self, block: str) -> str:
        """Counts what is written. Raises Excess."""
        self.size += len(block)
        check_size(self.size)
        return block


_STATE: contextvars.ContextVar[State] = contextvars.ContextVar("rendering")


@contextlib.contextmanager
def counted(
    now: datetime.datetime, messages: int = 0, characters: int = 0
) -> Iterator[State]:
    """All that templates do inside is counted in the State, and bounded.

    Args:
      now: what `strftime_now` tells.
      messages, characters: how many are said to the template.
    """
    more = PER_CHARACTER * characters
    state = State(now, STEPS + PER_MESSAGE * messages + more, SIZE + more)
    token = _STATE.set(state)
    try:
        yield state
    finally:
        _STATE.reset(token)


def check_size(size: int) -> None:
    """Raises Excess if something has so many parts that it is not to be made."""
    if size > (room := _STATE.get().room):
        raise Excess(f"something of {size:,} parts, where {room:,} are the most")


def _checked(value: Any) -> Any:
    """The value, if it is not too large."""
    if isinstance(value, int):
        if value.bit_length() > BITS:
            raise Excess(f"a number of {value.bit_length():,} bits")
    elif isinstance(value, Sized) and not isinstance(value, runtime.Undefined):
        check_size(len(value))
    return value


def _written(value: Any) -> Any:
    """What is to become text: the value, if that is not too large."""
    if isinstance(value, runtime.Undefined):
        if value._undefined_exception is jinja2.exceptions.SecurityError:
            value._fail_with_undefined_error()
    elif not isinstance(value, str):
        _parts(value)
    return value


def _parts(value: Any) -> int:
    """How many things are in a value, itself one. Raises Excess if as text it is large.

    What is in it twice is counted twice, as it is written twice.
    """
    waiting, parts, size = [value], 0, 0
    while waiting:
        found = waiting.pop()
        parts += 1
        if isinstance(found, (str, bytes)):
            size += len(found)
        elif isinstance(found, dict):
            waiting += [*found.keys(), *found.values()]
        elif isinstance(found, (list, tuple, set, frozenset)):
            waiting += found
        check_size(size + parts)
    _STATE.get().step(parts // CALL)
    return parts


def _turns(items: Iterable) -> Iterator:
    """The items, each a step."""
    for item in items:
        _STATE.get().step()
        yield item


def _joined(*values: Any) -> str:
    """The operator `~`."""
    texts = [str(_written(value)) for value in values]
    check_size(sum(map(len, texts)))
    return "".join(texts)


def _check_arguments(name: str, values: tuple, named: dict) -> None:
    """Refuses what would make something large; `name` is of a filter or a method."""
    _STATE.get().step(CALL)
    first, *rest = values or (None,)
    if isinstance(first, Sized) and not isinstance(first, runtime.Undefined):
        _STATE.get().step(len(first) // (1 if name in _SLOW else CALL))
    rest += named.values()
    numbers = [abs(value) for value in rest if isinstance(value, int)]
    check_size(max(numbers, default=0))
    parts = 1 if isinstance(first, str) or name in _PASSING else _parts(first)
    if name == "replace" and len(rest) >= 2 and isinstance(first, str):
        check_size(len(first) + first.count(str(rest[0])) * len(str(rest[1])))
    elif name in ("format", "format_map"):
        _check_format(first, rest)
    elif name in ("join", "indent", "tojson", "wordwrap", "expandtabs"):
        # Something is put between parts, or characters, as often as there are any.
        if isinstance(first, str) and name != "tojson":
            parts = len(first)
        if name == "join" and rest:  # the method has the list as its argument
            parts = max(parts, *(_parts(value) for value in rest))
            parts = max(parts, *(len(v) for v in rest if isinstance(v, str)), 0)
        longest = [len(v) for v in _texts([first, *rest], name != "join")]
        check_size(parts * max([1, *longest, *numbers]))


def _texts(values: list, nested: bool) -> Iterator[str]:
    """The texts among the arguments after the first, or all that are no lists."""
    for value in values[1:] if nested else values:
        if isinstance(value, str):
            yield value
        elif nested and isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, str))


def _check_format(text: Any, rest: list) -> None:
    """Refuses wide patterns, and arguments that are large as text."""
    if isinstance(text, str) and (found := _WIDTH.search(text)):
        raise Excess(f"the pattern {found[0]!r:.40}")
    for value in rest:
        _parts(_checked(value))


class _Generation(jinja2.ext.Extension):
    """The tag `{% generation %}`: what a model says, and not what is said to it."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        """The block as a call, so that what it writes is known."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_written", [])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _written(self, caller) -> str:
        state, said = _STATE.get(), caller()
        state.generated.append((state.size, said))
        return said


class _Namespace(jinja2.utils.Namespace):
    """Of names that do not begin with an underscore, as in transformers."""

    def __init__(*values, **named):
        self, values = values[0], values[1:]
        found = dict(*values, **named)
        for name in found:
            _Namespace._check_name(name)
        jinja2.utils.Namespace.__init__(self, found)

    def __setitem__(self, name, value):
        _Namespace._check_name(name)
        super().__setitem__(name, _checked(value))

    @staticmethod
    def _check_name(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace with {name!r}")


class _Dict:
    """`dict(...)` and `dict.fromkeys(...)`, and nothing else that Python's has."""

    def __call__(self, *values, **named):
        return dict(*values, **named)

    def fromkeys(self, *values):
        """A dict of keys and one value."""
        return dict.fromkeys(*values)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox; jinja2 offers its hooks as methods."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def _parse(self, source, name, filename):
        return _instrumented(super()._parse(source, name, filename))

    def call(self, context, called, /, *values, **named):
        """A call in a template: a step, with arguments that are not too large."""
        if isinstance(called, runtime.LoopContext) and values:
            values = (_turns(values[0]), *values[1:])  # {% for ... recursive %}
        name = getattr(called, "__name__", "")
        bound = getattr(getattr(called, "__wrapped__", called), "__self__", None)
        first = bound if isinstance(bound, (str, bytes, list, dict)) else None
        _check_arguments(name, (first, *values), named)
        return _checked(super().call(context, called, *values, **named))

    def call_binop(self, context, operator, left, right):
        """What may be large is looked at before it is made."""
        if operator == "*":
            for many, number in ((left, right), (right, left)):
                if isinstance(number, int) and isinstance(many, Sized):
                    check_size(len(many) * max(0, number))
            if isinstance(left, int) and isinstance(right, int):
                _checked(1 << min(left.bit_length() + right.bit_length(), BITS))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _checked(1 << min(left.bit_length() * abs(right), BITS))
        elif operator == "%" and isinstance(left, str):
            _check_format(left, [right])
        elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
            check_size(len(left) + len(right))
        return super().call_binop(context, operator, left, right)


def _instrumented(tree: nodes.Template) -> nodes.Template:
    """The tree with its loops counted, and `~` done by `_joined`."""
    for loop in tree.find_all(nodes.For):
        loop.iter = _filtered("_turns", loop.iter)
    for node in [tree, *tree.find_all(nodes.Node)]:
        for name in node.fields:
            value = getattr(node, name, None)
            if isinstance(value, nodes.Concat):
                setattr(node, name, _filtered("_joined", *value.nodes))
            elif isinstance(value, list):
                value[:] = [
                    _filtered("_joined", *item.nodes)
                    if isinstance(item, nodes.Concat)
                    else item
                    for item in value
                ]
    return tree


def _filtered(name: str, first: nodes.Expr, *rest: nodes.Expr) -> nodes.Filter:
    found = nodes.Filter(first, name, list(rest), [], None, None)
    return found.set_lineno(first.lineno).set_environment(first.environment)


def _watched(name: str, function):
    """A filter whose arguments and result are looked at."""

    @functools.wraps(function)
    def watched(*values, **named):
        own = 0
        if getattr(function, "jinja_pass_arg", None) is not None:
            own = 1  # the context or the environment comes first
        _check_arguments(name, values[own:], named)
        found = function(*values, **named)
        return _turns(found) if isinstance(found, Iterator) else _checked(found)

    return watched


def _raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(format):
    return _STATE.get().now.strftime(format)


def _tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """Jinja's own escapes HTML."""
    return json.dumps(
        x,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def environment() -> jinja2.Environment:
    """What templates are compiled in; to be rendered inside of `counted`."""
    made = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_written,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    made.filters["tojson"] = _tojson
    made.filters = {name: _watched(name, f) for name, f in made.filters.items()}
    made.filters |= {"_turns": _turns, "_joined": _joined}
    # Not the same from one rendering to the next, and a text generator.
    del made.filters["random"], made.globals["lipsum"]
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = _strftime_now
    made.globals["dict"] = _Dict()
    made.globals["namespace"] = _Namespace
    return made

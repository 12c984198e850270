# SPDX-License-Identifier: Apache-2.0
"""Sections of a config to validated dataclasses and keyword arguments.

A config is nested plain data. The dataclass of a section, or the signature of the
function that a section is passed to, is the one place that knows its fields: their
types, bounds (`alignjax.bounds`), defaults and, in its docstring, their meaning.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import importlib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

from alignjax import bounds, errors, registry

T = TypeVar("T")


class Field(NamedTuple):
    """A field of a section.

    Attributes:
      type: its annotation, with bounds.
      default: its value where the config has None or nothing.
      required: whether the config must have a value.
      meaning: its entry in the docstring, on one line.
    """

    type: Any
    default: Any = None
    required: bool = False
    meaning: str = ""


@functools.cache
def fields(owner: Callable, leading: int = 0) -> dict[str, Field]:
    """The fields of a dataclass, or a function's parameters after `leading` ones."""
    hints = typing.get_type_hints(owner, include_extras=True)
    meanings = _meanings(inspect.getdoc(owner) or "")
    factories = {}
    if dataclasses.is_dataclass(owner):
        factories = {f.name: f.default_factory for f in dataclasses.fields(owner)}
    result = {}
    for p in _parameters(owner)[leading:]:
        if p.kind is p.VAR_KEYWORD:
            continue
        required = p.default is p.empty
        default = None if required else p.default
        if factories.get(p.name, dataclasses.MISSING) is not dataclasses.MISSING:
            default = factories[p.name]()
        hint, meaning = hints.get(p.name, Any), meanings.get(p.name, "")
        result[p.name] = Field(hint, default, required, meaning)
    return result


def fill(known: Mapping[str, Field], section: Mapping, path: str) -> dict[str, Any]:
    """The values that the section at `path` has for `known` fields.

    None is the default of the field, unless its type has None and its default is
    another value. Ints are accepted for floats, lists for tuples; bools are not ints.

    Raises:
      ConfigError: unknown, missing, mistyped, non-finite or out-of-bounds fields, all
        of them at once.
    """
    prefix = f"{path}." if path else ""
    problems, values = [], {}
    for name, value in section.items():
        if value is None:
            field = known.get(name)
            if field and field.default is not None and allows_none(field.type):
                values[name] = None
            continue
        if name not in known:
            remedy = registry.closest(name, known) if known else "it takes no options"
            problems.append(f"{prefix}{name}: unknown field; {remedy}")
            continue
        try:
            values[name] = cast(value, known[name].type)
        except errors.ConfigError as error:  # from a section within this one
            problems += [f"{prefix}{name}.{problem}" for problem in error.problems]
        except ValueError as error:
            problems.append(f"{prefix}{name}: {error}")
    for name, field in known.items():
        if field.required and section.get(name) is None:
            kind = type_name(field.type)
            problems.append(f"{prefix}{name}: required, of type {kind}")
    if problems:
        raise errors.ConfigError(problems)
    return values


def build(cls: type[T], section: Mapping, path: str) -> T:
    """An instance of the dataclass `cls` from the section at `path`; see `fill`."""
    values = fill(fields(cls), section, path)
    with errors_at(path):
        return cls(**values)


def call(function: Callable, section: Mapping, path: str, *leading):
    """`function(*leading, **section)`, with keyword arguments checked by `fill`.

    A function with `**options` gets the remaining fields too, and must check them.
    """
    known, rest = fields(function, len(leading)), {}
    if takes_options(function):
        rest = {k: v for k, v in section.items() if k not in known and v is not None}
        section = {k: v for k, v in section.items() if k in known}
    values = fill(known, section, path)
    with errors_at(path):
        try:
            return function(*leading, **values, **rest)
        except SystemExit as error:  # which would pass for the end of the work
            name = getattr(function, "__name__", "it")
            raise errors.ConfigError(f"{name}() called exit({error.code})") from error


def find(functions: registry.Registry, name: str, path: str) -> Callable:
    """`functions.find(name)`, where `path` is the field that has the name.

    Raises:
      ConfigError: there is no such function.
    """
    try:
        return functions.find(name)
    except ValueError as error:
        raise errors.ConfigError(f"{path}: {error}") from error


def of_kind(kinds: Mapping[str, str], kind: Any, name: str, noun: str) -> Callable:
    """The function `name` of the module that `kinds` has for `kind`.

    A kind with a colon, `module:function`, is that function.

    Raises:
      ConfigError: there is none; calls the field `kind`, and what it names a `noun`.
    """
    if not isinstance(kind, str):
        remedy = f"one of {', '.join(kinds)}, or module:function"
        raise errors.ConfigError(f"kind: {kind!r:.40}; {remedy}")
    if ":" in kind:
        return find(registry.Registry(noun), kind, "kind")
    if kind not in kinds:
        remedy = registry.closest(kind, kinds)
        raise errors.ConfigError(f"kind: unknown {noun} {kind!r}; {remedy}")
    return getattr(importlib.import_module(kinds[kind]), name)


def takes_options(function: Callable) -> bool:
    """Whether a function has `**options`."""
    return any(p.kind is p.VAR_KEYWORD for p in _parameters(function))


def _parameters(function: Callable) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError as error:  # some that are not written in Python
        raise errors.ConfigError(
            f"{function!r:.80} does not tell its options; name a function of Python"
        ) from error


@contextlib.contextmanager
def errors_at(path: str):
    """Puts `path` before the fields that a ConfigError raised inside names."""
    try:
        yield
    except errors.ConfigError as error:
        prefix = f"{path}." if path else ""
        raise errors.ConfigError([prefix + p for p in error.problems]) from error


def expect(value: Any, kind: type, where: str) -> Any:
    """`value`, read from JSON, if it is of type `kind`.

    Raises:
      ConfigError: it is not; `where` names the file and the field.
    """
    if _is(value, kind):
        return value
    raise errors.ConfigError(
        f"{where}: {value!r:.60} is {type(value).__name__}, not {type_name(kind)}"
    )


def fault(cls: type, name: str, value: Any) -> str | None:
    """Why `value` cannot be the field `name` of the dataclass `cls`, or None."""
    hint = fields(cls)[name].type
    if value is None and not allows_none(hint):
        return f"null is not {type_name(hint)}; give it, or leave it out"
    try:
        if value is not None:
            cast(value, hint)
    except ValueError as error:
        return str(error)
    return None


def to_json(section) -> Any:
    """Plain dicts, lists and scalars, as JSON has them, from a ConfigDict or a dict."""
    if hasattr(section, "to_dict"):
        section = section.to_dict()
    if isinstance(section, Mapping):
        return {str(key): to_json(value) for key, value in section.items()}
    if isinstance(section, (list, tuple)):
        return [to_json(value) for value in section]
    return section


def leaves(section: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`(dotted path, value)` of all that is no section, or an empty one."""
    for name, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Lines `field: old -> new` for every leaf in which two JSON values differ.

    A field that is missing is None, and a section that is missing is empty.
    """
    if any(isinstance(x, Mapping) for x in (old, new)) and all(
        x is None or isinstance(x, Mapping) for x in (old, new)
    ):
        old, new, lines = old or {}, new or {}, []
        for key in sorted({*old, *new}):
            inner = f"{path}.{key}" if path else str(key)
            lines += differences(old.get(key), new.get(key), inner)
        return lines
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def cast(value: Any, hint: Any) -> Any:
    """`value` as the type `hint`; ValueError names the type or bound it misses."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        value = cast(value, arguments[0])
        for bound in arguments[1:]:
            if isinstance(bound, bounds.Bound) and not bound.holds(value):
                raise ValueError(f"{value!r} is not {bound.text}")
        return value
    if members(hint) != (hint,):
        for option in (a for a in arguments if a is not type(None)):
            try:
                return cast(value, option)
            except ValueError as error:
                last = error
        raise last
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(
                f"{value!r} is not one of {', '.join(map(repr, arguments))}"
            )
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = arguments[0] if arguments else Any
        return tuple(cast(item, inner) for item in value)
    if dataclasses.is_dataclass(hint) and hasattr(value, "items"):
        return build(hint, value, "")
    if is_dict(hint) and hasattr(value, "items"):
        inner = arguments[1] if arguments else Any
        return {key: cast(item, inner) for key, item in value.items()}
    if hint is float and _is(value, (int, float)):
        if not abs(value) <= sys.float_info.max:
            raise ValueError(f"{value!r:.60} is not a finite number")
        return float(value)
    if isinstance(hint, type) and _is(value, hint):
        return value
    raise ValueError(f"{value!r} is {type(value).__name__}, not {type_name(hint)}")


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    """As `isinstance`, but a bool is no number."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def members(hint: Any) -> tuple:
    """The types of a union, or the one type."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def allows_none(hint: Any) -> bool:
    return type(None) in members(hint)


def is_dict(hint: Any) -> bool:
    """Whether a type is of dicts, which have keys of any name."""
    return {dict, Mapping} & {hint, typing.get_origin(hint)} != set()


def type_name(hint) -> str:
    """`float`, `tuple[str, ...]`, `int | None`: a type as a user reads it."""
    if typing.get_origin(hint) is Annotated:
        return type_name(typing.get_args(hint)[0])
    return getattr(hint, "__name__", str(hint)).replace("typing.", "")


def parse(text: str, hint: Any) -> Any:
    """The value of type `hint` that a flag spells; ValueError where it spells none.

    "none" is None, unless it is one of the field's choices; "None" and "null" always
    are. Tuples are Python's, JSON's, or words between commas.
    """
    choices = [choice for m in members(hint) for choice in typing.get_args(m)]
    if text in ("None", "null") or (text == "none" and text not in choices):
        return None
    values = [text]
    for read in (float, json.loads, ast.literal_eval):
        # The last two are of nested text: one of JSON, one of Python's parser.
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            values.insert(0, read(text))
    if text.lower() in ("true", "false"):
        values.insert(0, text.lower() == "true")
    values.append(tuple(word.strip() for word in text.split(",") if word.strip()))
    if str in members(hint):
        values = [text]
    for value in values:
        with contextlib.suppress(ValueError):
            return cast(value, hint)
    return cast(values[0], hint)  # for its message


def limits(hint: Any) -> str:
    """The values that a type allows, in words; "" where the type says nothing more."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(map(repr, arguments))
    if origin is Annotated:
        return ", ".join(b.text for b in arguments[1:] if isinstance(b, bounds.Bound))
    if members(hint) != (hint,):
        return ", ".join(filter(None, map(limits, arguments)))
    return ""


def _meanings(docstring: str) -> dict[str, str]:
    """The entries of "Attributes:" or "Args:", by name: `a, b: text` is of both."""
    meanings, names = {}, []
    body = re.split(r"^(?:Attributes|Args):\n", docstring, maxsplit=1, flags=re.M)[1:]
    for line in "".join(body).splitlines():
        if line and not line.startswith(" "):
            break
        if entry := re.match(r"  (\*{0,2}\w+(?:, \w+)*): (.*)", line):
            names = entry[1].split(", ")
            meanings |= dict.fromkeys(names, entry[2])
        elif line.strip():
            meanings |= {name: f"{meanings[name]} {line.strip()}" for name in names}
    return meanings

# SPDX-License-Identifier: Apache-2.0
"""Config sections to frozen dataclasses: every field known, typed and finite.

A config file (ml_collections) is nested plain data. Each module owns the dataclass of
its own section; `build` fills it or says everything that is wrong at once.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from alignjax import errors, registry

T = TypeVar("T")


def build(cls: type[T], section: Mapping[str, Any], path: str) -> T:
    """An instance of the frozen dataclass `cls` from the `section` found at `path`.

    A value of None stands for the field's default, so that a flag can clear a field.
    Ints are accepted for floats, lists for tuples; bools are not ints.

    Raises:
      ConfigError: unknown, missing, mistyped or non-finite fields, all of them at once.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    prefix = f"{path}." if path else ""
    problems, values = [], {}
    for name, value in section.items():
        if name not in fields:
            if value is not None:
                remedy = registry.closest(name, fields)
                problems.append(f"{prefix}{name}: unknown field; {remedy}")
            continue
        if value is None:
            continue
        try:
            values[name] = _cast(value, hints[name])
        except errors.ConfigError as error:  # from a section within this one
            problems += [f"{prefix}{name}.{problem}" for problem in error.problems]
        except ValueError as error:
            problems.append(f"{prefix}{name}: {error}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        )
        if required and section.get(name) is None:
            kind = _type_name(hints[name])
            problems.append(f"{prefix}{name}: required, of type {kind}")
    if problems:
        raise errors.ConfigError(problems)
    try:
        return cls(**values)
    except errors.ConfigError as error:  # from the dataclass's own checks
        raise errors.ConfigError(
            [f"{prefix}{problem}" for problem in error.problems]
        ) from error


def call(function: Callable, section: Mapping[str, Any], path: str, *leading):
    """`function(*leading, **section)`, its keyword arguments checked as by `build`.

    The function's annotations and defaults say what is known, required and of which
    type; so an option that a function does not take is refused, never ignored. One
    with `**options` is handed whatever else there is, which it must check itself.
    """
    parameters = list(inspect.signature(function).parameters.values())[len(leading) :]
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    rest = {}
    if len(named) < len(parameters):
        names = {p.name for p in named}
        rest = {k: v for k, v in section.items() if k not in names and v is not None}
        section = {k: v for k, v in section.items() if k in names}
    hints = typing.get_type_hints(function)
    fields = []
    for p in named:
        hint = hints.get(p.name, Any)
        if p.default is inspect.Parameter.empty:
            fields.append((p.name, hint))
        else:
            fields.append((p.name, hint, dataclasses.field(default=p.default)))
    options = dataclasses.make_dataclass("Options", fields, kw_only=True)
    filled = build(options, section, path)
    values = {f.name: getattr(filled, f.name) for f in dataclasses.fields(filled)}
    try:
        return function(*leading, **values, **rest)
    except errors.ConfigError as error:  # from the function's own checks
        prefix = f"{path}." if path else ""
        raise errors.ConfigError(
            [f"{prefix}{problem}" for problem in error.problems]
        ) from error


def expect(value: Any, kind: type, where: str) -> Any:
    """`value`, which was read from JSON, if it is of the type `kind`.

    Raises:
      ConfigError: it is of another; `where` names the file and the field.
    """
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise errors.ConfigError(
        f"{where}: {value!r:.60} is {type(value).__name__}, not {_type_name(kind)}"
    )


def fault(cls: type, name: str, value: Any) -> str | None:
    """Why `value` cannot be the field `name` of the dataclass `cls`, or None."""
    hint = typing.get_type_hints(cls)[name]
    if value is None:
        if type(None) in typing.get_args(hint):
            return None
        return f"null is not {_type_name(hint)}; give it, or leave it out"
    try:
        _cast(value, hint)
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


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Lines `field: old -> new` for every leaf in which two JSON values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in sorted({*old, *new}):
            inner = f"{path}.{key}" if path else str(key)
            lines += differences(old.get(key), new.get(key), inner)
        return lines
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def _cast(value, hint):
    """`value` as the type `hint`; ValueError says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for option in (a for a in arguments if a is not type(None)):
            try:
                return _cast(value, option)
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
        return tuple(_cast(item, inner) for item in value)
    if dataclasses.is_dataclass(hint) and hasattr(value, "items"):
        return build(hint, value, "")
    if hint in (dict, Mapping) or origin in (dict, Mapping):
        if isinstance(value, Mapping) or hasattr(value, "items"):
            return dict(value.items())
    elif (
        hint is float
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    ):
        if not math.isfinite(value):
            raise ValueError(f"{value!r} is not a finite number")
        return float(value)
    elif (hint is int and isinstance(value, int) and not isinstance(value, bool)) or (
        hint not in (int, float) and isinstance(hint, type) and isinstance(value, hint)
    ):
        return value
    raise ValueError(f"{value!r} is {type(value).__name__}, not {_type_name(hint)}")


def _type_name(hint) -> str:
    return getattr(hint, "__name__", str(hint)).replace("typing.", "")

# SPDX-License-Identifier: Apache-2.0
"""The fields that a config may have, and a page that explains them with their values.

Which fields apply depends on what the config names: its objective and loss, optimizer,
schedule and sources of data. Dataclasses and signatures are the only place that lists
them, so that flags, this page and the checks of a config always agree.
"""

from __future__ import annotations

import importlib
import textwrap
import typing
from collections.abc import Mapping
from typing import Any

from alignjax import config, errors, models, registry
from alignjax.config import Field
from alignjax.data import sources
from alignjax.distributed import sharding
from alignjax.experiment import initial, sections
from alignjax.losses import catalogue
from alignjax.models import decoder_config
from alignjax.objectives import OBJECTIVES, preference, reward_model
from alignjax.training import optim, schedules

SOURCES = ("sources", "validation_sources")
# The losses of objectives whose config names none.
_LOSSES = {preference.make: "dpo", reward_model.make: "bradley_terry"}


def fields(section: Mapping) -> dict[str, Field]:
    """Every field that a config may have, by dotted path.

    A part with an unknown name, which `build.check` reports, is one field of type dict.
    """
    paths = {}
    for name, field in config.fields(sections.Config).items():
        part = section.get(name) or {}
        try:
            if name in sections.SECTIONS:
                inner = config.fields(sections.SECTIONS[name])
            else:
                inner = PARTS[name](part) if name in PARTS else None
        except ValueError:  # an unknown name
            inner = None
        if inner is None:
            paths[name] = field
        else:
            paths |= {f"{name}.{key}": value for key, value in inner.items()}
    for name in SOURCES:
        for source, options in ((section.get("data") or {}).get(name) or {}).items():
            inner = _source(options if isinstance(options, Mapping) else {})
            paths |= {f"data.{name}.{source}.{k}": field for k, field in inner.items()}
    return paths


def find(paths: Mapping[str, Field], path: str) -> Field:
    """The field at a path; fields inside a dict without a schema may have any name.

    Raises:
      ConfigError: there is none.
    """
    if path in paths:
        return paths[path]
    parts = path.split(".")
    for i in range(len(parts) - 1, 0, -1):
        parent, child = ".".join(parts[:i]), ".".join(parts[: i + 1])
        if parent in paths and dict in _types(paths[parent].type):
            if any(known.startswith(f"{child}.") for known in paths):
                break
            return Field(Any)
    if inner := sorted(p for p in paths if p.startswith(f"{path}.")):
        raise errors.ConfigError(f"{path}: a section; set its fields, as in {inner[0]}")
    raise errors.ConfigError(f"{path}: unknown field; {_closest(path, paths)}")


def page(section: Mapping, origins: Mapping[str, str], *, network: bool = False) -> str:
    """Every field that applies: its value, where that comes from, and its meaning.

    Args:
      section: the config.
      origins: "file" or "flag" for each path that one of them sets.
      network: whether the run that it starts from may be fetched.
    """
    origins, lines = dict(origins), []
    init = config.build(sections.InitConfig, section.get("init") or {}, "init")
    if (start := initial.find_run(init, "init", network)) is not None:
        whole = initial.inherit_model(
            {**section, "model": section.get("model") or {}}, start
        )
        for name, value in whole["model"].items():
            if get(section, f"model.{name}") is None and value is not None:
                origins[f"model.{name}"] = init.run
        section = whole
    paths, defaults = fields(section), {}
    if get(section, "model.family") is None:
        lines.append("# the model is that of init.run, which is not given yet")
    else:
        try:
            model = models.build(section["model"], 1).config
            defaults = {f"model.{k}": v for k, v in vars(model).items()}
        except errors.ConfigError as error:
            lines += [f"# {problem}" for problem in error.problems]
    for path, field in paths.items():
        if dict in _types(field.type) and any(p.startswith(f"{path}.") for p in paths):
            continue
        value = get(section, path)
        origin = origins.get(path) or next(
            (origins[p] for p in origins if p.startswith(f"{path}.")), "file"
        )
        cleared = config.allows_none(field.type) and path not in defaults
        if value is None and not (origins.get(path) == "flag" and cleared):
            value, origin = defaults.get(path, field.default), "default"
            if field.required and path not in defaults:
                value, origin = "?", "required"
        lines.append(f"{path} = {value!r}  ({origin})")
        if text := _meaning(field):
            lines.append(textwrap.indent(textwrap.fill(text, 84), "    "))
    return "\n".join(lines)


def get(section: Mapping, path: str) -> Any:
    """The value at a dotted path, or None."""
    for name in path.split("."):
        section = section.get(name) if isinstance(section, Mapping) else None
    return section


def _model(part: Mapping) -> dict[str, Field]:
    del part
    inner = config.fields(decoder_config.DecoderConfig)
    inner = {name: field._replace(required=False) for name, field in inner.items()}
    return config.fields(sections.ModelConfig) | inner


def _objective(part: Mapping) -> dict[str, Field]:
    make = OBJECTIVES.find(part.get("name") or "")
    inner = config.fields(sections.ObjectiveConfig) | config.fields(make, leading=1)
    if not config.takes_options(make) or part.get("mixture"):
        return inner
    loss = catalogue.find(part.get("loss") or _LOSSES[make], *catalogue.CATALOGUE)
    return inner | catalogue.options(loss)


def _optimizer(part: Mapping) -> dict[str, Field]:
    make = optim.OPTIMIZERS.find(part.get("name") or "")
    return config.fields(sections.OptimizerConfig) | config.fields(make, leading=2)


def _schedule(part: Mapping) -> dict[str, Field]:
    make = schedules.SCHEDULES.find(part.get("name") or "")
    return config.fields(sections.ScheduleConfig) | config.fields(make, leading=3)


def _mesh(part: Mapping) -> dict[str, Field]:
    del part
    return config.fields(sections.MeshConfig)


def _sharding_rules(part: Mapping) -> dict[str, Field]:
    del part
    return {name: Field(Any, axes) for name, axes in sharding.RULES.items()}


PARTS = {
    "model": _model,
    "objective": _objective,
    "optimizer": _optimizer,
    "schedule": _schedule,
    "mesh": _mesh,
    "sharding_rules": _sharding_rules,
}


def _source(options: Mapping) -> dict[str, Field]:
    """The fields of a source of data; none where its kind is unknown."""
    kind = options.get("kind") or ""
    try:
        if ":" in kind:
            load = registry.Registry("source").find(kind)
        else:
            load = importlib.import_module(sources.KINDS[kind]).load
    except (ValueError, KeyError):
        return {}
    return config.fields(sections.SourceConfig) | config.fields(load)


def _types(hint: Any) -> tuple:
    """A hint and the members of its union."""
    return (hint, *typing.get_args(hint))


def _closest(path: str, paths: Mapping[str, Field]) -> str:
    """A remedy with the nearest path, and the names at the deepest known parent."""
    parent = path
    while parent and not any(p.startswith(f"{parent}.") for p in paths):
        parent = parent.rpartition(".")[0]
    start = f"{parent}." if parent else ""
    names = {
        p.removeprefix(start).partition(".")[0] for p in paths if p.startswith(start)
    }
    return registry.closest(path.removeprefix(start).partition(".")[0], names)


def _meaning(field: Field) -> str:
    """The docstring's text, then what values are allowed."""
    limits = config.limits(field.type)
    return " ".join(part for part in (field.meaning, limits and f"[{limits}]") if part)

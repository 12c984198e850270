# SPDX-License-Identifier: Apache-2.0
"""The fields that a config may have, and a page that explains them with their values.

Which fields apply depends on what the config names: its objective and loss, optimizer,
schedule and sources of data. Dataclasses and signatures are the only place that lists
them, so that flags, this page and the checks of a config always agree.
"""

from __future__ import annotations

import contextlib
import importlib
import textwrap
import typing
from collections.abc import Mapping
from typing import Any

from alignjax import config, errors, models, registry
from alignjax.config import Field
from alignjax.data import sources
from alignjax.distributed import sharding
from alignjax.experiment import initial, rollouts, sections
from alignjax.losses import catalogue
from alignjax.models import decoder_config
from alignjax.objectives import OBJECTIVES, policy_gradient, preference, reward_model
from alignjax.rollouts import settings as rollout_settings
from alignjax.training import optim, schedules

SOURCES = ("sources", "validation_sources")
# The losses of objectives whose config names none.
_LOSSES = {
    preference.make: "dpo",
    reward_model.make: "bradley_terry",
    policy_gradient.make: "ppo_clip",
}


def fields(section: Mapping) -> dict[str, Field]:
    """Every field that a config may have, by dotted path.

    A part with an unknown name, which `build.check` reports, is one field of type dict.
    """
    paths = {}
    for name, field in config.fields(sections.Config).items():
        part, inner = section.get(name), {}
        with contextlib.suppress(ValueError):  # an unknown name
            inner = _inner(name, part if isinstance(part, Mapping) else {})
        inner = {f"{name}.{key}": value for key, value in inner.items()}
        paths |= inner or {name: field}
    for name in SOURCES:
        for source, options in ((section.get("data") or {}).get(name) or {}).items():
            inner = _source(options if isinstance(options, Mapping) else {})
            paths |= {f"data.{name}.{source}.{k}": field for k, field in inner.items()}
    return paths


def _inner(name: str, part: Mapping) -> dict[str, Field]:
    """The fields of a part of a config: its own, and those of the function it names.

    Raises:
      ValueError: there is no such function.
    """
    if name == "sharding_rules":
        return {axis: Field(Any, axes) for axis, axes in sharding.RULES.items()}
    own = sections.PARTS.get(name) or sections.SECTIONS.get(name)
    inner, function = dict(config.fields(own)) if own else {}, part.get("name") or ""
    if name == "model":
        options = config.fields(decoder_config.DecoderConfig).items()
        inner |= {key: field._replace(required=False) for key, field in options}
    if name == "optimizer":
        inner |= config.fields(optim.OPTIMIZERS.find(function), leading=2)
    if name == "schedule":
        inner |= config.fields(schedules.SCHEDULES.find(function), leading=3)
    if name == "rollouts":
        kl = config.fields(inner.pop("kl").type)
        inner |= {f"kl.{key}": field for key, field in kl.items()}
    if name == "objective":
        inner |= config.fields(OBJECTIVES.find(function), leading=1)
        inner |= loss_options(part)
    return inner


def loss_options(part: Mapping) -> dict[str, Field]:
    """The options of the loss that the section `objective` names, if it has any.

    Raises:
      ValueError: there is no such objective or loss.
    """
    make = OBJECTIVES.find(part.get("name") or "")
    if not config.takes_options(make) or part.get("mixture"):
        return {}
    loss = part.get("loss") or _LOSSES[make]
    kinds = (*catalogue.CATALOGUE, *catalogue.OF_TOKENS)
    return catalogue.options(catalogue.find(loss, *kinds))


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


def find(paths: Mapping[str, Field], path: str, text: str) -> Field:
    """The field at a path; fields inside a dict without a schema may have any name.

    `text` is what is to be its value, for the message.

    Raises:
      ConfigError: there is none.
    """
    if path in paths:
        return paths[path]
    section, _, name = path.partition(".")
    if section == "rollouts" and name in rollout_settings.FILTERS:
        raise errors.ConfigError(f"{path}: {text:.40}; {rollout_settings.NO_FILTER}")
    if inner := sorted(p for p in paths if p.startswith(f"{path}.")):
        raise errors.ConfigError(f"{path}: a section; set its fields, as in {inner[0]}")
    parent, last, names = path, path, {}
    while parent and not names:
        child, (parent, _, last) = parent, parent.rpartition(".")
        hints = config.members(paths[parent].type) if parent in paths else ()
        free = [hint for hint in hints if config.is_dict(hint)]
        if free and not any(p.startswith(f"{child}.") for p in paths):
            return Field((*typing.get_args(free[0]), Any, Any)[1])
        if parent in paths:
            kind = config.type_name(paths[parent].type)
            raise errors.ConfigError(
                f"{path}: unknown field; {parent} is a value ({kind}), not a section"
            )
        start = f"{parent}." if parent else ""
        inner = (p.removeprefix(start) for p in paths if p.startswith(start))
        names = {name.partition(".")[0] for name in inner}
    raise errors.ConfigError(f"{path}: unknown field; {registry.closest(last, names)}")


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
        own = section.get("model") or {}
        section = initial.inherit_model({**section, "model": own}, start)
        for name, value in section["model"].items():
            if own.get(name) is None and value is not None:
                origins[f"model.{name}"] = init.run
    paths, defaults = fields(section), {}
    if get(section, "model.family") is None:
        lines.append("# the model is that of init.run, which is not given yet")
    else:
        try:
            model = models.build(section["model"], 1).config
            defaults = {f"model.{k}": v for k, v in vars(model).items()}
        except errors.ConfigError as error:
            lines += [f"# {problem}" for problem in error.problems]
    online = section.get("rollouts") and get(section, "objective.name") == rollouts.NAME
    follow = {f"objective.{name}" for name in rollouts.FOLLOWS} if online else set()
    for path, field in paths.items():
        if path in follow:
            continue  # refused, since it follows from another section
        if any(map(config.is_dict, config.members(field.type))) and any(
            p.startswith(f"{path}.") for p in paths
        ):
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
        limits = config.limits(field.type)
        text = f"{field.meaning} [{limits}]" if limits else field.meaning
        if text:
            lines.append(textwrap.indent(textwrap.fill(text.strip(), 84), "    "))
    return "\n".join(lines)


def get(section: Mapping, path: str) -> Any:
    """The value at a dotted path, or None."""
    for name in path.split("."):
        section = section.get(name) if isinstance(section, Mapping) else None
    return section

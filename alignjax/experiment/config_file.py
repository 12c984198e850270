# SPDX-License-Identifier: Apache-2.0
"""A config from a Python file and from flags such as `--config.objective.beta=0.2`.

A file has a function `get_config` that returns nested dicts (or a ConfigDict). Any
field that applies to the config can be set by a flag, also one that the file leaves
out, or set to None with `none`. The order of flags does not matter.
"""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from alignjax import cli, config, errors
from alignjax.experiment import schema

# Fields that decide which others there are, so that their flags count first.
SELECTORS = ("family", "kind", "loss", "name")


class Loaded(NamedTuple):
    """A config, and what set its fields: "file" or "flag" by dotted path."""

    section: dict[str, Any]
    origins: dict[str, str]


def add_option(parser: cli.Parser) -> None:
    """Adds `--config` and `--network` to the options of a command."""
    parser.add_argument("--network", action="store_true", help=cli.NETWORK)
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:ARGUMENT]",
        help="a config, such as configs/smoke/sft.py; --config.FIELD=VALUE changes it",
    )


def parse(parser: cli.Parser, arguments: Sequence[str] | None):
    """The options of a command, and its config with the flags applied.

    Raises:
      ConfigError: a file that is no config, unknown fields or mistyped values.
    """
    options, rest = parser.parse_known_args(arguments)
    flags, rest = [], iter(rest)
    for flag in rest:
        name, equals, value = flag.partition("=")
        path = name.removeprefix("--config.")
        if path in (name, ""):
            parser.error(f"no such option: {name}")
        value = value if equals else next(rest, None)
        if value is None:
            raise errors.ConfigError(f"{path}: give a value, as in {name}=VALUE")
        flags.append((path, value))
    return options, override(load(options.config), flags)


def load(name: str) -> dict[str, Any]:
    """What `get_config` of a file returns, as plain dicts.

    Args:
      name: the file's path, and perhaps `:ARGUMENT`, which `get_config` is passed.

    Raises:
      ConfigError: there is no such file, or it fails.
    """
    path, colon, argument = str(name), "", ""
    if not pathlib.Path(path).is_file():
        path, colon, argument = path.partition(":")
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise errors.ConfigError(f"config: there is no file {path}")
    cli.find_configs()  # for `from configs import base`
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        section = module.get_config(*([argument] if colon else []))
    except errors.AlignError:
        raise
    except Exception as error:  # the code of a user's file
        kind = type(error).__name__
        raise errors.ConfigError(f"config: {path}: {kind}: {error}") from error
    section = section.to_dict() if isinstance(section, ConfigDict) else section
    if not isinstance(section, Mapping):
        kind = type(section).__name__
        raise errors.ConfigError(f"config: get_config of {path} returns a {kind}")
    return dict(section)


def override(section: dict, flags: Sequence[tuple[str, str]]) -> Loaded:
    """A config with flags applied, pairs of a dotted path and a text.

    Raises:
      ConfigError: unknown fields, or texts that are no values of them; all at once.
    """
    origins = {path: "file" for path, value in _leaves(section) if value is not None}
    problems = []
    selects = lambda flag: flag[0].rpartition(".")[2] in SELECTORS
    for path, text in sorted(flags, key=selects, reverse=True):
        try:
            field = schema.find(schema.fields(section), path)
            section = _with(section, path, config.parse(text, field.type))
        except errors.ConfigError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(f"{path}: {error}")
        origins[path] = "flag"
    if problems:
        raise errors.ConfigError(problems)
    return Loaded(section, origins)


def _with(section: Mapping | None, path: str, value: Any) -> dict:
    """A copy of nested dicts in which the value at a dotted path is another."""
    if not isinstance(section, Mapping | None):
        raise ValueError(f"{section!r} has no fields of its own")
    name, dot, rest = path.partition(".")
    section = dict(section or {})
    return section | {name: _with(section.get(name), rest, value) if dot else value}


def _leaves(section: Mapping, prefix: str = ""):
    for name, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

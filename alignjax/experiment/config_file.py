# SPDX-License-Identifier: Apache-2.0
"""A config from a Python file and from flags such as `--config.objective.beta=0.2`.

A file has a function `get_config` that returns nested dicts (or a ConfigDict). Any
field that applies to the config can be set by a flag, also one that the file leaves
out, or set to None with `none`. The order of flags matters for one field alone, or for
a field and what is inside of it: the last counts, and the log says what does not.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import pathlib
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from alignjax import cli, config, errors
from alignjax.experiment import schema
from alignjax.storage import filenames

# Fields that decide which others there are, so that their flags count first.
SELECTORS = ("family", "kind", "loss", "name")

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A config, and where it is from.

    Attributes:
      section: all of it, as plain dicts.
      origins: what set a field, "file" or "flag", by dotted path.
      notes: what the flags did beyond their own fields, for the log of a run.
    """

    section: dict[str, Any]
    origins: dict[str, str]
    notes: tuple[str, ...] = ()


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


def load(
    name: str, function: str = "get_config", field: str = "config"
) -> dict[str, Any]:
    """What `get_config` of a file returns, as plain dicts.

    Args:
      name: the file's path, and perhaps `:ARGUMENT`, which the function is passed.
      function: its name, where the file is of another kind.
      field: what names the file, for errors.

    Raises:
      ConfigError: there is no such file, or it fails.
    """
    path, colon, argument = str(name), "", ""
    if not pathlib.Path(path).is_file():
        path, colon, argument = path.partition(":")
    file = filenames.expanded(path)
    if not file.is_file():
        raise errors.ConfigError(f"{field}: there is no file {path}")
    cli.find_configs()  # for `from configs import base`
    if (beside := str(file.resolve().parent)) not in sys.path:
        sys.path.append(beside)  # for what it imports, and losses that it names
    spec = importlib.util.spec_from_loader(
        f"config_{file.stem}",
        importlib.machinery.SourceFileLoader(f"config_{file.stem}", str(file)),
    )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(get := getattr(module, function, None)):
            raise errors.ConfigError(f"{field}: {path} has no function {function}()")
        section = get(*([argument] if colon else []))
        section = section.to_dict() if isinstance(section, ConfigDict) else section
        if not isinstance(section, Mapping):
            kind = type(section).__name__
            raise errors.ConfigError(f"{field}: {function} of {path} returns a {kind}")
        for leaf, value in _values(config.to_json(section)):
            if not isinstance(value, str | int | float | dict | None):
                value = f"{value!r:.60} is {type(value).__name__}"
                raise errors.ConfigError(f"{field}: {path}: {leaf}: {value}, no data")
    except errors.AlignError:
        raise
    except (Exception, SystemExit) as error:  # the code of a user's file
        raise errors.ConfigError(f"{field}: {_fault(path, file, error)}") from error
    return dict(section)


def _values(section: Mapping) -> Iterator[tuple[str, Any]]:
    """All that is no section and no list, with the dotted path of its field."""
    for leaf, value in config.leaves(section):
        for part in value if isinstance(value, list) else ():
            yield from _values({leaf: part})
        if not isinstance(value, list):
            yield leaf, value


def _fault(path: str, file: pathlib.Path, error: BaseException) -> str:
    """The last line of a config that an error came from, and the error on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
    text = " ".join(str(error).split())
    if isinstance(error, ImportError) and (error.name or "").startswith("configs"):
        text += "; configs/ is in a checkout of alignjax: set PYTHONPATH to that"
    where = path if line is None else f"{path}:{line}"
    return f"{where}: {type(error).__name__}: {text:.300}"


def override(section: dict, flags: Sequence[tuple[str, str]]) -> Loaded:
    """A config with flags applied, pairs of a dotted path and a text.

    Raises:
      ConfigError: unknown fields, or texts that are no values of them; all at once.
    """
    origins = {
        path: "file" for path, value in config.leaves(section) if value is not None
    }
    section, notes = _of_loss(section, dict(flags))
    notes += _replaced(flags)
    for note in notes:
        log.warning(note)
    problems = []
    selects = lambda flag: flag[0].rpartition(".")[2] in SELECTORS
    for path, text in sorted(flags, key=selects, reverse=True):
        try:
            field = schema.find(schema.fields(section), path, text)
            section = _with(section, path, config.parse(text, field.type))
        except errors.ConfigError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(f"{path}: {error}")
        origins[path] = "flag"
    if problems:
        raise errors.ConfigError(problems)
    return Loaded(section, origins, tuple(notes))


def _of_loss(section: dict, flags: Mapping[str, str]) -> tuple[dict, list[str]]:
    """A config whose loss a flag changes, without options that the new one lacks.

    What the file sets for its own loss may mean something else to another: the notes
    say what is left out, and what is kept.
    """
    notes = []
    part, loss = section.get("objective"), flags.get("objective.loss")
    if not isinstance(part, Mapping) or loss in (None, part.get("loss")):
        return section, notes
    try:
        before = schema.loss_options(part)
        after = schema.loss_options({**part, "loss": loss})
    except ValueError:  # an unknown name, which is reported elsewhere
        return section, notes
    for name in before:
        value = part.get(name)
        if value is None or f"objective.{name}" in flags:
            continue
        head = f"objective.{name}: {value!r}, which the file sets for its own loss, is"
        if name in after:
            default = after[name].default
            notes.append(f"{head} kept for {loss!r}, whose default is {default!r}")
        else:
            part = {key: x for key, x in part.items() if key != name}
            notes.append(f"{head} left out: {loss!r} has no such option")
    return {**section, "objective": part}, notes


def _replaced(flags: Sequence[tuple[str, str]]) -> list[str]:
    """A note of each flag that a later one of the same field, or around it, undoes."""
    return [
        f"{path}: {text!r:.80} does not count, as {later}={other:.80} follows"
        for i, (path, text) in enumerate(flags)
        for later, other in flags[i + 1 :]
        if f"{path}.".startswith(f"{later}.") and (later, other) != (path, text)
    ]


def _with(section: Mapping | None, path: str, value: Any) -> dict:
    """A copy of nested dicts in which the value at a dotted path is another."""
    if not isinstance(section, Mapping | None):
        raise ValueError(f"{section!r} has no fields of its own")
    name, dot, rest = path.partition(".")
    section = dict(section or {})
    return section | {name: _with(section.get(name), rest, value) if dot else value}

# SPDX-License-Identifier: Apache-2.0
"""What commands share: where programs are kept, and how what was refused is told."""

from __future__ import annotations

import pathlib
import sys
import tempfile
from collections.abc import Callable

import jax

from alignjax import errors


def exit_code(body: Callable[[], None]) -> int:
    """Does `body`; returns its exit code. Errors that are not the user's are raised."""
    try:
        body()
    except errors.AlignError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return errors.INTERRUPTED
    return errors.DONE


def path(text: str | pathlib.Path, field: str) -> pathlib.Path:
    """The file or folder that a field or option names: `~` is the user's home.

    Raises:
      ConfigError: it is empty, which would be the folder one happens to be in.
    """
    if not str(text).strip():
        raise errors.ConfigError(f"{field}: empty; name a file or folder")
    return pathlib.Path(text).expanduser()


def output(text: str | pathlib.Path) -> pathlib.Path:
    """The file that a command will write in the end, whose folder is made now.

    Raises:
      ConfigError: it cannot be written, which is better said before the work.
    """
    out = path(text, "out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise errors.ConfigError(f"out: {out} cannot be written: {error}") from error
    if out.is_dir():
        raise errors.ConfigError(f"out: {out} is a folder; name a file")
    return out


def keep_programs(cache_dir: str | pathlib.Path) -> None:
    """Keeps what is compiled in `cache_dir`, for whoever compiles the same next."""
    folder = path(cache_dir, "cache_dir") / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

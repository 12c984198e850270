# SPDX-License-Identifier: Apache-2.0
"""The versions of the programs that train a run or write a page."""

from __future__ import annotations

import functools
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata

import alignjax


def of(packages: Sequence[str]) -> dict[str, str]:
    """`{name: version}` of alignjax, its commit where it is known, packages, Python."""
    commit = commit_of(pathlib.Path(alignjax.__file__).parents[1])
    return {
        "alignjax": alignjax.__version__,
        **({"commit": commit} if commit else {}),
        **{name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
    }


@functools.cache  # of what is imported, which changes no more
def commit_of(checkout: pathlib.Path) -> str:
    """`0123abcdef`, perhaps ` with changes`, of a checkout; else empty."""
    git = ["git", "-C", str(checkout)]
    ask = functools.partial(
        subprocess.run, check=True, capture_output=True, text=True, timeout=10
    )
    if not (checkout / ".git").exists():  # one further up is somebody else's
        return ""
    try:
        commit = ask([*git, "rev-parse", "--short=10", "HEAD"]).stdout.strip()
        changes = ask([*git, "status", "--porcelain", "-uno"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}{' with changes' if changes else ''}"

# SPDX-License-Identifier: Apache-2.0
"""Functions by name; `module:function` reaches code outside the package."""

from __future__ import annotations

import difflib
import importlib
import types
from collections.abc import Callable

MOST_NAMES, MOST_LETTERS = 60, 80  # of a message; names may be a stranger's


def closest(name: str, known) -> str:
    """A remedy for a misspelt name: the nearest name, and the list of all.

    Only a name that is nearly the same is suggested: capitals and hyphens do not count,
    and gemma3 is no misspelt gemma2.
    """
    names = sorted(str(other)[:MOST_LETTERS] for other in known)
    if not names:
        return "there are none"
    digits = lambda text: [letter for letter in text if letter.isdigit()]
    same = lambda text: digits(text) in ([], digits(name)) or not digits(name)
    alike = {_plain(other): other for other in filter(same, names)}
    near = difflib.get_close_matches(_plain(name), alike, n=1, cutoff=0.75)
    hint = f"did you mean {alike[near[0]]!r}? " if near else ""
    more = len(names) - MOST_NAMES
    rest = f" and {more} more" if more > 0 else ""
    return f"{hint}known: {', '.join(names[:MOST_NAMES])}{rest}"


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")


class Registry(dict):
    """A dict of functions; duplicates and unknown names are errors, which list it."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def register(self, function: Callable, name: str | None = None) -> Callable:
        """Adds `function` under its own name; usable as a decorator.

        Raises:
          ValueError: the name is taken.
        """
        name = name or function.__name__
        if name in self:
            raise ValueError(f"{self.kind} {name!r} is already registered")
        self[name] = function
        return function

    def find(self, name: str) -> Callable:
        """The function called `name`, or the one at `module:function`.

        Raises:
          ValueError: there is none, and the message lists what there is.
        """
        if not isinstance(name, str):
            raise ValueError(f"{name!r:.60} is no name of a {self.kind}")
        if name in self:
            return self[name]
        if ":" in name:
            where, _, attribute = name.partition(":")
            try:
                function = _attribute(importlib.import_module(where), attribute)
            except (Exception, SystemExit) as error:  # a module of others
                kind = type(error).__name__
                raise ValueError(f"{self.kind} {name!r}: {kind}: {error}") from error
            if not callable(function):
                kind = type(function).__name__
                raise ValueError(f"{self.kind} {name!r}: a {kind}, not a function")
            return function
        raise ValueError(f"unknown {self.kind} {name!r}; {closest(name, self)}")


def _attribute(module: types.ModuleType, name: str):
    """A module's attribute; the error names the functions that it has."""
    try:
        return getattr(module, name)
    except AttributeError as error:
        own = [
            other
            for other, x in vars(module).items()
            if callable(x) and getattr(x, "__module__", None) == module.__name__
        ]
        remedy = f"; {closest(name, own)}" if own else ""
        raise AttributeError(f"{error}{remedy}") from error

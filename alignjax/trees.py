# SPDX-License-Identifier: Apache-2.0
"""Parameters by path: names, selection by regular expression, counts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax


def path_name(path) -> str:
    """`layers/attention/q/kernel` for a key path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree) -> dict[str, Any]:
    """`{path: leaf}` in the order of the tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def map_with_name(function: Callable[[str, Any], Any], tree):
    """`jax.tree.map` with the path of each leaf as the first argument."""
    return jax.tree_util.tree_map_with_path(
        lambda p, x: function(path_name(p), x), tree
    )


def matches(pattern: str, tree, *, some: bool = True) -> dict[str, bool]:
    """`{path: whether the whole of it matches}`.

    Raises:
      ValueError: the pattern matches nothing, which is nearly always a misspelling, and
        `some` says that it has to match something.
    """
    regex = re.compile(pattern)
    matched = {name: regex.fullmatch(name) is not None for name in named_leaves(tree)}
    if some and not any(matched.values()):
        raise ValueError(
            f"pattern {pattern!r} matches no parameter; there are: {', '.join(matched)}"
        )
    return matched


def mask(pattern: str, tree, *, some: bool = True):
    """A tree of bools, True where the path matches the whole of `pattern`."""
    matched = matches(pattern, tree, some=some)
    return map_with_name(lambda name, _: matched[name], tree)


def partition(pattern: str, params: dict) -> tuple[dict, dict]:
    """Splits nested dicts into (what matches, the rest); `merge` undoes it."""
    matched, leaves = matches(pattern, params), named_leaves(params).items()
    return (
        nest({name: leaf for name, leaf in leaves if matched[name]}),
        nest({name: leaf for name, leaf in leaves if not matched[name]}),
    )


def merge(first: dict, second: dict) -> dict:
    """The union of two nested dicts that share no leaf.

    Raises:
      ValueError: both have a value at the same path.
    """
    out = dict(first)
    for key, value in second.items():
        if key not in out:
            out[key] = value
        elif isinstance(out[key], dict) and isinstance(value, dict):
            out[key] = merge(out[key], value)
        else:
            raise ValueError(f"both trees have a value at {key!r}")
    return out


def count(tree) -> int:
    """The number of scalars in the tree; works on abstract trees too."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def nest(leaves: Mapping[str, Any]) -> dict:
    """Undoes `named_leaves` for nested dicts: `{"a/b": x}` is `{"a": {"b": x}}`."""
    out: dict = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        branch = out
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = leaf
    return out

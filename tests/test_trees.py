# SPDX-License-Identifier: Apache-2.0
"""Parameters by path."""

import jax.numpy as jnp
import pytest

from alignjax import trees

TREE = {
    "embed": jnp.zeros((3, 2)),
    "layers": {"q": {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(4)}},
}


def test_names_and_counts():
    assert list(trees.named_leaves(TREE)) == [
        "embed",
        "layers/q/bias",
        "layers/q/kernel",
    ]
    assert trees.count(TREE) == 6 + 8 + 4


def test_partition_and_merge_are_inverse():
    chosen, rest = trees.partition(".*kernel", TREE)
    assert list(trees.named_leaves(chosen)) == ["layers/q/kernel"]
    assert list(trees.named_leaves(rest)) == ["embed", "layers/q/bias"]
    merged = trees.named_leaves(trees.merge(chosen, rest))
    assert set(merged) == set(trees.named_leaves(TREE))
    assert all(merged[name] is leaf for name, leaf in trees.named_leaves(TREE).items())


def test_a_pattern_matches_whole_names_or_is_refused():
    assert trees.mask("layers/.*", TREE)["layers"]["q"] == {
        "kernel": True,
        "bias": True,
    }
    with pytest.raises(ValueError, match="'kernel' matches no parameter; there are"):
        trees.mask("kernel", TREE)


def test_merge_refuses_a_leaf_twice():
    with pytest.raises(ValueError, match="value at 'kernel'"):
        trees.merge(TREE, {"layers": {"q": {"kernel": 0}}})

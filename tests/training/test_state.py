# SPDX-License-Identifier: Apache-2.0
"""What is trained and what is not, and starting from another run's parameters."""

import re
import weakref
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors, models, trees
from alignjax.distributed import sharding
from alignjax.models import quantized
from alignjax.training import optim, state
from tests.models import small

V = 48
MODEL = dict(family="llama", name="nano", d_model=16, layers=2, d_ff=24, max_length=32)
MESH = dict(data=2, fsdp=2, tensor=2)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model():
    return models.build(MODEL | dict(score_heads=1), V)


@pytest.fixture(scope="module")
def source():
    """A run's parameters as numpy arrays; its model had no heads for scores."""
    plain = models.build(MODEL, V)
    params = jax.jit(lambda key: nn.unbox(plain.init(key)))(jax.random.key(7))
    return jax.tree.map(np.array, params)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(MESH)


RULES = sharding.rules()
OPTIMIZER = optim.build(dict(name="adamw", decay=".*"), 1e-2)
COPIES = optim.moving_copies(0.9, None, None)


@pytest.mark.parametrize("trainable", [".*", "score/.*", r"layers/.*/kernel"])
def test_only_what_is_trained_has_a_state(model, mesh, trainable):
    with sharding.use(mesh, RULES):
        abstract = state.abstract_state(
            model, OPTIMIZER, mesh, RULES, trainable, COPIES
        )
        _, base = state.partition(state.abstract_params(model, mesh, RULES), trainable)
        made = state.init_state(model, OPTIMIZER, abstract, KEY, COPIES)
        rest = state.init_params(model, base, KEY)
        whole = state.init_params(model, trees.merge(abstract.params, base), KEY)
    names = lambda tree: set(trees.named_leaves(tree))
    trained = {name for name in names(whole) if re.fullmatch(trainable, name)}
    assert names(made.params) == trained and names(rest) == names(whole) - trained
    # The same values, whatever is made together.
    both = trees.merge(made.params, rest)
    jax.tree.map(np.testing.assert_array_equal, both, whole)
    for part, like in ((made, abstract), (rest, base)):
        for leaf, want in zip(*map(jax.tree.leaves, (part, like)), strict=True):
            assert leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim)
    # Per trained parameter two moments and an average, and nothing of the rest.
    beside = {"opt_state": made.opt_state, "extra": made.extra}
    sizes = trees.count(beside) - 3 * trees.count(made.params)
    assert 0 <= sizes < 10
    moments = trees.named_leaves(beside).items()
    for name, leaf in moments:
        for path, parameter in trees.named_leaves(made.params).items():
            if name.endswith(f"/{path}"):
                assert leaf.sharding == parameter.sharding


def test_a_pattern_that_trains_nothing_is_refused(model, mesh):
    with pytest.raises(errors.ConfigError) as error:
        state.abstract_state(model, OPTIMIZER, mesh, RULES, "layer/.*")
    text = str(error.value)
    assert "trainable: 'layer/.*'" in text and "layers/q/kernel" in text
    with pytest.raises(errors.ConfigError, match=r"trainable: '\*'"):
        state.abstract_state(model, OPTIMIZER, mesh, RULES, "*")


def test_parameters_of_another_run(model, mesh, source):
    with sharding.use(mesh, RULES):
        abstract = state.abstract_params(model, mesh, RULES)
        params, new = state.load_params(
            source, abstract, model, KEY, allow_new="score/.*"
        )
        fresh = state.init_params(model, abstract, KEY)
    assert new == ["score/kernel"]
    np.testing.assert_array_equal(params["score"]["kernel"], fresh["score"]["kernel"])
    loaded = {name: leaf for name, leaf in params.items() if name != "score"}
    jax.tree.map(np.testing.assert_array_equal, loaded, source)
    for leaf, want in zip(*map(jax.tree.leaves, (params, abstract)), strict=True):
        assert leaf.sharding == want.sharding
    kernel = params["layers"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 8, 12)
    by_path, _ = state.load_params(
        trees.named_leaves(source), abstract, model, KEY, allow_new="score/.*"
    )
    jax.tree.map(np.testing.assert_array_equal, by_path, params)


class OneAtATime:
    """An array that is read when it is sliced, and notes what was read by then."""

    def __init__(self, array, log):
        self.array, self.log = array, log
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, index):
        self.log.append((id(self), self.array[index].nbytes))
        return self.array[index]


def test_parts_are_read_leaf_by_leaf_and_only_what_a_device_holds(model, mesh, source):
    log = []
    lazy = jax.tree.map(lambda x: OneAtATime(x, log), source)
    abstract = state.abstract_params(model, mesh, RULES)
    del abstract["score"]
    state.load_params(lazy, abstract, model, KEY)
    order = [leaf for i, (leaf, _) in enumerate(log) if not i or log[i - 1][0] != leaf]
    assert len(order) == len(set(order)) == len(jax.tree.leaves(source))
    largest = max(x.nbytes for x in jax.tree.leaves(source))
    assert max(size for _, size in log) < largest  # that one lies in parts


class Watched:
    """An array that is read when it is sliced; counts what of it is still in memory."""

    alive: ClassVar[list] = []
    peak = 0

    def __init__(self, name, array, dtype):
        self.name, self.array = name, array.astype(dtype)
        self.shape, self.dtype = array.shape, self.array.dtype
        self.asked = []

    def __getitem__(self, index):
        self.asked.append(index)
        piece = self.array[index].copy()
        Watched.alive = [ref for ref in Watched.alive if ref() is not None]
        Watched.alive.append(weakref.ref(piece))
        held = sum(ref().nbytes for ref in Watched.alive)
        Watched.peak = max(Watched.peak, held)
        return piece


@pytest.mark.parametrize("base", ["float32", "nf4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_large_leaves_are_put_layer_by_layer(mesh, base, dtype):
    """In memory at a time: one layer, or the embedding, and never all layers."""
    fields = dict(layers=12, d_model=32, d_ff=64, kv_heads=2, base=base)
    model = models.build(MODEL | fields | dict(score_heads=0), V)
    shapes = state.abstract_params(model, mesh, RULES)
    rng = np.random.default_rng(0)
    draw = lambda name, x: Watched(name, rng.normal(size=x.shape), dtype)
    source = trees.named_leaves(trees.map_with_name(draw, shapes))
    kernels = quantized.names(model.config.projections, ".*lora.*")
    abstract = state.quantised_kernels(shapes, kernels, base)
    Watched.alive, Watched.peak = [], 0
    params, _ = state.load_params(source, abstract, model, KEY)

    layer = max(x.array[0].nbytes for n, x in source.items() if "layers" in n)
    assert layer == 32 * 64 * np.dtype(source["embed"].dtype).itemsize
    # Half of the devices hold the same, and JAX lets go of an array a little later.
    assert Watched.peak <= 4 * layer
    for name in kernels:
        asked = source[name].asked
        seen = [index[0] if isinstance(index, tuple) else index for index in asked]
        assert set(seen) == set(range(12)) and seen == sorted(seen), name
    expected = {n: x.array.astype(np.float32) for n, x in source.items()}
    expected = trees.nest(expected)
    if base != "float32":
        expected = small.quantised(expected, kernels, base)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    for leaf, want in zip(*map(jax.tree.leaves, (params, abstract)), strict=True):
        assert leaf.sharding == want.sharding and leaf.dtype == want.dtype


def test_widening_is_exact(mesh, source):
    """For every number that 16 bits can say, the smallest and infinities too."""
    model = models.build(MODEL | dict(d_model=128, vocab_size=512, tied=False), V)
    abstract = dict(embed=state.abstract_params(model, mesh, RULES)["embed"])
    every = np.arange(2**16, dtype=np.uint16).reshape(512, 128)
    for dtype in (jnp.bfloat16, np.float16):
        theirs = every.view(dtype)
        params, _ = state.load_params({"embed": theirs}, abstract, model, KEY)
        found = np.asarray(params["embed"])
        assert found.dtype == np.float32
        number = ~np.isnan(found)
        back = found[number].astype(dtype).view(np.uint16)
        np.testing.assert_array_equal(back, every[number])
        wide = np.array([float(x) for x in theirs[:, :4].flatten()], np.float32)
        np.testing.assert_array_equal(found[:, :4].flatten(), wide)


def test_what_was_read_may_change_afterwards(model, source):
    mesh = sharding.make_mesh(dict(fsdp=1), jax.devices()[:1])
    abstract = state.abstract_params(model, mesh, RULES)
    del abstract["score"]
    theirs = jax.tree.map(np.array, source)
    params, _ = state.load_params(theirs, abstract, model, KEY)
    for leaf in jax.tree.leaves(theirs):
        leaf[...] = np.nan
    jax.tree.map(np.testing.assert_array_equal, params, source)


def test_what_does_not_fit_is_refused_all_at_once(model, mesh, source):
    abstract = state.abstract_params(model, mesh, RULES)
    theirs = {name: leaf for name, leaf in source.items() if name != "norm"}
    theirs |= {
        "embed": np.zeros((V + 2, 16), np.float32),
        "layers": source["layers"] | {"q": {"kernel": np.zeros((2, 16, 4, 4))}},
        "head": np.zeros((16, V), np.float32),
    }
    with pytest.raises(errors.ConfigError) as error:
        state.load_params(theirs, abstract, model, KEY, allow_new=".*/lora_[ab]")
    problems = "\n".join(error.value.problems)
    assert len(error.value.problems) == 5
    for line in (
        "init: embed is (50, 16) in the checkpoint, (48, 16) here; choose",
        "init: layers/q/kernel is float64 in the checkpoint, which float32 may",
        "init: head of shape (16, 48) is in the checkpoint and not in this model",
        "init: norm/scale of shape (16,) is not in the checkpoint",
        "init: score/kernel of shape (16, 1) is not in the checkpoint",
    ):
        assert line in problems

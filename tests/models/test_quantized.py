# SPDX-License-Identifier: Apache-2.0
"""Kernels in fewer bits: errors within bounds, gradients as of the same values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors, models, trees
from alignjax.distributed import sharding
from alignjax.models import lora, quantized
from alignjax.training import state
from tests.fixtures import marks
from tests.models import small

KINDS = ["bfloat16", "int8", "nf4"]
BLOCKS = ["int8", "nf4"]


def kernel(shape=(3, 7, 150), seed=0):
    """Heavy tails, a block of zeros, one of a single number, and tiny ones."""
    x = np.random.default_rng(seed).standard_t(3, shape).astype(np.float32)
    x[0, 0, :64] = 0
    x[1, 2, 64:128] = 0
    x[1, 2, 70] = -3
    x[2] *= 1e-6
    x[0, 1, :2] = 9, 9 * -0.849  # in the middle of the largest gap of NF4
    return x


def largest(x):
    """Of each number, the largest magnitude in its block of 64; one at a time."""
    out = np.empty_like(x)
    for at in np.ndindex(x.shape):
        *lead, i = at
        start = i - i % 64
        out[at] = np.abs(x[(*lead, slice(start, start + 64))]).max()
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_within_their_bounds(kind):
    x = kernel()
    bound = {
        "bfloat16": np.abs(x) * 2.0**-8,
        "int8": largest(x) / 254,
        "nf4": largest(x) * np.diff(quantized.NF4).max() / 2,
    }[kind]
    error = np.abs(quantized.rounded(x, kind) - x)
    assert (error <= bound * (1 + 1e-5)).all()
    assert (error > 0.9 * bound).any()  # it is no smaller one either
    # The largest of each block, and zero, are kept as they are.
    if kind != "bfloat16":
        kept = (np.abs(x) == largest(x)) | (x == 0)
        np.testing.assert_array_equal(quantized.rounded(x, kind)[kept], x[kept])


def test_nf4_takes_the_nearest_of_the_code_book():
    """Its values are the quantiles that the paper says they are."""
    x = kernel((3, 4, 128))
    ratio = x / np.where(largest(x) == 0, 1, largest(x))
    nearest = np.abs(ratio[..., None] - quantized.NF4).min(-1)
    found = quantized.rounded(x, "nf4") / np.where(largest(x) == 0, 1, largest(x))
    np.testing.assert_allclose(np.abs(found - ratio), nearest, atol=1e-6)
    # Appendix E of arXiv:2305.14314: 8 and 9 quantiles of the normal distribution, for
    # either side, of which one is zero, divided by the largest.
    offset = 0.5 * ((1 - 1 / 30) + (1 - 1 / 32))
    quantile = jax.scipy.stats.norm.ppf
    above = quantile(jnp.linspace(offset, 0.5, 9)[:-1])
    below = -quantile(jnp.linspace(offset, 0.5, 8)[:-1])
    book = np.sort(np.concatenate([above, below, [0.0]]))
    np.testing.assert_allclose(book / book.max(), quantized.NF4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_quantised_stays_as_it_is(kind):
    """Again, in slices, on a device: always the same bits."""
    x = kernel()
    parts = quantized.quantise(x, kind)
    assert {k: (v.shape, v.dtype) for k, v in parts.items()} == {
        k: (shape, jnp.dtype(dtype))
        for k, (shape, dtype) in quantized.shapes(x.shape, kind).items()
    }
    assert quantized.shape({k: v.shape for k, v in parts.items()}) == x.shape
    assert quantized.kind_of(parts) == kind
    values = quantized.widen(parts)
    again = quantized.quantise(values, kind)
    jax.tree.map(np.testing.assert_array_equal, again, parts)
    on_device = jax.jit(quantized.widen)(jax.tree.map(jnp.asarray, parts))
    np.testing.assert_array_equal(on_device, values)
    lazy = quantized.lazily_rounded(x.astype(jnp.bfloat16), kind)
    expected = quantized.rounded(x.astype(jnp.bfloat16), kind)
    indices = [0, (1, 2), (1, slice(2, 4), slice(70, 90)), ..., (..., slice(3, 9))]
    for index in [*indices, (0, ..., 5), (2, 3, 149), slice(1, 3)]:
        np.testing.assert_array_equal(lazy[index], expected[index], err_msg=str(index))


def test_bytes_a_number():
    shape = (2, 128, 256)
    size = lambda kind: (
        quantized.nbytes(quantized.quantise(np.ones(shape, np.float32), kind))
        / np.prod(shape)
    )
    assert {k: size(k) for k in KINDS} == {"bfloat16": 2, "int8": 1.0625, "nf4": 0.5625}


RANK = dict(lora_rank=3, lora_alpha=6.0)
SETTINGS = {
    "nf4": dict(base="nf4", kv_heads=2),
    "int8": dict(base="int8", remat="full", activation="gelu", mlp_bias=True),
    "bfloat16": dict(base="bfloat16", unroll=2, remat="dots"),
    "nf4 dora": dict(base="nf4", unroll=2, lora_dora=True),
}


def kept(model, params):
    """Adapters, the frozen rest as it is kept, and the rest in float32 of that."""
    kernels = quantized.names(model.config.projections, lora.TRAINABLE)
    adapters, base = trees.partition(lora.TRAINABLE, jax.tree.map(np.array, params))
    kind = model.config.base
    narrow = small.quantised(base, kernels, kind)
    return adapters, narrow, small.quantised(base, kernels, kind, widened=True)


@pytest.mark.parametrize("setting", marks.slow_but(["nf4 dora", "int8"], SETTINGS))
def test_gradients_are_those_of_the_same_values_in_float32(setting):
    """Of adapters of every layer, so also through all frozen kernels above them."""
    model, params = small.make(**SETTINGS[setting], **RANK)
    adapters, narrow, wide = kept(model, params)
    row = small.one_document()
    assert not any(n.endswith("/kernel") for n in trees.named_leaves(narrow))

    @jax.jit
    def loss(adapters, base):
        x_BTD = model.hidden(trees.merge(adapters, base), row)
        return (jnp.sin(x_BTD) ** 2).mean()

    grad = jax.jit(jax.value_and_grad(loss))
    found, expected = grad(adapters, narrow), grad(adapters, wide)
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-6)
    assert trees.named_leaves(found[1]).keys() == trees.named_leaves(adapters).keys()
    for name, leaf in trees.named_leaves(expected[1]).items():
        ours = trees.named_leaves(found[1])[name]
        scale = np.abs(leaf).max()
        assert scale > 0, name
        np.testing.assert_allclose(ours / scale, leaf / scale, atol=2e-6, err_msg=name)
    # And the base is another one: the comparison is not of a thing with itself.
    plain = trees.partition(lora.TRAINABLE, params)[1]
    assert abs(loss(adapters, plain) - expected[0]) > 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_wide_kernels_exist_one_at_a_time(dtype):
    """The backward pass widens anew: keeping them would take all that was saved."""
    fields = dict(layers=8, d_model=256, heads=4, d_ff=1024, dtype=dtype)
    row = small.one_document(B=1, length=8)

    model, params = small.make(**fields, **RANK, base="nf4")
    adapters, narrow, _ = kept(model, params)
    loss = lambda a, base: model.hidden(trees.merge(a, base), row).sum()
    compiled = jax.jit(jax.grad(loss)).lower(adapters, narrow).compile()
    found = compiled.memory_analysis()
    numbers = 8 * (4 * 256 * 256 + 3 * 256 * 1024)
    layers = quantized.nbytes(narrow["layers"])
    assert layers == pytest.approx(0.5625 * numbers, rel=0.01)
    wide = numbers * (2 if dtype == "bfloat16" else 4)
    assert found.temp_size_in_bytes < 0.7 * wide


def test_parts_lie_as_their_kernels_do():
    fields = small.SMALL | dict(d_model=128, heads=4, d_ff=192, base="nf4", **RANK)
    model = models.build(fields | dict(vocab_size=64), small.V)
    mesh, rules = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)), sharding.rules()
    row = small.one_document(B=4)
    source = state.init_params(
        model, state.abstract_params(model, mesh, rules), jax.random.key(3)
    )
    source = jax.tree.map(np.array, source)
    kernels = quantized.names(model.config.projections, lora.TRAINABLE)
    with sharding.use(mesh, rules):
        abstract = state.abstract_params(model, mesh, rules)
        abstract = state.quantised_kernels(abstract, kernels, "nf4")
        params, new = state.load_params(source, abstract, model, jax.random.key(0))
        shared = jax.jit(model.hidden)(params, row)
    assert new == []
    expected = small.quantised(source, kernels, "nf4")
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    shape = lambda x: x.addressable_shards[0].data.shape
    q, up, down = (
        params["layers"]["q"],
        *(params["layers"]["mlp"][n] for n in ("up", "down")),
    )
    assert shape(q["kernel_nf4"]) == (2, 64, 2, 16)
    assert shape(q["kernel_absmax"]) == (2, 64, 2, 1)
    assert shape(up["kernel_nf4"]) == (2, 64, 48)
    # Three blocks of 64 on two devices: whole on each.
    assert shape(up["kernel_absmax"]) == (2, 64, 3)
    assert shape(down["kernel_absmax"]) == (2, 96, 1)
    alone = jax.jit(model.hidden)(jax.tree.map(jnp.asarray, expected), row)
    np.testing.assert_allclose(shared, alone, atol=1e-4)


def test_only_projections_that_are_not_trained():
    model, params = small.make(score_heads=1, qk_norm="head", tied=False)
    find = lambda trainable: quantized.names(model.config.projections, trainable)
    assert find(".*") == []
    frozen = find(r"layers/mlp/.*|score/.*|.*norm.*")
    assert frozen == [f"layers/{name}/kernel" for name in "qkvo"]
    narrow = small.quantised(jax.tree.map(np.array, params), frozen, "int8")
    changed = trees.named_leaves(narrow).keys() - trees.named_leaves(params).keys()
    parts = {f"{n}_{part}" for n in frozen for part in ("int8", "absmax")}
    assert changed == parts
    assert {
        n: sorted(p) for n, p in quantized.gather(trees.named_leaves(narrow)).items()
    }
    assert quantized.gather(trees.named_leaves(params)) == {}


def test_refuses_by_name():
    with pytest.raises(errors.ConfigError, match="base: 'nf4' keeps two codes a byte"):
        models.build(small.SMALL | dict(d_ff=49, base="nf4"), small.V)
    with pytest.raises(errors.ConfigError, match=r"model\.base.*int4"):
        models.build(small.SMALL | dict(base="int4"), small.V)
    c = models.build(small.SMALL | dict(base="int8"), small.V).config
    assert quantized.problems(c, lora.TRAINABLE) == []
    (problem,) = quantized.problems(c, ".*")
    assert problem.startswith("model.base: 'int8'") and "trains them all" in problem

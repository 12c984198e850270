# SPDX-License-Identifier: Apache-2.0
"""DoRA: Eq. 5 of arXiv:2402.09353, exactly nothing at first, its norm a constant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors, models, trees
from alignjax.models import lora, projection, quantized
from tests.models import small

FIELDS = dict(lora_rank=3, lora_alpha=6.0, lora_dora=True)


def hidden(model, params, row):
    return jax.jit(model.hidden)(params, row)


def by_hand(params, scale):
    """m (W + s A B) / |W + s A B|, in float64, one layer at a time."""
    found = trees.named_leaves(
        jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    )
    out = {n: x for n, x in found.items() if "/lora_" not in n}
    for name in out:
        if f"{name.removesuffix('kernel')}lora_a" not in found:
            continue
        a, b, m = (found[f"{name.removesuffix('kernel')}lora_{x}"] for x in "abm")
        inputs = tuple(range(a.ndim - 2))
        layers = []
        for i, w in enumerate(out[name]):
            magnitude = np.sqrt((w**2).sum(inputs)) + m[i]
            v = w + scale * np.tensordot(a[i], b[i], axes=1)
            layers.append(magnitude * v / np.sqrt((v**2).sum(inputs)))
        out[name] = np.stack(layers)
    return out


@pytest.mark.parametrize("fields", [{}, dict(kv_heads=2, mlp_bias=True, unroll=2)])
def test_merged_is_the_equation_and_the_model_computes_it(fields):
    model, params = small.make(**fields, **FIELDS)
    merged = lora.merge(params, model.config)
    expected = by_hand(params, scale=2)
    assert trees.named_leaves(merged).keys() == expected.keys()
    for name, leaf in trees.named_leaves(merged).items():
        np.testing.assert_allclose(leaf, expected[name], atol=1e-5, err_msg=name)
    row = small.one_document()
    ours = hidden(model, params, row)
    plain = models.build(small.SMALL | fields, small.V)
    np.testing.assert_allclose(ours, hidden(plain, merged, row), atol=1e-5)
    # The magnitudes and the norm both matter.
    for other in (
        lora.merge(trees.partition(".*lora_m", params)[1], model.config),
        lora.strip(params),
    ):
        assert np.abs(ours - hidden(plain, other, row)).max() > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("base", ["float32", "nf4"])
def test_exactly_nothing_at_first(dtype, base):
    model = models.build(small.SMALL | FIELDS | dict(dtype=dtype, base=base), small.V)
    params = jax.tree.map(np.array, small.initial(model))
    if base != "float32":
        kernels = quantized.names(model.config.projections, lora.TRAINABLE)
        params = small.quantised(params, kernels, base)
    row = small.one_document()
    np.testing.assert_array_equal(
        hidden(model, params, row), hidden(model, lora.strip(params), row)
    )


def test_the_stretch_is_exactly_one_at_first():
    """Whatever the kernel; also one that is nothing."""
    w = np.random.default_rng(0).standard_t(2, (50, 400)).astype(np.float32)
    w[:, 7] = 0
    a, b, m = np.ones((50, 3)), np.zeros((3, 400)), np.zeros(400)
    found = jax.jit(projection.dora_factor)(
        w, *(x.astype(np.float32) for x in (a, b, m)), 2.0
    )
    np.testing.assert_array_equal(found, 1.0)


def test_the_norm_is_constant_in_the_backward_pass():
    """Section 4.3: the gradient of the sum is stretched, and no more than that."""
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    w, x, a, b, m = draw(9, 5), draw(4, 9), draw(9, 2), draw(2, 5), draw(5)

    def direct(a, b, m):
        v = w + 0.5 * a @ b
        fixed = jax.lax.stop_gradient(jnp.sqrt((v**2).sum(0)))
        magnitude = jnp.sqrt((w**2).sum(0)) + m
        return jnp.sin(x @ (magnitude * v / fixed)).sum()

    def ours(a, b, m):
        y = x @ w + 0.5 * (x @ a) @ b
        return jnp.sin(y * projection.dora_factor(w, a, b, m, 0.5)).sum()

    found, expected = (jax.grad(f, (0, 1, 2))(a, b, m) for f in (ours, direct))
    for g, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-5)
    through = lambda m: projection.dora_factor(w, a, b, m, 0.5).sum()
    assert (jax.grad(through)(m) > 0).all()
    of_base = jax.grad(lambda w: projection.dora_factor(w, a, b, m, 0.5).sum())(w)
    np.testing.assert_array_equal(of_base, 0)


def test_magnitudes_are_trained_and_begin_as_zeros():
    model, params = small.make(lora_targets="layers/(o|mlp/up)", **FIELDS)
    fresh = trees.named_leaves(small.initial(model))
    shapes = {n: x.shape for n, x in fresh.items() if n.endswith("lora_m")}
    assert shapes == {"layers/o/lora_m": (2, 32), "layers/mlp/up/lora_m": (2, 48)}
    assert all((fresh[name] == 0).all() for name in shapes)
    trained, rest = trees.partition(lora.TRAINABLE, params)
    assert shapes.keys() < trees.named_leaves(trained).keys()
    assert not any("lora" in name for name in trees.named_leaves(rest))
    assert not any("lora" in n for n in trees.named_leaves(lora.strip(params)))


def test_refuses_by_name():
    with pytest.raises(errors.ConfigError, match="lora_dora: True has no effect"):
        models.build(small.SMALL | dict(lora_dora=True), small.V)
    c = models.build(small.SMALL | FIELDS, small.V).config
    assert lora.problems(c, lora.TRAINABLE) == [] == lora.problems(c, "score/.*")
    (problem,) = lora.problems(c, r".*/lora_[ab]")
    assert "lora_m" in problem and "lora_dora" in problem

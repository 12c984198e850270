# SPDX-License-Identifier: Apache-2.0
"""Layers that differ: in windows, in rotations; and norms in other places."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors, models
from alignjax.distributed import sharding
from alignjax.models import attention, decoder
from alignjax.models.attention import plain
from alignjax.models.attention.rows import Rows
from alignjax.tracking import throughput
from tests.models import small

# Of three layers, the second sees everything.
PATTERN = dict(layers=3, window=5, window_pattern=(True, False, True))
LINEAR = dict(kind="linear", factor=4.0)


def hidden(params, **fields):
    model = models.build(small.SMALL | fields, small.V)
    return np.asarray(jax.jit(model.hidden)(params, small.one_document()))


def test_how_far_one_sees_is_the_sum_over_layers():
    def reach(**fields):
        model, params = small.make(layers=2, window=5, **fields)
        row = small.one_document(B=1)
        row = row.replace(inputs=np.arange(small.T, dtype=np.int32)[None])
        last = lambda table: model.hidden({**params, "embed": table}, row)[0, -1].sum()
        influence = np.abs(jax.grad(last)(params["embed"])).sum(-1)[: small.T]
        return small.T - np.flatnonzero(influence).min()

    assert reach() == 9  # itself, and twice four before it
    assert reach(window_pattern=(True, False)) == small.T
    assert reach(window_pattern=(False, True)) == small.T


def test_a_pattern_is_the_same_scanned_and_unrolled():
    fields = PATTERN | dict(local_rope_theta=77.0, rope_scaling=LINEAR)
    _, params = small.make(**fields)
    scanned = hidden(params, **fields)
    for changed in (dict(unroll=3), dict(unroll=3, remat="full"), dict(remat="dots")):
        np.testing.assert_allclose(
            hidden(params, **fields, **changed), scanned, atol=1e-5
        )
    for other in ((True, True, False), (False, True, True), (True,)):
        moved = hidden(params, **fields | dict(window_pattern=other))
        assert np.abs(moved - scanned).max() > 1e-3


def test_layers_with_a_window_have_rotations_of_their_own():
    _, params = small.make(**PATTERN)
    everywhere = PATTERN | dict(window_pattern=(True,))
    scaled = dict(rope_scaling=LINEAR)
    plain = hidden(params, **everywhere, rope_theta=77.0)
    local = hidden(params, **everywhere, **scaled, local_rope_theta=77.0)
    np.testing.assert_allclose(local, plain, atol=1e-6)
    both = hidden(params, **PATTERN, **scaled, local_rope_theta=77.0)
    same = hidden(params, **PATTERN, rope_theta=77.0)
    assert np.abs(both - same).max() > 1e-3
    equal = hidden(params, **PATTERN, rope_theta=77.0, local_rope_theta=77.0)
    np.testing.assert_allclose(equal, same, atol=1e-6)


def test_a_kernel_is_made_for_one_window_at_a_time(monkeypatch):
    asked = set()

    def kernel(*arrays, window, **options):
        assert window is None or isinstance(window, int)
        asked.add(window)
        return plain.attend(*arrays, window=window, **options)

    monkeypatch.setitem(attention.BACKENDS, "kernel", kernel)
    row = small.one_document()

    def value_and_grad(**fields):
        model, params = small.make(**PATTERN, **fields)
        loss = lambda p: (model.hidden(p, row) ** 2).sum()
        return jax.jit(jax.value_and_grad(loss))(params)

    value, grad = value_and_grad(attention="xla")
    for changed in (dict(), dict(remat="attention")):
        ours, our_grad = value_and_grad(attention="kernel", **changed)
        np.testing.assert_allclose(ours, value, rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(
                a, b, atol=1e-5 * np.abs(b).max() + 1e-9
            ),
            our_grad,
            grad,
        )
    assert asked == {5, None}


def test_attention_is_scaled_by_what_is_asked():
    q, k, v = (
        jax.random.normal(key, (1, 6, 2, 4))
        for key in jax.random.split(jax.random.key(0), 3)
    )
    row = Rows(jnp.ones((1, 6), jnp.int32))
    run = functools.partial(plain.attend, window=None, softcap=1.5)
    half = run(q, k, v, row, scale=0.25)
    np.testing.assert_allclose(half, run(q / 2, k, v, row), atol=1e-6)
    assert np.abs(half - run(q, k, v, row)).max() > 1e-3


def test_flops_are_those_of_each_layer():
    model = models.build(small.SMALL | PATTERN, small.V)
    every, none = (
        decoder.flops_per_token(models.build(fields, small.V), 64)
        for fields in (
            small.SMALL | dict(layers=3, window=5),
            small.SMALL | dict(layers=3),
        )
    )
    mixed = decoder.flops_per_token(model, 64)
    sizes = dict(heads=4, head_dim=8, context=64)
    layer = functools.partial(throughput.attention_flops_per_token, layers=1, **sizes)
    assert mixed == pytest.approx(every + layer() - layer(window=5))
    assert every < mixed < none


@pytest.mark.parametrize("placement", ["post", "both"])
def test_norms_of_what_comes_out_are_last(placement):
    """With scales of zero, layers add nothing."""
    fields = dict(norm_placement=placement)
    _, params = small.make(**fields)
    names = {name for name in params["layers"] if name.endswith("_norm")}
    after = {"attention_post_norm", "mlp_post_norm"}
    before = {"attention_norm", "mlp_norm"} if placement == "both" else set()
    assert names == after | before
    silent = {
        name: jax.tree.map(jnp.zeros_like, leaf) if name in after else leaf
        for name, leaf in params["layers"].items()
    }
    x = np.asarray(params["embed"])[small.one_document().inputs]
    x /= np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    expected = x * np.asarray(params["norm"]["scale"])
    ours = hidden({**params, "layers": silent}, **fields)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(hidden(params, **fields) - expected).max() > 1e-2


def test_an_offset_is_added_to_every_scale():
    fields = dict(norm_placement="both", qk_norm="head")
    _, params = small.make(**fields)

    def moved(path, leaf):
        return leaf - 1 if path[-1].key == "scale" else leaf

    kept_minus_one = jax.tree_util.tree_map_with_path(moved, params)
    ours = hidden(kept_minus_one, **fields, norm_offset=1.0)
    np.testing.assert_allclose(ours, hidden(params, **fields), atol=1e-5)
    first = small.initial(models.build(small.SMALL | dict(norm_offset=1.0), small.V))
    assert not first["norm"]["scale"].any()


def test_full_norms_of_queries_and_keys_are_over_all_heads():
    one = dict(heads=1, head_dim=8)
    _, params = small.make(**one, qk_norm="full")
    by_head, full = (hidden(params, **one, qk_norm=kind) for kind in ("head", "full"))
    np.testing.assert_allclose(by_head, full, atol=1e-6)
    _, params = small.make(qk_norm="full", kv_heads=2)
    assert params["layers"]["q_norm"]["scale"].shape == (2, 4 * 8)
    assert params["layers"]["k_norm"]["scale"].shape == (2, 2 * 8)


def test_embeddings_are_scaled_in_the_dtype_of_activations():
    model, params = small.make(embedding_scale=True, dtype="bfloat16")
    row = small.one_document()
    module = decoder.Decoder(model.config)
    ours = module.apply({"params": params}, row.inputs, row.positions, method="_embed")
    low = lambda x: np.asarray(x, np.float32).astype(jnp.bfloat16)
    expected = low(params["embed"])[row.inputs] * low(32**0.5)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(ours), expected)
    assert float(low(32**0.5)) != 32**0.5  # what is rounded shows


def test_a_mesh_changes_nothing():
    fields = PATTERN | dict(
        qk_norm="full", norm_placement="post", kv_heads=2, local_rope_theta=77.0
    )
    model, params = small.make(**fields, vocab_size=64)
    row = small.one_document(B=4)
    alone = jax.jit(model.hidden)(params, row)
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    mesh, rules = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)), sharding.rules()
    with sharding.use(mesh, rules):
        spread = jax.device_put(params, sharding.shardings(abstract, mesh, rules))
        assert not spread["layers"]["q_norm"]["scale"].sharding.is_fully_replicated
        np.testing.assert_allclose(jax.jit(model.hidden)(spread, row), alone, atol=1e-5)


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(window_pattern=(True, False)), "window_pattern: has no effect without"),
        (dict(window=4, window_pattern=(False,)), "no layer has the window"),
        (dict(window=4, window_pattern=()), "window_pattern: empty"),
        (dict(local_rope_theta=5.0), "local_rope_theta: .* has no effect"),
        (dict(rope_fraction=0.4), "rope_fraction: 0.4 of head_dim = 8 are 3"),
        (dict(rope_fraction=1.5), "rope_fraction: 1.5 is not in"),
        (
            dict(positions="learned", rope_fraction=0.5),
            "rope_fraction: .* has no effect",
        ),
        (
            dict(positions="learned", rope_scaling=LINEAR),
            "rope_scaling: .* has no effect",
        ),
        (dict(qk_norm=True), "qk_norm: True is not one of 'head', 'full'"),
        (dict(attention_bias=True), "attention_bias: True is not one of 'none'"),
        (dict(attention_scale=0.0), "attention_scale: 0.0 "),
        (dict(norm_placement="sandwich"), "norm_placement: 'sandwich' is not one of"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields, message):
    with pytest.raises(errors.ConfigError, match=message):
        models.build(small.SMALL | fields, small.V)


def test_a_pattern_is_kept_as_the_shortest():
    of = lambda **fields: models.build(small.SMALL | fields, small.V).config
    pattern = (True, False, True, False)
    assert of(layers=6, window=3, window_pattern=pattern).window_pattern == (
        True,
        False,
    )
    assert of(layers=2, window=3, window_pattern=(True,) * 5 + (False,)) == of(
        layers=2, window=3
    )

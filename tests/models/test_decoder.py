# SPDX-License-Identifier: Apache-2.0
"""The decoder in all its variants: causal, packable, cacheable, equal under remat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors, models, trees
from tests import rows
from tests.fixtures import marks
from tests.models.small import SMALL, T, V, make, one_document

VARIANTS = {
    "llama": {},
    "grouped": dict(kv_heads=2),
    "multi-query": dict(kv_heads=1, head_dim=6),
    "gpt2": dict(
        norm="layernorm",
        positions="learned",
        activation="gelu",
        attention_bias="all",
        mlp_bias=True,
    ),
    "gemma-like": dict(
        activation="geglu",
        qk_norm="head",
        attention_softcap=20.0,
        logit_softcap=10.0,
        window=5,
    ),
    "gemma3-like": dict(
        window=5,
        window_pattern=(True, False),
        local_rope_theta=77.0,
        rope_scaling=dict(kind="linear", factor=4.0),
        norm_placement="both",
        norm_offset=1.0,
        embedding_scale=True,
        attention_scale=0.2,
        activation="geglu_exact",
    ),
    "olmo2-like": dict(norm_placement="post", qk_norm="full", attention_bias="qkv"),
    "partly rotated": dict(rope_fraction=0.5, kv_heads=2),
    "untied": dict(tied=False),
}


def logits(model, params, sequences):
    run = lambda p, rows: model.unembed(p, model.hidden(p, rows))
    return jax.jit(run)(params, sequences)


@pytest.mark.parametrize(
    "variant", marks.slow_but(["llama", "gemma-like", "olmo2-like"], VARIANTS)
)
def test_nothing_flows_back_in_time(variant):
    model, params = make(**VARIANTS[variant])
    # Every position its own token, so its row of the table stands for the input there.
    row = rows.unpacked([np.arange(T + 1, dtype=np.int32)], T)
    outputs = lambda table: model.hidden({**params, "embed": table}, row)[0].sum(-1)
    influence = np.abs(jax.jacobian(outputs)(params["embed"])).sum(-1)[:, :T]
    assert (np.triu(influence, 1) == 0).all()
    assert (np.diagonal(influence) > 0).all()
    window = model.config.window
    if window is None or not all(model.config.window_pattern):
        assert (influence[-1] > 0).all()
    else:  # two layers see twice as far
        assert (influence[-1, : T - 2 * (window - 1) - 1] == 0).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_documents_do_not_see_each_other(variant):
    model, params = make(**VARIANTS[variant])
    docs = rows.documents(7, T // 2, V)
    apart, together = rows.unpacked(docs, T), rows.packed(docs, T)
    assert len(together.inputs) < len(docs)
    ours = logits(model, params, together)[together.weights > 0]
    theirs = logits(model, params, apart)[apart.weights > 0]
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("variant", marks.slow_but(["llama", "gemma-like"], VARIANTS))
def test_the_cache_equals_the_whole_row(variant):
    model, params = make(**VARIANTS[variant])
    row = one_document()
    whole = logits(model, params, row)
    cache = model.init_cache(2, T + 3)
    extend = jax.jit(model.extend)
    pieces, start = [], 0
    for size in (7, 1, 1, 10, 5):
        here = slice(start, start + size)
        x, cache = extend(params, row.inputs[:, here], row.positions[:, here], cache)
        pieces.append(model.unembed(params, x))
        start += size
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=2e-5)


def test_left_padding_is_not_seen():
    model, params = make()
    row = one_document(B=1)
    whole = logits(model, params, row)
    padded = np.concatenate([np.full((1, 5), 3, np.int32), row.inputs], 1)
    positions = np.concatenate([np.full((1, 5), -1, np.int32), row.positions], 1)
    x, _ = model.extend(params, padded, positions, model.init_cache(1, T + 5))
    np.testing.assert_allclose(model.unembed(params, x)[:, 5:], whole, atol=2e-5)


@pytest.mark.parametrize("changed", [
    dict(unroll=2), dict(remat="full"), dict(remat="dots"), dict(remat="attention"),
    dict(unroll=2, remat="full"),
], ids=str)  # fmt: skip
def test_how_it_is_computed_changes_neither_value_nor_gradient(changed):
    row = one_document()

    def value_and_grad(**fields):
        model, params = make(layers=4, **fields)
        loss = lambda p: (logits(model, p, row) ** 2).mean()
        return jax.jit(jax.value_and_grad(loss))(params)

    value, grad = value_and_grad()
    other_value, other_grad = value_and_grad(**changed)
    np.testing.assert_allclose(other_value, value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        other_grad,
        grad,
    )


def test_unrolled_whole_and_scanned_are_equal():
    row = one_document()
    scanned, params = make(layers=3)
    unrolled, _ = make(layers=3, unroll=3)
    np.testing.assert_allclose(
        unrolled.hidden(params, row), scanned.hidden(params, row), atol=1e-5
    )


def test_dropout_needs_a_key_and_follows_it():
    model, params = make(dropout=0.5)
    row = one_document()
    a, b, again = (
        model.hidden(params, row, jax.random.key(seed)) for seed in (0, 1, 0)
    )
    still = model.hidden(params, row)
    assert not np.allclose(a, b) and not np.allclose(a, still)
    np.testing.assert_array_equal(a, again)
    plain, _ = make()
    np.testing.assert_array_equal(still, plain.hidden(params, row))


def test_dropout_differs_between_unrolled_layers():
    model, params = make(dropout=0.5, layers=2, unroll=2)
    row = one_document()
    a = model.hidden(params, row, jax.random.key(0))
    assert np.isfinite(a).all()
    np.testing.assert_array_equal(a, model.hidden(params, row, jax.random.key(0)))


def test_bfloat16_computes_near_float32_and_keeps_float32_weights():
    model, params = make(dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    row = one_document()
    assert model.hidden(params, row).dtype == jnp.bfloat16
    low = logits(model, params, row)
    assert low.dtype == jnp.float32
    high = logits(make()[0], params, row)
    assert 0 < np.abs(low - high).mean() < 0.05 * np.abs(high).mean()


def test_the_dtype_that_auto_chooses_is_of_the_devices():
    (auto, params), (plain, _) = make(dtype="auto"), make(dtype="float32")
    c = auto.config
    assert c.dtype_on("cpu") == c.dtype_on(None) == "float32"
    assert c.dtype_on("gpu") == c.dtype_on("tpu") == "bfloat16"
    assert c.attention_case("gpu").dtype == "bfloat16"
    x = [model.hidden(params, one_document()) for model in (auto, plain)]
    assert x[0].dtype == jnp.float32
    np.testing.assert_array_equal(*x)


def test_paths_are_the_ones_on_disk():
    """A change here is a change of the format of every checkpoint."""
    _, params = make(tied=False, qk_norm="head")
    assert {k: v.shape for k, v in trees.named_leaves(params).items()} == {
        "embed": (V, 32),
        "head": (32, V),
        "norm/scale": (32,),
        "layers/attention_norm/scale": (2, 32),
        "layers/mlp_norm/scale": (2, 32),
        "layers/q/kernel": (2, 32, 4, 8),
        "layers/k/kernel": (2, 32, 4, 8),
        "layers/v/kernel": (2, 32, 4, 8),
        "layers/o/kernel": (2, 4, 8, 32),
        "layers/q_norm/scale": (2, 8),
        "layers/k_norm/scale": (2, 8),
        "layers/mlp/gate/kernel": (2, 32, 48),
        "layers/mlp/up/kernel": (2, 32, 48),
        "layers/mlp/down/kernel": (2, 48, 32),
    }


@pytest.mark.parametrize(
    "family,name,millions",
    [("gpt2", "124m", 124.44), ("llama", "1b", 1235.81), ("llama", "8b", 8030.26)],
)
def test_sizes_are_what_their_names_say(family, name, millions):
    model = models.build(dict(family=family, name=name), 100)
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    assert trees.count(abstract) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(
    "section,message",
    [
        (dict(family="lama", name="nano"), "did you mean 'llama'"),
        (dict(family="llama", name="nanno"), "did you mean 'nano'"),
        (dict(SMALL, d_model=30), "heads: 4 do not divide d_model = 30"),
        (dict(SMALL, kv_heads=3), "kv_heads: 3 do not divide heads = 4"),
        (dict(SMALL, head_dim=7), "head_dim: 7 is odd"),
        (dict(SMALL, layers=3, unroll=2), "unroll: 2 does not divide layers = 3"),
        (
            dict(SMALL, d_modle=8),
            "model.d_modle: unknown field; did you mean 'd_model'",
        ),
        (dict(SMALL, layers=True), "layers: True is bool, not int"),
        (dict(SMALL, dropout=1.0), "dropout: 1.0 is not in"),
        (dict(SMALL, attention="flash"), "attention: 'flash' is not one of auto, "),
        (dict(SMALL, vocab_size=9), "too few for the tokenizer's 61 tokens"),
        (dict(SMALL, layers=0), "layers: 0 "),
        (dict(SMALL, init_std=-1.0), "init_std: -1.0 "),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(section, message):
    with pytest.raises(errors.ConfigError, match=message.replace("(", r"\(")):
        models.build(section, V)

# SPDX-License-Identifier: Apache-2.0
"""Adapters: nothing at first, W + scale A B later, and nothing of the base trained."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors, models, trees
from alignjax.distributed import sharding
from alignjax.experiment import build, config_file
from alignjax.models import decoder, lora
from alignjax.training import optim, state
from tests.fixtures import marks
from tests.models import small

ROOT = pathlib.Path(__file__).resolve().parents[2]
RANK = dict(lora_rank=3, lora_alpha=6.0)
SETTINGS = {
    "all": RANK,
    "some": RANK | dict(lora_targets="layers/(q|o|mlp/down)", kv_heads=2),
    "rslora": RANK | dict(lora_rslora=True, attention_bias="all", mlp_bias=True),
    "unrolled": RANK | dict(unroll=2, remat="full", activation="gelu"),
}


def hidden(model, params, row, key=None):
    return jax.jit(model.hidden)(params, row, key)


def by_hand(params, scale):
    """The kernels that adapters stand for, in float64, one layer at a time."""
    merged = {
        k: np.asarray(v) for k, v in trees.named_leaves(lora.strip(params)).items()
    }
    for name, a in trees.named_leaves(params).items():
        if name.endswith("/lora_a"):
            at = name.removesuffix("lora_a")
            b = np.asarray(trees.named_leaves(params)[f"{at}lora_b"], np.float64)
            kernel = merged[f"{at}kernel"]
            added = [
                np.tensordot(np.asarray(a[i], np.float64), b[i], axes=1)
                for i in range(len(a))
            ]
            merged[f"{at}kernel"] = kernel + scale * np.stack(added)
    return merged


@pytest.mark.parametrize("setting", marks.slow_but(["all"], SETTINGS))
def test_nothing_at_first_and_the_merged_kernel_later(setting):
    fields = SETTINGS[setting]
    base = {k: v for k, v in fields.items() if not k.startswith("lora_")}
    model, params = small.make(**fields)
    plain = models.build(small.SMALL | base, small.V)
    row = small.one_document()

    fresh = small.initial(model)
    first = hidden(model, fresh, row)
    np.testing.assert_array_equal(first, hidden(model, lora.strip(fresh), row))
    np.testing.assert_allclose(first, hidden(plain, lora.strip(fresh), row), atol=1e-6)

    scale = 6 / np.sqrt(3) if setting == "rslora" else 2
    merged = lora.merge(params, model.config)
    expected = by_hand(params, scale)
    assert trees.named_leaves(merged).keys() == expected.keys()
    for name, leaf in trees.named_leaves(merged).items():
        np.testing.assert_allclose(leaf, expected[name], atol=1e-5)
    ours = hidden(model, params, row)
    np.testing.assert_allclose(ours, hidden(plain, merged, row), atol=1e-5)
    # As the reference of a policy: the same model, given the base alone.
    without = hidden(model, lora.strip(params), row)
    np.testing.assert_array_equal(without, hidden(plain, lora.strip(params), row))
    assert np.abs(ours - without).max() > 0.1


def test_paths_shapes_and_targets():
    _, params = small.make(**SETTINGS["some"])
    found = trees.named_leaves(params)
    adapters = {k: v.shape for k, v in found.items() if "/lora_" in k}
    assert adapters == {
        "layers/q/lora_a": (2, 32, 3),
        "layers/q/lora_b": (2, 3, 4, 8),
        "layers/o/lora_a": (2, 4, 8, 3),
        "layers/o/lora_b": (2, 3, 32),
        "layers/mlp/down/lora_a": (2, 48, 3),
        "layers/mlp/down/lora_b": (2, 3, 32),
    }
    assert not any("/lora_" in name for name in trees.named_leaves(lora.strip(params)))
    trained, _ = trees.partition(lora.TRAINABLE, params)
    assert trees.named_leaves(trained).keys() == adapters.keys()


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
def test_targets_are_looked_for_among_all_projections(activation):
    model, params = small.make(activation=activation, score_heads=1, **RANK)
    kernels = {
        name.removesuffix("/kernel")
        for name in trees.named_leaves(params)
        if name.startswith("layers") and name.endswith("kernel")
    }
    assert kernels == set(model.config.projections)


def test_a_begins_random_and_b_as_zeros():
    model = models.build(
        small.SMALL | dict(d_model=256, heads=8, lora_rank=16), small.V
    )
    for name, leaf in trees.named_leaves(small.initial(model)).items():
        if name.endswith("lora_b"):
            assert (leaf == 0).all()
        elif name.endswith("lora_a"):
            inputs = leaf[0].size // 16
            assert leaf.std() == pytest.approx(inputs**-0.5, rel=0.05)
            assert not np.array_equal(leaf[0], leaf[1])  # each layer its own


def test_the_gradient_leaves_the_base_alone():
    """A third of the work less, and the same gradient of the adapters."""
    row = small.one_document(B=4, length=32)
    model, params = small.make(d_model=128, d_ff=256, layers=1, lora_rank=2)
    adapters, base = trees.partition(lora.TRAINABLE, params)

    def loss(adapters, base):
        return (model.hidden(trees.merge(adapters, base), row) ** 2).mean()

    part = jax.jit(jax.grad(loss)).lower(adapters, base).compile()
    whole = jax.jit(jax.grad(loss, (0, 1))).lower(adapters, base).compile()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
        part(adapters, base),
        whole(adapters, base)[0],
    )
    flops = lambda compiled: compiled.cost_analysis()["flops"]
    # Below the queries, keys and values of the first layer there is nothing to train.
    unneeded = trees.count(base["layers"]) + 3 * 128 * 128
    saved = 2 * unneeded * row.inputs.size
    assert flops(whole) - flops(part) == pytest.approx(saved, rel=0.03)
    counted = decoder.flops_per_token
    less = counted(model, 32) - counted(model, 32, trainable=lora.TRAINABLE)
    assert less == 2 * trees.count(base)


def test_the_cache_knows_adapters():
    model, params = small.make(**SETTINGS["some"])
    row = small.one_document()
    cache = model.init_cache(2, small.T)
    pieces, extend = [], jax.jit(model.extend)
    for here in (slice(0, 20), *(slice(i, i + 1) for i in range(20, small.T))):
        x, cache = extend(params, row.inputs[:, here], row.positions[:, here], cache)
        pieces.append(x)
    whole = hidden(model, params, row)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=2e-5)


@pytest.mark.parametrize("unroll", [1, 2])
def test_dropout_is_of_adapters_in_training_only(unroll):
    model, params = small.make(lora_dropout=0.5, unroll=unroll, **RANK)
    row = small.one_document()
    still = hidden(model, params, row)
    merged = lora.merge(params, model.config)
    np.testing.assert_allclose(still, hidden(model, merged, row), atol=1e-5)
    a, b, again = (hidden(model, params, row, jax.random.key(s)) for s in (0, 1, 0))
    assert not np.allclose(a, b) and not np.allclose(a, still)
    np.testing.assert_array_equal(a, again)
    # Where adapters add nothing, dropping of what they get changes nothing.
    base = lora.strip(params)
    np.testing.assert_array_equal(
        hidden(model, base, row, jax.random.key(0)),
        hidden(model, base, row, jax.random.key(1)),
    )


def test_adapters_lie_on_a_mesh_as_their_kernels_do():
    fields = small.SMALL | dict(vocab_size=64, lora_rank=3)
    model = models.build(fields, small.V)
    mesh, rules = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)), sharding.rules()
    optimizer = optim.build(dict(name="adamw", decay=".*"), 1e-2)
    row = small.one_document(B=4)
    with sharding.use(mesh, rules):
        key, params = jax.random.key(0), state.abstract_params(model, mesh, rules)
        abstract = state.abstract_state(model, optimizer, mesh, rules, lora.TRAINABLE)
        begun = state.init_state(model, optimizer, abstract, key)
        _, frozen = state.partition(params, lora.TRAINABLE)
        base = state.init_params(model, frozen, key)
        ones = jax.tree.map(jnp.ones_like, begun.params)
        shared = hidden(model, trees.merge(ones, base), row)
    q = begun.params["layers"]["q"]
    shape = lambda x: x.addressable_shards[0].data.shape
    assert shape(q["lora_a"]) == (2, 16, 3) and shape(q["lora_b"]) == (2, 3, 2, 8)
    alone = jax.device_get(trees.merge(ones, base))
    np.testing.assert_allclose(shared, hidden(model, alone, row), atol=1e-4)


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(lora_rank=-1), "lora_rank: -1 "),
        (dict(lora_rank=2, lora_alpha=0.0), "lora_alpha: 0.0 "),
        (dict(lora_rank=2, lora_dropout=1.0), "lora_dropout: 1.0 "),
        (
            dict(lora_rank=2, lora_targets="q|v"),
            "lora_targets: 'q|v' matches no projection; there are: layers/q, layers/k",
        ),
        (
            dict(lora_rank=2, lora_targets="layers/mlp/gate", activation="gelu"),
            "matches no projection",
        ),
        (
            dict(lora_rank=2, lora_targets="*"),
            "lora_targets: '*': is no pattern: nothing to repeat",
        ),
        (dict(lora_alpha=4.0), "lora_alpha: 4.0 has no effect with lora_rank = 0"),
        (dict(lora_rslora=True), "lora_rslora: True has no effect"),
    ],
    ids=str,
)
def test_refuses_by_name(fields, message):
    with pytest.raises(errors.ConfigError) as error:
        models.build(small.SMALL | fields, small.V)
    assert message in str(error.value)


def test_adapters_beside_a_model_that_is_trained_whole_are_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    flags = [("model.lora_rank", "3"), ("init.run", "tests/golden/runs/sft")]
    section = config_file.load("configs/smoke/dpo.py")
    with pytest.raises(errors.ConfigError, match=r"^trainable: '\.\*'"):
        build.check(config_file.override(section, flags).section)
    flags.append(("trainable", lora.TRAINABLE))
    build.check(config_file.override(section, flags).section)

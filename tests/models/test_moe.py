# SPDX-License-Identifier: Apache-2.0
"""Mixtures of experts: equal to a loop over all experts, on any mesh; none dropped."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors, models, trees, types
from alignjax.distributed import sharding
from alignjax.models import decoder, decoder_config, moe, router_loss
from tests import rows
from tests.fixtures import marks
from tests.models import small

B, T, D, F, E = 4, 9, 16, 24, 8
MESHES = {  # shape, rules: how the kernels lie
    "experts": (dict(tensor=4), {}),
    "experts and rows": (dict(data=2, tensor=4), {}),
    "stored in pieces": (dict(fsdp=4), {}),
    "slices": (dict(fsdp=2, tensor=2), dict(experts=None, expert_mlp="tensor")),
    "both": (
        dict(fsdp=2, tensor=2, data=2),
        dict(experts="fsdp", batch="data", embed=None, expert_mlp="tensor"),
    ),
    "gathered": (dict(fsdp=4), dict(experts="fsdp", embed=None)),
}
TINY = dict(family="mixtral", kv_heads=2, experts=4, router_loss=0.1)


def layer(J=2, normalised=True, activation="swiglu"):
    return moe.Experts(E, J, F, activation, normalised, 0.3, 0.3)


@functools.cache
def inputs(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32)
    params = {
        "router": {"kernel": draw(D, E)},
        "gate": {"kernel": draw(E, D, F)},
        "up": {"kernel": draw(E, D, F)},
        "down": {"kernel": draw(E, F, D)},
    }
    return params, draw(B, T, D)


def loop(params, x, J, normalised=True):
    """Every expert over every token, weighted, most of the weights 0."""
    p = jax.nn.softmax(x @ params["router"]["kernel"])
    kept = p >= jnp.sort(p)[..., -J, None]
    weight = jnp.where(kept, p, 0)
    if normalised:
        weight /= weight.sum(-1, keepdims=True)
    y = 0
    for e in range(E):
        h = x @ params["up"]["kernel"][e]
        if "gate" in params:
            h *= jax.nn.silu(x @ params["gate"]["kernel"][e])
        else:
            h = jax.nn.gelu(h, approximate=True)
        y += weight[..., e, None] * (h @ params["down"]["kernel"][e])
    return y


def value_and_gradient(apply, params, x):
    loss = lambda p, x: (jnp.sin(apply(p, x)) * jnp.arange(1, D + 1)).mean()
    return jax.value_and_grad(loss, (0, 1))(params, x)


@functools.partial(jax.jit, static_argnums=(2, 3))
def by_loop(params, x, J, normalised=True):
    return value_and_gradient(lambda p, x: loop(p, x, J, normalised), params, x)


def ours(module, params, x):
    apply = lambda p, x: module.apply({"params": p}, x)[0]
    return value_and_gradient(apply, params, x)


def assert_close(got, want, atol=1e-5):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)
    jax.tree.map(close, jax.device_get(got), jax.device_get(want))


@pytest.mark.parametrize(
    "J,normalised,activation",
    [(2, True, "swiglu"), (3, False, "swiglu"), (1, False, "gelu"), (8, True, "gelu")],
)
def test_equals_a_loop_over_all_experts(J, normalised, activation):
    params, x = inputs()
    if activation == "gelu":
        params = {k: v for k, v in params.items() if k != "gate"}
    module = layer(J, normalised, activation)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    same = jax.tree.map(lambda a, b: a.shape == b.shape, nn.unbox(shapes), params)
    assert all(jax.tree.leaves(same))
    want = by_loop(params, x, J, normalised)
    assert_close(jax.jit(functools.partial(ours, module))(params, x), want)


PRODUCTS = {
    "ragged_dot": jax.lax.ragged_dot,
    "blocks": moe.ragged_dot_in_blocks,
    "small blocks": functools.partial(moe.ragged_dot_in_blocks, size=3),
    "one block": functools.partial(moe.ragged_dot_in_blocks, size=100),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(
    "sizes", [(5, 0, 12, 20), (0, 0, 37, 0), (9, 9, 9, 10), (0, 3, 1, 0), (0, 0, 0, 0)]
)
def test_each_run_is_multiplied_with_its_own_matrix(name, sizes):
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=s)) for s in ((37, 6), (4, 6, 5)))
    run = np.repeat(np.arange(4), sizes)
    counted = lambda y: y[: len(run)] * jnp.arange(5)
    by_row = lambda x, w: counted(jnp.einsum("md,mdf->mf", x[: len(run)], w[run]))
    by_run = lambda x, w: counted(PRODUCTS[name](x, w, jnp.asarray(sizes)))
    assert_close(by_run(x, w), by_row(x, w))
    gradient = lambda f: jax.grad(lambda x, w: jnp.sin(f(x, w)).sum(), (0, 1))(x, w)
    assert_close(gradient(by_run), gradient(by_row))


def test_accelerators_use_the_ragged_product(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    params, x = inputs()
    want = by_loop(params, x, 2)
    run = functools.partial(ours, layer())
    assert "ragged_dot" in str(jax.make_jaxpr(run)(params, x))
    assert_close(jax.jit(run)(params, x), want)


def test_no_token_is_dropped_where_all_want_the_same_expert():
    params, x = inputs()
    router = jnp.zeros((D, E)).at[0, 5].set(9.0)
    params = params | {"router": {"kernel": router}}
    x = x.at[..., 0].set(3.0)
    counts = jnp.ones((B, T), bool)
    y, found = layer(1).apply({"params": params}, x, counts)
    np.testing.assert_array_equal(found.chosen, T * np.eye(E)[[5] * B])
    assert_close(y, loop(params, x, 1))
    assert np.abs(y).sum(-1).min() > 0.01


@pytest.mark.parametrize(
    "mesh", marks.slow_but(["experts and rows", "slices", "gathered"], MESHES)
)
def test_any_mesh_gives_the_same_values_and_gradients(mesh):
    params, x = inputs()
    module = layer()
    want = by_loop(params, x, 2)
    shape, overrides = MESHES[mesh]
    devices = jax.devices()[: int(np.prod(list(shape.values())))]
    grid, rules = sharding.make_mesh(shape, devices), sharding.rules(overrides)
    with sharding.use(grid, rules):
        abstract = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
        laid = sharding.shardings(abstract, grid, rules)
        laid = (laid, sharding.batch_sharding(grid, rules))
        run = jax.jit(functools.partial(ours, module), in_shardings=laid)
        assert_close(run(*jax.device_put((params, x), laid)), want)
        # As many rows as no number of devices shares.
        y = jax.jit(module.apply)({"params": params}, x[:3])[0]
        assert_close(y, loop(params, x[:3], 2))
    if mesh == "experts":
        up = jax.device_put(params, laid[0])["up"]["kernel"]
        assert up.addressable_shards[0].data.shape == (E // 4, D, F)


def test_tokens_stay_on_their_devices():
    """What is sent is kernels' gradients and sums, never rows to be sorted."""
    params, x = inputs()
    grid, rules = sharding.make_mesh(dict(data=8)), sharding.rules()
    x = jnp.concatenate([x, x])
    with sharding.use(grid, rules):
        laid = (None, sharding.batch_sharding(grid, rules))
        run = jax.jit(
            lambda p, x: layer().apply({"params": p}, x)[0], in_shardings=laid
        )
        program = run.lower(params, x).compile().as_text()
    assert not re.search(
        r"all-gather|all-to-all|collective-permute|all-reduce", program
    )


@pytest.mark.parametrize(
    "overrides,message",
    [
        (
            {},
            "sharding_rules.experts: 6 cannot be cut into 4 equal parts, along tensor",
        ),
        (dict(experts=None, expert_mlp="tensor"), "sharding_rules.expert_mlp: 10 can"),
    ],
)
def test_refuses_what_the_mesh_does_not_divide(overrides, message):
    grid = sharding.make_mesh(dict(tensor=4), jax.devices()[:4])
    module = moe.Experts(6, 2, 10, "swiglu", True, 0.3, 0.3)
    x = jax.ShapeDtypeStruct((B, T, D), jnp.float32)
    params = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), x))
    rules = sharding.rules(overrides)
    with sharding.use(grid, rules), pytest.raises(errors.ConfigError) as error:
        jax.eval_shape(module.apply, params, x)
    assert message in str(error.value)


def random_logits(L=3, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(L, B, T, E)).astype(np.float32)
    counts = np.arange(T) < np.array([9, 4, 1, 0])[:, None]
    return logits, counts


def routed(logits_LBTE, counts_BT, J=2):
    """`types.Routing` of all layers."""
    logz = jax.nn.logsumexp(logits_LBTE, axis=-1)
    p = jax.nn.softmax(logits_LBTE)
    chosen = jax.lax.top_k(p, J)[1]
    each = [moe.routing(p[i], logz[i], chosen[i], counts_BT) for i in range(len(p))]
    return jax.tree.map(lambda *x: sum(x), *each)


def balance(logits, counts, J=2):
    model = types.Model(
        decoder_config.DecoderConfig(61, 32, 2, 4, 48, 64, experts=E), *[None] * 9
    )
    nothing = types.Mean(jnp.float32(0), jnp.float32(1))
    metrics = router_loss.add(model, routed(logits, counts, J), nothing, {})[1]
    return {name: float(mean.value()) for name, mean in metrics.items()}


def test_what_is_said_of_routing():
    """Switch Transformer, Eq. 4 to 6, over the tokens of all layers that count."""
    logits, counts = random_logits()
    x = logits[:, counts].astype(np.float64).reshape(-1, E)
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    first_two = np.argsort(-p)[:, :2]
    f = (first_two[..., None] == np.arange(E)).sum((0, 1)) / len(p)
    found = balance(logits, counts)
    assert found["router/balance"] == pytest.approx(E * (f * p.mean(0)).sum(), abs=1e-5)
    assert found["router/entropy"] == pytest.approx(
        -(p * np.log(p)).sum(-1).mean(), abs=1e-5
    )
    assert found["router/busiest"] == pytest.approx(f.max(), abs=1e-6)
    even = balance(np.zeros_like(logits), counts)
    assert even["router/balance"] == pytest.approx(2, abs=1e-6)
    assert even["router/entropy"] == pytest.approx(np.log(E), abs=1e-6)


def test_balance_is_that_of_transformers():
    torch = pytest.importorskip("torch")
    from transformers.models.mixtral import modeling_mixtral

    logits, counts = random_logits(seed=1)
    theirs = modeling_mixtral.load_balancing_loss_func(
        tuple(torch.tensor(x.reshape(-1, E)) for x in logits),
        E,
        3,
        torch.tensor(counts.astype(np.int64)),
    )
    ours = balance(logits, counts, 3)["router/balance"]
    assert ours == pytest.approx(float(theirs), abs=1e-6)


@pytest.fixture(scope="module")
def tiny():
    return small.make(**TINY)


def test_documents_are_counted_alike_however_they_are_packed(tiny):
    model, params = tiny
    docs = rows.documents(7, small.T // 2, small.V)
    apart, together = rows.unpacked(docs, small.T), rows.packed(docs, small.T)
    assert len(together.inputs) < len(docs)
    run = jax.jit(model.routing)
    found = [
        jax.tree.map(lambda x: x.sum(0), run(params, x)[1]) for x in (apart, together)
    ]
    assert_close(*found, atol=1e-3)
    assert found[0].tokens == 2 * sum(len(doc) - 1 for doc in docs)
    assert found[0].chosen.sum() == 2 * found[0].tokens


def test_hidden_states_are_the_same_with_and_without_routing(tiny):
    model, params = tiny
    row = small.one_document()
    x = jax.jit(model.hidden)(params, row)
    np.testing.assert_array_equal(x, jax.jit(model.routing)(params, row)[0])
    assert small.make()[0].routing is None


@pytest.mark.parametrize(
    "changed", [dict(remat="full"), dict(unroll=2, remat="dots")], ids=str
)
def test_how_it_is_computed_changes_neither_value_nor_gradient(tiny, changed):
    row = small.one_document()

    def run(model, params):
        def loss(p):
            x, found = model.routing(p, row)
            shared = jax.lax.stop_gradient(found.chosen)
            return (x**2).mean() + (shared * found.probability).sum(), found

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    assert_close(run(small.make(**TINY | changed)[0], tiny[1]), run(*tiny), 1e-4)


def test_the_cache_equals_the_whole_row(tiny):
    model, params = tiny
    row = small.one_document()
    whole = jax.jit(model.hidden)(params, row)
    cache, extend = model.init_cache(2, small.T), jax.jit(model.extend)
    pieces = []
    for here in (slice(0, 20), *(slice(i, i + 1) for i in range(20, small.T))):
        x, cache = extend(params, row.inputs[:, here], row.positions[:, here], cache)
        pieces.append(x)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=2e-5)


def test_only_the_experts_of_a_token_cost_it_anything():
    size = lambda **fields: decoder.flops_per_token(small.make(**fields)[0], 32)
    mixture = size(**TINY, experts_per_token=3)
    dense = size(family="mixtral", kv_heads=2, experts=1, experts_per_token=1)
    # Two more experts of three matrices, and a router of four columns, not one.
    more = 6 * 2 * (2 * 3 * 32 * 48 + 3 * 32)
    assert mixture == pytest.approx(dense + more)


def test_adapters_are_of_attention_alone():
    _, params = small.make(**TINY, lora_rank=2)
    adapted = [k for k in trees.named_leaves(params) if k.endswith("lora_a")]
    assert sorted(adapted) == [f"layers/{x}/lora_a" for x in "koqv"]


@pytest.mark.parametrize(
    "fields,message",
    [
        (
            dict(experts=4, experts_per_token=5),
            "experts_per_token: 5 are more than the",
        ),
        (dict(experts=4, mlp_bias=True), "mlp_bias: experts have no biases"),
        (dict(experts=-1), "experts: -1 "),
        (
            dict(family="llama", router_loss=0.1),
            "router_loss: 0.1 has no effect without experts",
        ),
        (dict(router_loss=-0.1), "router_loss: -0.1 "),
        (
            dict(lora_rank=2, lora_targets="layers/moe/.*"),
            "layers/q, layers/k, layers/v, layers/o; experts get no adapters",
        ),
    ],
    ids=str,
)
def test_refuses_by_name(fields, message):
    with pytest.raises(errors.ConfigError) as error:
        models.build(small.SMALL | dict(family="mixtral") | fields, small.V)
    assert message in str(error.value)

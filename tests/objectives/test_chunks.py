# SPDX-License-Identifier: Apache-2.0
"""The head in chunks of tokens against all logits at once: values and gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from alignjax.distributed import sharding
from alignjax.objectives import chunks, logprobs
from tests.fixtures import marks

B, T, D, V = 8, 13, 16, 40


def inputs(seed=0, dtype=jnp.float32):
    """Hidden states, a head, targets, and weights of which whole chunks are 0."""
    keys = jax.random.split(jax.random.key(seed), 4)
    x = jax.random.normal(keys[0], (B, T, D), dtype)
    head = jax.random.normal(keys[1], (D, V))
    targets = jax.random.randint(keys[2], (B, T), 0, V)
    weights = jax.random.uniform(keys[3], (B, T)) * (jnp.arange(T) % 3 > 0)
    return x, head, targets, weights.at[:3].set(0.0)


def cap(products):
    return 5 * jnp.tanh(products.astype(jnp.float32) / 5)


def loss(figures):
    """As the weights of DFT: -sg(p) log p, and a z-loss."""
    logp = figures.logp
    return -jax.lax.stop_gradient(jnp.exp(logp)) * logp + 0.01 * figures.logz**2


def figures_of(products, targets, needs, previous=None):
    logz = None if previous is None else previous.logz
    return logprobs._figures(cap(products[0]), targets, needs, logz)


def plain(x, head, targets, needs=()):
    """From all logits at once, by the gradient of jax."""
    logits = cap(x @ head)
    logp = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(logp, targets[..., None], -1)[..., 0]
    fixed = jax.lax.stop_gradient(logp)
    entropy = -(jnp.exp(fixed) * fixed).sum(-1)
    collision = jnp.log(jnp.exp(2 * logp).sum(-1))
    logz = jax.nn.logsumexp(logits, -1)
    hit = (fixed.argmax(-1) == targets).astype(jnp.float32)
    figures = logprobs.Tokens(picked, logz, entropy, hit, collision)
    return figures._replace(
        **{k: None for k in ("entropy", "hit", "collision") if k not in needs}
    )


def assert_close(actual, expected):
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("chunk", marks.slow_but([7, 1000], [1, 7, 26, 103, 1000]))
def test_any_function_has_the_values_and_gradients_of_whole_logits(chunk):
    x, head, targets, weights = inputs()
    needs = ("entropy", "hit", "collision")

    def in_chunks(x, head):
        function = functools.partial(figures_of, needs=needs)
        return chunks.mapped(function, (x,), (head,), (targets,), chunk)

    def value(run, x, head):
        """Of figures that matter differently at each token."""
        figures = run(x, head)
        parts = (figures.logp, figures.logz, figures.collision)
        total = sum((jnp.sin(i + part) * weights).sum() for i, part in enumerate(parts))
        return total, figures

    gradient = lambda run: jax.value_and_grad(
        functools.partial(value, run), argnums=(0, 1), has_aux=True
    )(x, head)
    whole = lambda x, head: plain(x, head, targets, needs)
    assert_close(jax.jit(lambda: gradient(in_chunks))(), gradient(whole))


@pytest.mark.parametrize("chunk", marks.slow_but([7, 1000], [1, 7, 26, 103, 1000]))
def test_a_weighted_sum_has_the_gradient_of_whole_logits(chunk):
    x, head, targets, weights = inputs()
    needs = ("entropy", "hit")

    def in_chunks(x, head):
        function = functools.partial(figures_of, needs=needs)
        return chunks.total(function, loss, x, head, (targets,), weights, chunk)

    def whole(x, head):
        figures = plain(x, head, targets, needs)
        return (loss(figures) * weights).sum(), figures

    gradient = lambda run: jax.value_and_grad(
        lambda *x: (3 * run(*x)[0], run(*x)), argnums=(0, 1), has_aux=True
    )(x, head)
    assert_close(jax.jit(lambda: gradient(in_chunks))(), gradient(whole))


def test_logits_in_16_bits_are_off_by_a_rounding():
    x, head, targets, weights = inputs(dtype=jnp.bfloat16)

    def gradient(dtype):
        def run(x, head):
            function = functools.partial(figures_of, needs=())
            return chunks.total(
                function, loss, x, head, (targets,), weights, 26, dtype
            )[0]

        return jax.grad(run, argnums=(0, 1))

    dtypes = ("float32", "bfloat16")
    exact, rounded = (jax.jit(gradient(dtype))(x, head) for dtype in dtypes)
    for a, b in zip(exact, rounded, strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.linalg.norm(a - b) < 2e-2 * np.linalg.norm(a)
    # CPUs do not round what they compute; what is asked for is seen before that.
    programs = [str(jax.make_jaxpr(gradient(dtype))(x, head)) for dtype in dtypes]
    assert ["bf16[26,40] = dot_general" in text for text in programs] == [False, True]


def flops(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("count", [1, 2])
def test_only_what_is_used_is_computed(count):
    """Of the products with the head: one forward, and one for each gradient."""
    x, head, targets, weights = inputs()
    x, head = jnp.tile(x, (1, 4, 8)), jnp.tile(head, (8, 8))
    targets, weights = jnp.tile(targets, (1, 4)), jnp.tile(weights, (1, 4))
    D, V, chunk = *head.shape, targets.size // count
    figures = functools.partial(figures_of, needs=())

    def total(x, head):
        return chunks.total(figures, loss, x, head, (targets,), weights, chunk)[0]

    def mapped(x, head):
        return chunks.mapped(figures, (x,), (head,), (targets,), chunk).logp.sum()

    both = lambda function: jax.grad(function, argnums=(0, 1))
    again = count > 1  # the logits of several chunks are made once more
    for function, products in [
        (total, 1),
        (both(total), 3),
        (jax.grad(total), 2),  # as where the head is not trained
        (both(mapped), 3 + again),
        (jax.grad(mapped), 2 + again),
    ]:
        # The body of a loop counts once.
        ratio = flops(function, x, head) / (2 * chunk * D * V)
        assert products <= ratio < products + 0.5


MESHES = {"fsdp": dict(fsdp=8), "all": dict(data=2, fsdp=2, tensor=2)}
COLLECTIVE = re.compile(
    r"= \w+\[([\d,]*)\]\S* (all-gather|all-reduce|reduce-scatter|all-to-all|"
    r"collective-permute)\("
)


def on_mesh(mesh, first):
    """Gradients on a mesh, and the collectives, in the loop over chunks and outside."""
    x, head, targets, weights = inputs()
    grid, rules = sharding.make_mesh(MESHES[mesh]), sharding.rules()
    placed = lambda *axes: NamedSharding(grid, PartitionSpec(*axes))
    rows = (x, targets, weights)
    x, targets, weights = jax.device_put(rows, placed(("data", "fsdp")))
    head = jax.device_put(head, placed("fsdp", "tensor"))
    figures = functools.partial(figures_of, needs=("entropy",))

    def run(x, head):
        if first:
            return chunks.total(figures, loss, x, head, (targets,), weights, 3)[0]
        results = chunks.mapped(figures, (x,), (head,), (targets,), 3)
        return (loss(results) * weights).sum()

    with sharding.use(grid, rules):
        compiled = jax.jit(jax.grad(run, argnums=(0, 1))).lower(x, head).compile()
        gradient = compiled(x, head)
    collectives = {True: set(), False: set()}
    for line in compiled.as_text().splitlines():
        if match := COLLECTIVE.search(line):
            collectives["while" in line].add(f"{match[2]} {match[1]}")
    return jax.device_get(gradient), collectives


@pytest.mark.parametrize("first", [True, False], ids=["total", "mapped"])
@pytest.mark.parametrize("mesh", MESHES)
def test_on_a_mesh_the_head_is_moved_once(mesh, first):
    x, head, targets, weights = inputs()
    whole = lambda x, head: (loss(plain(x, head, targets)) * weights).sum()
    expected = jax.grad(whole, argnums=(0, 1))(x, head)
    gradient, collectives = on_mesh(mesh, first)
    assert_close(gradient, expected)
    if mesh == "fsdp":
        assert collectives[True] == set()
        outside = {"all-gather 16,40", "reduce-scatter 2,40"}
    else:  # what of each token is summed over the vocabulary
        assert collectives[True] <= {"all-reduce 3", "all-reduce 3,16"}
        outside = {"all-gather 16,20", "all-reduce 16,20", "all-reduce 8,20"}
    of_head = {text for text in collectives[False] if "," in text}
    assert of_head == outside

# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of responses: against single sequences, in all layouts and chunks;
and what they take of memory and time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import models, objectives
from alignjax.objectives import logprobs
from alignjax.types import Frozen, Sequences
from tests.objectives import batches, subject, trajectory

NEEDS = ("head", "sample", "collision", "reference_kl")
GROUPS = batches.groups(5, trajectory.V, empty=(2,))


def parameters(model, seed):
    import flax.linen as nn

    return nn.unbox(model.init(jax.random.key(seed)))


@functools.cache
def found(layout, chunk):
    """`LogProbs` of the groups and the gradient of a sum of all of their fields."""
    model = trajectory.model()
    batch = batches.make(GROUPS, layout, 32, rows=6)
    reference = parameters(model, 1)

    def total(params):
        tokens = logprobs.tokens(
            model,
            params,
            logprobs.flatten_sequences(batch),
            chunk=chunk,
            needs=NEEDS,
            reference=reference,
        )
        said = logprobs.response_logprobs(batch, tokens, NEEDS)
        fields = [said.total, *(getattr(said, name) for name in NEEDS)]
        scaled = [jnp.sin(i + x).sum() for i, x in enumerate(fields)]
        return sum(scaled), said

    gradient, said = jax.jit(jax.grad(total, has_aux=True))(parameters(model, 0))
    return jax.tree.map(lambda x: np.asarray(x)[: len(GROUPS)], said), gradient


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_sums_are_those_of_single_sequences():
    """One prompt and one response at a time, from whole logits."""
    model = trajectory.model()
    params, reference = parameters(model, 0), parameters(model, 1)

    @jax.jit
    def unembedded(params, tokens):
        one = jnp.ones_like(tokens)
        places = jnp.arange(tokens.shape[1])[None]
        row = Sequences(tokens, tokens, one.astype(jnp.float32), one, places)
        return model.unembed(params, model.hidden(params, row))[0]

    logits = lambda *inputs: np.asarray(unembedded(*inputs), np.float64)
    said, _ = found("padded", 100)
    for i, group in enumerate(GROUPS):
        shorter = min(map(len, group.responses))
        for k, response in enumerate(group.responses):
            tokens = np.zeros((1, 16), np.int32)
            tokens[0, : len(group.prompt) + len(response)] = group.prompt + response
            there = slice(len(group.prompt) - 1, len(group.prompt) + len(response) - 1)
            policy = log_softmax(logits(params, tokens)[there])
            other = log_softmax(logits(reference, tokens)[there])
            logp = policy[np.arange(len(response)), response]
            expected = dict(
                total=logp.sum(),
                length=len(response),
                head=logp[:shorter].sum(),
                collision=np.log(np.exp(2 * policy).sum(-1)).sum(),
                reference_kl=(np.exp(other) * (other - policy)).sum(),
            )
            for name, value in expected.items():
                ours = getattr(said, name)[i, k]
                np.testing.assert_allclose(ours, value, rtol=1e-5, atol=1e-5)
    assert (said.total[2, 1], said.length[2, 1]) == (0, 0)  # the empty one


@pytest.mark.parametrize(("layout", "chunk"), [("packed", 3), ("shared", 11)])
def test_layouts_and_chunks_change_neither_values_nor_gradients(layout, chunk):
    expected, expected_gradient = found("padded", 100)
    said, gradient = found(layout, chunk)
    for name in ("total", "length", *NEEDS):
        a, b = getattr(said, name), getattr(expected, name)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)
    for a, b in zip(*map(jax.tree.leaves, (gradient, expected_gradient)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def drawn(layout, groups):
    """Which tokens are drawn: their numbers in each response, by their own values."""
    batch = batches.make(groups, layout, 64)
    bits = 2.0 ** logprobs.ranks(batch)  # a sum of powers of two names its terms
    needs = ("sample", "head")
    return logprobs.response_logprobs(batch, logprobs.Tokens(jnp.asarray(bits)), needs)


def test_the_draw_goes_by_the_group_alone():
    groups = batches.groups(12, 40, longest=9)
    expected = drawn("padded", groups)
    for layout in batches.LAYOUTS[1:]:
        sample = drawn(layout, groups).sample[: len(groups)]
        np.testing.assert_array_equal(sample, expected.sample)
    backwards = drawn("packed", groups[::-1]).sample[: len(groups)]
    np.testing.assert_array_equal(backwards[::-1], expected.sample)
    # As many as the shorter one has, which is therefore drawn whole.
    count = np.vectorize(lambda x: bin(int(x)).count("1"))
    shorter = np.asarray(expected.length).min(-1, keepdims=True).astype(int)
    np.testing.assert_array_equal(count(expected.sample), [[*n, *n] for n in shorter])
    longer = np.asarray(expected.length) > shorter
    assert (expected.sample[longer] != expected.head[longer]).any()
    other = [group._replace(index=group.index + 1) for group in groups]
    assert (drawn("padded", other).sample != expected.sample).any()


def test_all_tokens_are_drawn_equally_often():
    one = batches.Group([1, 2], [[3, 4, 5, 6], [7]], index=0)
    groups = [one._replace(index=i) for i in range(2000)]
    sample = np.asarray(drawn("padded", groups).sample)[: len(groups), 0].astype(int)
    often = [(sample == 1 << rank).mean() for rank in range(4)]
    np.testing.assert_allclose(often, 1 / 4, atol=0.03)


def test_what_stands_outside_of_responses_is_never_looked_at():
    batch = subject.batch("packed", padding=1)
    outside = jnp.where(batch.responses > 0, 1.0, jnp.nan)
    said = logprobs.response_logprobs(
        batch, logprobs.Tokens(outside), ("head", "sample")
    )
    np.testing.assert_array_equal(said.total, said.length)
    assert np.isfinite(said.head).all() and np.isfinite(said.sample).all()


def test_a_comparison_needs_a_reference():
    sequences = logprobs.flatten_sequences(subject.batch())
    for field in logprobs.COMPARISONS:
        with pytest.raises(ValueError, match="no reference"):
            logprobs.tokens(
                subject.model(), subject.params(), sequences, needs=(field,)
            )


SIZES = dict(trajectory.MODEL, d_model=64, d_ff=192, max_length=256, unroll=2)


def compiled(section, V, T, count, *, stored):
    """The gradient of DPO, compiled and not run."""
    model = models.build(SIZES | section, V)
    objective = objectives.build(model, dict(name="preference", **OBJECTIVE))
    params = jax.eval_shape(lambda: parameters(model, 0))
    batch = batches.make(batches.groups(count, V, longest=T // 2), "padded", T)
    table = np.zeros(batch.responses.shape, np.float32)
    batch = batch.replace(reference=table) if stored else batch
    frozen = Frozen() if stored else Frozen(reference=params)
    loss = lambda p, f, b: objective.loss(p, f, b, None, False)[0].total
    return jax.jit(jax.grad(loss)).lower(params, frozen, batch).compile()


OBJECTIVE = dict(loss="dpo")


def test_chunks_take_a_quarter_of_the_memory(monkeypatch):
    """Of the temporary memory of DPO's gradient, at 32,000 words and 2,048 tokens."""
    sizes = {}
    for chunk in (128, 2048):
        monkeypatch.setitem(OBJECTIVE, "chunk", chunk)
        run = compiled({}, 32_000, 256, 4, stored=False)
        sizes[chunk] = run.memory_analysis().temp_size_in_bytes
    assert sizes[2048] > 4 * 2048 * 32_000  # float32 logits alone would be this
    assert sizes[128] <= sizes[2048] / 4


def test_a_store_takes_off_a_quarter_of_the_work():
    """The reference's forward pass, of four: two more are the policy's backward one."""
    section = dict(d_model=256, d_ff=1024, layers=4, unroll=4)
    flops = [
        compiled(section, 64, 64, 2, stored=stored).cost_analysis()["flops"]
        for stored in (True, False)
    ]
    assert 1 - flops[0] / flops[1] == pytest.approx(0.25, abs=0.02)

# SPDX-License-Identifier: Apache-2.0
"""Packed and refilled rows get the tokens that each gets alone, without a cache."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import subject

from alignjax import errors, models, sampling
from alignjax.distributed import sharding
from alignjax.models import kv_cache
from alignjax.sampling import batches, distribution, loop
from alignjax.types import Sequences
from tests.fixtures import marks

ROOM = 10
CASES = {
    "llama": ({}, dict(temperature=0.9)),
    "gqa": (subject.VARIANTS["gqa, qk_norm, unrolled"], dict(top_p=0.8)),
    "window": (subject.VARIANTS["mqa, window, untied"], dict(top_k=20, min_p=0.02)),
    "gpt2": (subject.VARIANTS["learned, biases"], dict(temperature=0)),
    "lora": (dict(lora_rank=2, kv_heads=2), dict(temperature=1.2)),
}
STOPS = np.isin(np.arange(subject.ROWS), range(0, 250, 9))


@pytest.fixture
def small(monkeypatch):
    """Looks, batches and caches so small that six prompts meet all of them."""
    for name, value in dict(CHUNK=3, SMALLEST=2, SLOTS=4, FEW_SLOTS=4).items():
        monkeypatch.setattr(batches, name, value)


def prompts(count=6, width=8):
    """Prompts of 1 to `width` tokens, the last of none; left-padded, and their mask."""
    random = np.random.default_rng(0)
    lengths_G = np.append(1 + np.arange(count - 1) * 3 % width, 0)
    mask_GP = np.arange(width) >= width - lengths_G[:, None]
    return np.where(mask_GP, random.integers(0, 256, mask_GP.shape), 0), mask_GP


def drawn_by(keys, filters, stops=STOPS):
    allowed = jnp.arange(subject.ROWS) < 256
    return sampling.Draw(
        keys, allowed, jnp.asarray(stops), sampling.settings(**filters)
    )


def by_itself(model, params, prompt, key, filters):
    """Tokens, both log-probs and whether it ended, of one row, read anew every time."""
    ids, logps, model_logps = [], [], []
    settings = sampling.settings(**filters)
    while len(ids) < ROOM and not (ids and STOPS[ids[-1]]):
        tokens = [*prompt, *ids]
        row = np.array([tokens + [0] * (96 - len(tokens))], np.int32)
        places = np.arange(96)[None]
        whole = Sequences(row, row, None, places < len(tokens), places)
        logits = subject.all_logits(model, params, whole)[:, len(tokens) - 1]
        step = jax.random.fold_in(key, len(ids))[None]
        allowed = jnp.where(jnp.arange(subject.ROWS) < 256, logits, -jnp.inf)
        token, logp = distribution.draw(allowed, step, settings)
        ids.append(int(token[0]))
        logps.append(float(logp[0]))
        model_logps.append(float(jax.nn.log_softmax(logits)[0, ids[-1]]))
    return ids, logps, model_logps, bool(STOPS[ids[-1]])


@pytest.mark.parametrize(("rows", "columns"), [(1, 128), (64, 16)])
def test_slots_follow_what_attention_reads(rows, columns, monkeypatch):
    """On CPUs few at first where the caches are more than half as large as weights."""
    model, params = subject.nano(max_length=300, d_ff=4096)
    given, start = [], batches._start
    spy = lambda *arguments: given.append(arguments[-1]) or start(*arguments)
    monkeypatch.setattr(batches, "_start", spy)
    keys = jax.random.split(jax.random.key(0), rows)
    everything = np.ones(subject.ROWS, bool)  # ends every response
    draw = drawn_by(keys, dict(temperature=1.0), everything)
    prompts_GP = np.ones((rows, 3), np.int32)
    sampling.respond(model, params, prompts_GP, prompts_GP > 0, draw, 200)
    assert given == [columns]


@pytest.mark.parametrize("case", marks.slow_but(["gqa"], CASES))
def test_every_row_is_as_if_alone(case, small):
    overrides, filters = CASES[case]
    model, params = subject.nano(**overrides)
    tokens, mask = prompts()
    keys = jax.random.split(jax.random.key(1), 12)
    arguments = (model, params, tokens, mask, drawn_by(keys, filters), ROOM)
    refilled = sampling.respond(*arguments, samples=2, at_once=8)
    packed = sampling.respond(*arguments, samples=2)
    for rows in (refilled, packed):
        assert rows.length_B[10:].tolist() == [0, 0] and rows.done_B[10:].all()
        for i in range(10):
            prompt = tokens[i // 2][mask[i // 2]]
            alone = by_itself(model, params, prompt, keys[i], filters)
            ids, logps, model_logps, ended = alone
            n = rows.length_B[i]
            assert rows.tokens_BR[i, :n].tolist() == ids
            assert not rows.tokens_BR[i, n:].any() and rows.done_B[i] == ended
            close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
            close(rows.logps_BR[i, :n], logps)
            close(rows.model_logps_BR[i, :n], model_logps)
    assert len(set(packed.length_B)) > 2  # else nothing was packed or refilled


def test_neighbours_and_order_change_no_bit(small):
    model, params = subject.nano(kv_heads=2, window=5)
    tokens, mask = prompts(count=10)
    keys = jax.random.split(jax.random.key(2), 10)
    order = np.random.default_rng(1).permutation(10)
    draw = lambda keys: drawn_by(keys, dict(top_p=0.9), STOPS & False)
    run = lambda some: sampling.respond(
        model, params, tokens[some], mask[some], draw(keys[some]), ROOM, at_once=4
    )
    straight, shuffled = run(np.arange(10)), run(order)
    for a, b in zip(straight, shuffled, strict=True):
        np.testing.assert_array_equal(a[order], b)


def test_a_step_for_each_row_changes_no_bit():
    model, params = subject.nano(kv_heads=2, window=5)
    tokens, mask = prompts()
    draw = drawn_by(jax.random.split(jax.random.key(3), 6), {})
    state = batches._start(model, params, tokens, mask, ROOM)
    done = np.asarray(state.responses.done_B)
    own = jax.jit(loop.apart)(state)
    together = batches._advance(model, params, state, done, draw, 7).responses
    apart = batches._advance(model, params, own, done, draw, np.full(6, 7)).responses
    jax.tree.map(np.testing.assert_array_equal, together, apart)
    assert max(apart.length_B) == 7


@pytest.mark.parametrize("slots", marks.slow_but([8], [None, 8]))
def test_layers_that_are_apart_change_no_bit(slots, small, monkeypatch):
    """On CPUs each layer has arrays of its own, elsewhere all layers share them."""
    tokens, mask = prompts()
    draw = drawn_by(jax.random.split(jax.random.key(8), 12), {})
    shape = subject.SHAPE | dict(kv_heads=2, window=5)
    params = subject.nano(kv_heads=2, window=5)[1]
    run = lambda model: sampling.respond(
        model, params, tokens, mask, draw, ROOM, samples=2, at_once=slots
    )
    apart, init = run(models.build(shape, subject.ROWS)), kv_cache.init
    monkeypatch.setattr(kv_cache, "init", lambda *sizes, apart: init(*sizes))
    together = models.build(shape, subject.ROWS)._replace(by_layer=lambda x: x)
    assert together.init_cache(1, 1)["layers"]["k"].ndim == 5
    jax.tree.map(np.testing.assert_array_equal, run(together), apart)
    assert len(set(apart.length_B)) > 2


def test_a_group_reads_its_prompt_once():
    model, params = subject.nano()
    tokens, mask = prompts()
    draw = drawn_by(jax.random.split(jax.random.key(4), 12), {})
    sample = jax.jit(sampling.sample, static_argnums=(0, 5, 6))
    group = sample(model, params, tokens, mask, draw, ROOM, 2)
    twice = np.repeat(tokens, 2, axis=0), np.repeat(mask, 2, axis=0)
    each = sample(model, params, *twice, draw, ROOM, 1)
    for name in ("tokens_BR", "length_B", "done_B"):
        np.testing.assert_array_equal(getattr(group, name), getattr(each, name))
    np.testing.assert_allclose(group.logps_BR, each.logps_BR, atol=1e-5)
    # The prompt is read in 6 rows of 7 tokens; responses, one at a time, in 12.
    program = str(jax.make_jaxpr(sample, static_argnums=(0, 5, 6))(
        model, params, tokens, mask, draw, ROOM, 2
    ))  # fmt: skip
    assert "f32[6,7,32]" in program and "f32[12,7,32]" not in program
    assert "f32[12,1,32]" in program


def test_all_rows_end_at_once(small):
    model, params = subject.nano()
    tokens, mask = prompts()
    keys = jax.random.split(jax.random.key(5), 6)
    every = np.ones(subject.ROWS, bool)
    draw = drawn_by(keys, {}, every)
    rows = sampling.respond(model, params, tokens, mask, draw, ROOM, at_once=4)
    assert rows.length_B.tolist() == [1] * 5 + [0] and rows.done_B.all()


def test_nothing_of_a_predecessor_is_left(small):
    model, params = subject.nano()
    tokens, mask = prompts(count=3)
    clean = loop.apart(batches._start(model, params, tokens, mask, ROOM))
    poison = lambda x: x * jnp.nan if x.dtype == jnp.float32 else jnp.copy(x)
    state = jax.tree.map(poison, clean)
    state = batches._insert(state, clean, np.array([1, 7, 2]))  # 7 is no place
    draw = drawn_by(jax.random.split(jax.random.key(6), 3), {})
    done = np.array([True, False, True])
    out = batches._advance(model, params, state, done, draw, np.full(3, 4)).responses
    assert np.isfinite(out.logps_BR[1]).all() and out.length_B[1] > 0


def test_longrope_is_refused_texts_that_outgrow_its_short_frequencies(small):
    """Also where the cache is short at first, and grows; its padding does not count."""
    tokens, mask = prompts()  # of 7 tokens at most, in 8 columns
    draw = drawn_by(jax.random.split(jax.random.key(9), 6), {}, STOPS & False)
    params, factor = subject.nano()[1], lambda x: [x] * 4

    def arguments(original_length, long=4.0):
        scaling = dict(kind="longrope", original_length=original_length)
        scaling |= dict(short_factor=factor(1.0), long_factor=factor(long))
        model = models.build(subject.SHAPE | dict(rope_scaling=scaling), subject.ROWS)
        return model, params, tokens, mask, draw, ROOM

    # The last token of a response is not read.
    rows = sampling.respond(*arguments(7 + ROOM - 1))
    expected = sampling.respond(*arguments(1, long=1.0))
    jax.tree.map(np.testing.assert_array_equal, rows, expected)
    assert rows.length_B.max() == ROOM
    refused = arguments(7 + ROOM - 2)
    message = r"prompts\[2\]: 7 tokens.* max_tokens = 10 .* = 15, .* max_tokens to 9 "
    for draws in (sampling.respond, lambda *given: next(batches.chunks(*given))):
        with pytest.raises(errors.ConfigError, match=message):
            draws(*refused)
    with pytest.raises(errors.ConfigError) as caught:  # with what else is wrong
        sampling.respond(*refused, samples=2)
    assert [p.partition(":")[0] for p in caught.value.problems] == [
        *("prompts[2]", "draw.keys_B")
    ]


@pytest.mark.parametrize("field, changed", [
    ("prompts[1]", dict(max_tokens=93)), ("max_tokens", dict(max_tokens=0)),
    ("samples", dict(samples=0)), ("at_once", dict(at_once=0)),
    ("draw.keys_B", dict(samples=2)),
])  # fmt: skip
def test_refusals(field, changed):
    model, params = subject.nano(max_length=96)
    tokens, mask = prompts()
    draw = drawn_by(jax.random.split(jax.random.key(0), 6), {})
    options = dict(max_tokens=ROOM) | changed
    with pytest.raises(errors.ConfigError) as caught:
        sampling.respond(model, params, tokens, mask, draw, **options)
    assert any(p.startswith(f"{field}:") for p in caught.value.problems)


def test_few_programs(small):
    model, params = subject.nano()
    model = model._replace(config=dataclasses.replace(model.config, max_length=97))
    tokens, mask = prompts()
    before = batches._advance._cache_size()
    for seed in range(3):  # rows end in other orders
        draw = drawn_by(jax.random.split(jax.random.key(seed), 6), {})
        sampling.respond(model, params, tokens, mask, draw, ROOM, at_once=4)
    assert batches._advance._cache_size() <= before + 2  # 4 rows and 2


def test_sharded_weights_are_gathered_before_the_tokens():
    model, params = subject.nano(kv_heads=2, heads=8, d_model=64)
    mesh = sharding.make_mesh(dict(fsdp=8))
    boxed = jax.eval_shape(model.init, jax.random.key(0))
    where = sharding.shardings(boxed, mesh, sharding.RULES)
    placed = jax.tree.map(jax.device_put, params, where)
    tokens, mask = prompts(count=8)
    draw = drawn_by(jax.random.split(jax.random.key(7), 8), {})
    sample = jax.jit(sampling.sample, static_argnums=(0, 5))
    with sharding.use(mesh, sharding.RULES):
        compiled = sample.lower(model, placed, tokens, mask, draw, ROOM).compile()
        rows = sampling.respond(model, placed, tokens, mask, draw, ROOM)
    text = compiled.as_text()
    assert "all-gather" in text
    assert not _within_loops(text, "all-gather")
    expected = sampling.respond(model, params, tokens, mask, draw, ROOM)
    np.testing.assert_array_equal(rows.tokens_BR, expected.tokens_BR)


def _within_loops(text: str, operation: str) -> list[str]:
    """Instructions of a compiled program, in the bodies of loops or called by them."""
    part = re.compile(r"^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}", re.M | re.S)
    parts = dict(part.findall(text))
    calls = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)")
    waiting = re.findall(r"(?:body|condition)=%?([\w.-]+)", text)
    assert waiting
    seen = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += calls.findall(parts[name])
    lines = [line for name in seen for line in parts[name].splitlines()]
    return [line for line in lines if f" {operation}" in line]

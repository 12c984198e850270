# SPDX-License-Identifier: Apache-2.0
"""A row is the same in any batch, room, mesh and slice; programs are few."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import subject

from alignjax import models, sampling
from alignjax.distributed import sharding
from alignjax.sampling import batches, completions, loop


def test_a_row_does_not_depend_on_its_batch():
    prompts = [*subject.PROMPTS, "abc", "b", "Once upon a time"]
    seeds = [3, 1, 4, 1, 5, 2**32 - 1, 4]
    whole = subject.generate(prompts, seeds=seeds)
    assert whole[2].ids == whole[6].ids  # the same prompt and seed
    assert len({tuple(row.ids) for row in whole}) == 6
    alone = [
        subject.generate([prompt], seeds=[seed])[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    subject.assert_same(alone, whole)
    subject.assert_same(subject.generate(prompts[::-1], seeds=seeds[::-1])[::-1], whole)
    subject.assert_same(subject.generate(prompts, seeds=seeds, batch_size=4), whole)


def test_a_row_does_not_depend_on_the_room_it_has():
    for row, other in zip(
        subject.generate(subject.PROMPTS),
        subject.generate(subject.PROMPTS, max_tokens=40),
        strict=True,
    ):
        assert other.ids[:12] == row.ids
        np.testing.assert_allclose(other.logprobs[:12], row.logprobs, atol=1e-5)


def test_the_default_seeds_are_counted_from_0():
    rows = subject.generate(["Once upon a time there"] * 5)
    assert len({tuple(row.ids) for row in rows}) == 5
    subject.assert_same(
        rows, subject.generate(["Once upon a time there"] * 5, seeds=range(5))
    )


def test_long_prompts_go_in_slices(monkeypatch):
    model, params = models.build(subject.SHAPE, subject.ROWS), subject.nano()[1]
    assert model != subject.nano()[0]  # so it does not get that one's programs
    monkeypatch.setattr(loop, "PREFILL", 11)
    subject.assert_same(
        subject.generate(subject.PROMPTS, (model, params), max_tokens=11),
        subject.generate(subject.PROMPTS, max_tokens=11),
    )


def test_a_mesh_changes_nothing(monkeypatch):
    monkeypatch.setattr(completions, "CHUNK", 5)
    model, params = subject.nano(**subject.VARIANTS["gqa, qk_norm, unrolled"])
    options = dict(temperature=0.8, top_k=50, stop=["never"])
    expected = subject.generate(subject.PROMPTS, (model, params), **options)
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    boxed = jax.eval_shape(model.init, jax.random.key(0))
    where = sharding.shardings(boxed, mesh, sharding.RULES)
    placed = jax.tree.map(jax.device_put, params, where)
    programs = batches._advance._cache_size()
    with sharding.use(mesh, sharding.RULES):
        rows = subject.generate(subject.PROMPTS, (model, placed), **options)
    subject.assert_same(rows, expected)
    # Where the arrays lie is the same before the first chunk and after it.
    assert batches._advance._cache_size() == programs + 1


def test_few_programs_are_compiled():
    model, params = models.build(subject.SHAPE, subject.ROWS), subject.nano()[1]
    programs = lambda: (batches._start._cache_size(), batches._advance._cache_size())
    before = programs()
    for prompt, options in (
        ("abc", dict(temperature=0.5, seeds=[4])),
        ("abcdefgh", dict(temperature=0.9, max_tokens=9)),
        ("abcdef", dict(stop=["x"], stop_ids=[3])),
    ):
        subject.generate([prompt], (model, params), **options)
        list(sampling.stream(model, params, subject.TOKENIZER, prompt, max_tokens=5))
    assert np.subtract(programs(), before).tolist() == [1, 1]
    subject.generate(
        ["abc"], (model, params), top_k=5
    )  # drawing is no part of the prefill
    assert np.subtract(programs(), before).tolist() == [1, 2]


@pytest.mark.parametrize("prefill", [512, 2])  # in two slices, one of them padded
def test_sample_inside_a_jitted_function(prefill, monkeypatch):
    monkeypatch.setattr(loop, "PREFILL", prefill)
    model, params = subject.nano()
    prompts = np.array(
        [[0, 0, subject.BOS, 97], [subject.BOS, 97, 98, 99], [0, 0, 0, 0]]
    )
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    allowed = np.arange(subject.ROWS) < 256

    @jax.jit
    def rollout(params, key_data):
        draw = sampling.Draw(
            keys_B=jax.vmap(jax.random.key)(key_data),
            allowed_V=jnp.asarray(allowed),
            stops_V=jnp.zeros(subject.ROWS, bool),
            settings=sampling.settings(temperature=0.7),
        )
        return sampling.sample(model, params, prompts, mask, draw, max_tokens=6)

    out = rollout(params, jnp.array([5, 7, 9], jnp.uint32))
    options = dict(temperature=0.7, seeds=[5, 7, 0, 0], stop_ids=[])
    # Two more rows and more tokens, for the shape of other tests.
    rows = subject.generate(
        [[subject.BOS, 97], [subject.BOS, 97, 98, 99], "", "x" * 30], **options
    )[:2]
    assert out.length_B.tolist() == [6, 6, 0]
    assert out.done_B.tolist() == [False, False, True]
    assert out.tokens_BR[2].tolist() == [0] * 6 and not out.logps_BR[2].any()
    for i, row in enumerate(rows):
        assert out.tokens_BR[i].tolist() == row.ids[:6]
        np.testing.assert_allclose(out.logps_BR[i], row.logprobs[:6], atol=1e-5)
        model_logps = row.model_logprobs[:6]
        np.testing.assert_allclose(out.model_logps_BR[i], model_logps, atol=1e-5)


def test_buckets():
    sizes = collections.Counter(completions.bucket(n) for n in range(1, 1100))
    assert list(sizes) == [16, 32, 64, 128, 256, 512, 1024, 1536]

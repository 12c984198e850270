# SPDX-License-Identifier: Apache-2.0
"""Runs opened over a mesh of 8 devices compute what they compute on one."""

import pathlib

import jax
import numpy as np
import pytest

from alignjax import analysis, errors, trees
from alignjax.distributed import sharding

RUNS = pathlib.Path(__file__).resolve().parents[1] / "golden" / "runs"
MESH = {"fsdp": 4, "tensor": 2}
TOKENS = [[72, 101, 108, 108], [1, 2, 3, 4], [9, 8, 7, 6]]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Runs of adapters name their base relative to it."""
    monkeypatch.chdir(RUNS.parents[2])


@pytest.fixture(scope="module")
def sides():
    return [analysis.open_run(RUNS / "sft", mesh=mesh) for mesh in (None, MESH)]


def test_every_device_has_a_part(sides):
    one, many = (run.weights() for run in sides)
    for name, leaf in trees.named_leaves(many).items():
        np.testing.assert_array_equal(leaf, trees.named_leaves(one)[name])
    part = many["layers"]["q"]["kernel"].addressable_shards[0].data
    assert part.size * 8 == one["layers"]["q"]["kernel"].size


def test_logits_and_hidden_states(sides):
    one, many = sides
    np.testing.assert_allclose(many.logits(TOKENS), one.logits(TOKENS), atol=1e-5)
    np.testing.assert_allclose(many.logits(TOKENS[0]), one.logits(TOKENS[0]), atol=1e-5)
    layers = [run.hidden(TOKENS, every_layer=True) for run in sides]
    assert layers[1].shape == layers[0].shape == (3, 3, 4, 8)
    np.testing.assert_allclose(*layers, atol=1e-5)


def test_scores_beside_a_reference(sides):
    prompts, responses = ["how do i bake bread?"] * 3, ["mix it.", "no.", "ask her."]
    one, many = (run.score(prompts, responses, reference=RUNS / "dpo") for run in sides)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(b.logprobs, a.logprobs, atol=1e-5)
        for field in ("logp", "entropy", "ref_logp", "kl"):
            assert getattr(b, field) == pytest.approx(getattr(a, field), abs=1e-4)


def test_tokens_are_equal(sides):
    options = dict(max_tokens=12, temperature=0.8, samples=2)
    one, many = (run.generate(["He", "She said"], **options) for run in sides)
    for a, b in zip(one[0] + one[1], many[0] + many[1], strict=True):
        assert a.ids == b.ids
        np.testing.assert_allclose(b.logprobs, a.logprobs, atol=1e-5)


def test_adapters_and_rewards():
    for name in ("lora", "reward_model"):
        one, many = (analysis.open_run(RUNS / name, mesh=m) for m in (None, MESH))
        a, b = (run.score(["hi"], ["yes."])[0] for run in (one, many))
        np.testing.assert_allclose(b.logprobs, a.logprobs, atol=1e-5)
        if a.reward is not None:
            assert b.reward == pytest.approx(a.reward, abs=1e-5)


def test_a_mesh_may_be_made_elsewhere():
    mesh = sharding.make_mesh({"fsdp": 2}, jax.devices()[:2])
    run = analysis.open_run(RUNS / "sft", mesh=mesh)
    assert run.weights()["embed"].sharding.mesh == mesh


@pytest.mark.parametrize("mesh", [{"fsdp": 3}, {"rows": 8}, {"tensor": 8}])
def test_a_mesh_that_does_not_fit_is_refused(mesh):
    with pytest.raises(errors.ConfigError, match="mesh"):
        analysis.open_run(RUNS / "sft", mesh=mesh).weights()

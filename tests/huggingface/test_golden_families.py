# SPDX-License-Identifier: Apache-2.0
"""What transformers computed from tiny checkpoints of every family, computed here.

`tools/make_golden_huggingface.py` made tests/golden/huggingface; no torch is needed.
Rows are longer than the windows and than the context before rotary scaling.
"""

import functools
import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from alignjax import analysis, errors
from alignjax.huggingface import config_json
from tools.golden import cases, ours

ROOT = pathlib.Path(__file__).resolve().parents[1] / "golden/huggingface"
ALL = sorted(cases.CASES)
# Of logits of size 1 to 4, in float32; 1e-4 is what is promised.
CLOSE = 5e-5
# The others' gradients take as long to compile, and their parts are in these.
TAUGHT = {name for name, case in cases.CASES.items() if case.gradients} | {"gpt2"}
SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in ALL if n not in TAUGHT]
LOGPS, LOSS, GRADIENT = 5e-5, 1e-5, 5e-5


@functools.cache
def opened(name):
    return analysis.open_run(ROOT / name)


@functools.cache
def expected(name):
    return safetensors.numpy.load_file(ROOT / name / "expected.safetensors")


def test_every_family_has_a_golden_checkpoint_and_every_checkpoint_a_test():
    found = {file.parent.name for file in ROOT.glob("*/expected.safetensors")}
    assert found == set(ALL)
    types = {case.model_type for case in cases.CASES.values()}
    outside_text = {"gemma3"}  # has its text model's config inside of its own
    assert types == set(config_json.model_types()) - outside_text


def test_golden_checkpoints_stay_small():
    size = sum(file.stat().st_size for file in ROOT.rglob("*") if file.is_file())
    assert size < 3e6


@pytest.mark.parametrize("name", ALL)
def test_logits_are_those_of_transformers(name):
    want = expected(name)
    tokens = want["tokens"]
    got = opened(name).logits(tokens)
    np.testing.assert_allclose(
        got[:, want["positions"]], want["logits"], rtol=0, atol=CLOSE
    )
    np.testing.assert_allclose(
        ours.logprobs(got, tokens), want["logprobs"], rtol=0, atol=LOGPS
    )


@pytest.mark.parametrize("name", ALL)
def test_packed_documents_are_read_as_if_they_were_alone(name):
    want = expected(name)
    tokens, short = want["tokens"], want["tokens"][:, : cases.SHORT]
    got = ours.logits(opened(name), ours.packed([short, tokens, short]))
    S = cases.SHORT
    first, whole, last = got[:, :S], got[:, S:-S], got[:, -S:]
    for part in (first, last):
        np.testing.assert_allclose(part[:, -1], want["short"], rtol=0, atol=CLOSE)
    np.testing.assert_allclose(
        whole[:, want["positions"]], want["logits"], rtol=0, atol=CLOSE
    )


@pytest.mark.parametrize("name", ALL)
def test_greedy_tokens_from_the_cache_are_those_of_transformers(name):
    want = expected(name)
    prompts, generated = want["tokens"][:, : cases.PROMPT], want["generated"]
    run = opened(name)
    got = ours.greedy(run, prompts, generated.shape[1], ours.for_long_documents(run))
    np.testing.assert_array_equal(got, generated)


def test_rotations_that_go_by_length_are_refused_a_longer_cache():
    prompts = expected("phi3_longrope")["tokens"][:, : cases.PROMPT]
    with pytest.raises(errors.ConfigError, match="longrope"):
        ours.greedy(opened("phi3_longrope"), prompts, cases.GENERATED)


@pytest.mark.parametrize("name", [*sorted(TAUGHT), *SLOW])
def test_the_loss_and_its_gradients_are_those_of_transformers(name):
    want = expected(name)
    loss, gradients, metrics = ours.loss_and_gradients(opened(name), want["tokens"])
    assert abs(loss - want["loss"]) < LOSS
    norms = {k[5:]: v for k, v in want.items() if k.startswith("norm/")}
    assert set(gradients) == set(norms)
    for tensor, norm in norms.items():
        assert abs(np.linalg.norm(gradients[tensor]) - norm) < GRADIENT, tensor
    whole = {k[9:]: v for k, v in want.items() if k.startswith("gradient/")}
    assert bool(whole) == cases.CASES[name].gradients
    for tensor, gradient in whole.items():
        np.testing.assert_allclose(
            gradients[tensor], gradient, rtol=0, atol=GRADIENT, err_msg=tensor
        )
    assert ("router_loss" in want) == ("router/balance" in metrics)
    if "router_loss" in want:
        assert abs(metrics["router/balance"] - want["router_loss"]) < LOSS


def as_transformers_4(new: dict) -> dict:
    """The config.json as most of the hub's are, from before transformers 5."""
    old = {k: v for k, v in new.items() if k not in ("dtype", "rope_parameters")}
    old["torch_dtype"] = new["dtype"]
    ropes = new.get("rope_parameters")
    if ropes is None:
        return old
    if "full_attention" in ropes:
        old["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]
        ropes = ropes["full_attention"]
        del old["layer_types"]
        old["sliding_window_pattern"] = old.pop("_sliding_window_pattern")
    old["rope_theta"] = ropes["rope_theta"]
    old["rope_scaling"] = None
    if ropes["rope_type"] != "default":
        left = ("rope_theta", "partial_rotary_factor")
        old["rope_scaling"] = {k: v for k, v in ropes.items() if k not in left}
    if new["model_type"] == "phi3" and old["rope_scaling"]:
        del old["rope_scaling"]["original_max_position_embeddings"]
        old["rope_scaling"]["type"] = old["rope_scaling"].pop("rope_type")
    return old


@pytest.mark.parametrize("name", ALL)
def test_configs_of_both_generations_of_transformers_say_the_same(name):
    new = json.loads((ROOT / name / "config.json").read_text())
    family = config_json.family_of(new)
    old = as_transformers_4(new)
    assert config_json.read(old, family) == config_json.read(new, family)

# SPDX-License-Identifier: Apache-2.0
"""How long texts may be that a model reads outlives training on shorter ones."""

import json

import handmade
import pytest

from alignjax import analysis, errors, models
from alignjax.experiment import initial
from alignjax.experiment.sections import InitConfig
from alignjax.huggingface import config_json, save
from alignjax.models import families

LINEAR = dict(kind="linear", factor=4.0)


@pytest.fixture
def begun(tmp_path):
    """From a folder of 16 positions."""
    path = handmade.write(tmp_path / "x")
    return initial.find_run(InitConfig(run=str(path)), "init")


def complete(begun, **fields):
    return initial.inherit_model({"model": fields}, begun)["model"]


def said(section) -> int:
    c = models.build(section, 1).config
    hf = config_json.write(c, families.find("llama"))
    return json.loads(json.dumps(hf))["max_position_embeddings"]


def test_exports_say_the_context_that_the_model_came_with(begun, tmp_path):
    short = complete(begun, max_length=8)
    assert (short["max_length"], short["context"], said(short)) == (8, 16, 16)
    # And once more from that run, on texts of other lengths.
    after = analysis.open_run(begun.path)
    after.config["model"] = short
    assert complete(after)["context"] == said(complete(after, max_length=4)) == 16
    assert complete(after, max_length=16)["context"] is None
    assert said(complete(after, max_length=32)) == 32
    # The folder that is written has it.
    c = models.build(short, 1).config
    plan = save.plan(begun.leaves(), "llama", c)
    assert plan.json["max_position_embeddings"] == 16


def test_a_model_that_is_stretched_has_the_context_that_it_is_given(begun):
    assert said(complete(begun)) == 16
    assert said(complete(begun, max_length=8, rope_theta=2e4)) == 8
    assert said(complete(begun, max_length=8, rope_scaling=LINEAR)) == 8


def test_longer_texts_are_allowed_and_noted(begun):
    longer = models.build(complete(begun, max_length=64), 1).config
    assert initial.length_note(begun, longer).startswith(
        "model.max_length: 64, where the model"
    )
    stretched = complete(begun, max_length=64, rope_scaling=LINEAR)
    for section in (stretched, complete(begun), complete(begun, max_length=8)):
        assert initial.length_note(begun, models.build(section, 1).config) is None


def test_contexts_that_make_no_sense_are_refused():
    size = dict(family="llama", name="nano", vocab_size=9)
    with pytest.raises(errors.ConfigError, match="context: 8 is less than max_length"):
        models.build(dict(**size, context=8), 1)
    with pytest.raises(errors.ConfigError, match="context: 512 has no effect"):
        models.build(dict(**size, context=512, positions="learned"), 1)

# SPDX-License-Identifier: Apache-2.0
"""What the world's examples are trained on as, from a config to rows."""

import numpy as np
import pytest

from alignjax import errors, world
from alignjax.data import loader
from alignjax.data.chat import comparisons, format, templates
from alignjax.data.tokenizers import base

CONFIG = base.TokenizerConfig(kind="bytes", control_tokens=templates.CONTROL)
TOK = base.build(CONFIG, [], "unused")
COUNT = 60


def section(split):
    return dict(kind="world", split=split, preset="nano", documents=COUNT)


def build(place, split, data, **options):
    options = dict(validation_fraction=0.0, chat="roles", workers=1) | options
    if data != "text":
        options |= dict(long_documents="error", share_prompt=True)
    cfg = loader.DataConfig(sources={"world": section(split)}, **options)
    rows = dict(length=2048, seed=0, cache_dir=place, data=data)
    return loader.build(cfg, TOK, **rows)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("world")


def examples(split):
    options = section(split)
    options.pop("kind")
    return [example for _, example in world.load(**options).documents()]


@pytest.mark.parametrize(
    "split, data, count, values",
    [
        ("preferences", "pairs", COUNT, {"reward": 2, "probability": 1}),
        ("rankings", "rankings", COUNT, {"reward": 4}),
        ("rankings", "pairs", COUNT, {"reward": 2}),
        ("labels", "labels", COUNT, {"reward": 1, "desirable": 1}),
        ("preferences", "labels", 2 * COUNT, {"reward": 1, "desirable": 1}),
        ("labels", "ratings", COUNT, {"reward": 1, "target": 1}),
    ],
)
def test_examples_become_groups(place, split, data, count, values):
    built = build(place, split, data)
    fields = built.parts[0].tokens.fields
    found = {k: v[0].size for k, v in fields.items() if k in comparisons.VALUES}
    assert found == values
    assert built.parts[0].plan.manifest["kept"] == count
    first = examples(split)[0]
    rewards = getattr(first, "rewards", None) or (first.reward,)
    wanted = {"pairs": (rewards[0], rewards[-1]), "rankings": rewards}
    assert fields["reward"][0].tolist() == list(wanted.get(data, rewards[:1]))


def test_demonstrations_become_dialogues(place):
    data = build(place, "demonstrations", "text")
    rows = data.epoch_rows(np.arange(data.num_rows))
    trained = rows["targets"][rows["weights"] > 0].tolist()
    end, replies = TOK.control[templates.CONTROL[-1]], [[]]
    for token in trained:
        replies[-1].append(token)
        if token == end:
            replies.append([])
    found = sorted(format.of(TOK, "roles").text(ids) for ids in replies[:-1])
    # Of a dialogue of several turns each of the assistant's is trained.
    said = [
        text
        for example in examples("demonstrations")
        for role, text in example.turns
        if role == "assistant"
    ]
    assert found == sorted(said)


def test_a_labeler_decides_which_is_first():
    pairs = examples("preferences")
    for pair in pairs:
        assert pair.record.prompt == pair.prompt.turns
        assert pair.record.responses == (pair.chosen, pair.rejected)
        assert pair.record.values["probability"] == pair.probability
    assert any(pair.rewards[0] < pair.rewards[1] for pair in pairs)


def test_prompts_and_documents_are_no_dialogues(place):
    with pytest.raises(errors.DataError, match=r"prompts:0: a Prompt, which is noth"):
        build(place, "prompts", "pairs")
    with pytest.raises(errors.DataError, match=r"expected responses .* found Text"):
        build(place, "pretrain", "pairs")
    with pytest.raises(errors.DataError, match=r"expected responses .* found Chat"):
        build(place, "demonstrations", "pairs")
    with pytest.raises(errors.DataError, match=r"a Comparison, not plain text; say"):
        build(place, "preferences", "text", chat=None)

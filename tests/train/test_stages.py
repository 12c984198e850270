# SPDX-License-Identifier: Apache-2.0
"""Runs that start from another: fine-tuning, then preferences beside a reference."""

import json
import shutil

import jax
import numpy as np
import pytest
from stages import interrupted, refused, run, said, section

from alignjax import errors, train, trees
from alignjax.analysis import open_run
from alignjax.tracking import progress
from configs.pretrain import continued
from configs.smoke import dpo, pretrain, sft


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def base(folder):
    return run(folder, "base", pretrain, steps=8)


@pytest.fixture(scope="module")
def tuned(folder, base):
    return run(folder, "tuned", sft, **{"init.run": str(base.path)})


@pytest.fixture(scope="module")
def preferred(folder, tuned):
    return run(folder, "preferred", dpo, **{"init.run": str(tuned.path)})


def test_fine_tuning_goes_on_from_the_parameters_of_the_run_before(folder, base):
    again = {"init.run": str(base.path), "optimizer.learning_rate": 1e-12}
    still = run(folder, "still", sft, **again, **{"optimizer.weight_decay": 0.0})
    for name, leaf in trees.named_leaves(base.params()).items():
        np.testing.assert_allclose(
            leaf, trees.named_leaves(still.params())[name], atol=1e-6, err_msg=name
        )


def test_a_run_keeps_the_model_and_the_tokenizer_that_it_started_with(base, tuned):
    assert tuned.config["model"] == base.config["model"]
    assert tuned.tokenizer.identity == base.tokenizer.identity
    assert tuned.chats and not base.chats


def test_pretraining_goes_on_with_one_setting(folder, base):
    """On other text, with the model and the tokenizer that it was begun with."""
    (folder / "more.txt").write_text("\n\n".join(["the sea was blue " * 40] * 20))
    small = {"steps": 2, "batch_size": 8, "length": 32, "schedule.warmup_steps": 0}
    source = {"data.sources.text.path": str(folder / "more.txt")}
    start = {"init.run": str(base.path)}
    more = run(folder, "more", continued, **start, **source, **small)
    assert more.config["model"] == {**base.config["model"]}
    assert more.tokenizer.identity == base.tokenizer.identity
    assert more.metrics()[0]["loss"] < np.log(base.tokenizer.vocab_size) - 0.5
    # So does a config of the same model and tokenizer, which trains none.
    start |= {"schedule.warmup_steps": 0}
    same = run(folder, "same", pretrain, steps=1, **start)
    assert same.tokenizer.identity == base.tokenizer.identity
    assert same.metrics()[0]["loss"] < base.metrics()[0]["loss"]


def test_another_model_or_tokenizer_is_refused_whole_with_the_remedy(folder, base):
    other = {"model.d_model": 64, "model.layers": 3, "model.name": "1b"}
    other |= {"tokenizer.kind": "chars", "tokenizer.control_tokens": ["<a>"]}
    text = refused(folder, pretrain, **{"init.run": str(base.path)}, **other)
    for name in other:
        assert f"{name}: " in text and f"--config.{name}=none" in text, text
    start = {"init.run": str(base.path), "schedule.warmup_steps": 0}
    cleared = run(folder, "cleared", pretrain, steps=1, **dict.fromkeys(other), **start)
    assert cleared.tokenizer.identity == base.tokenizer.identity


def test_a_run_goes_on_with_other_batches_and_more_steps(folder, base):
    shutil.copytree(base.path, folder / "longer")
    more = {"steps": 11, "batch_size": 16}
    more["checkpoint.accept"] = ["steps", "batch_size"]
    rows = (after := run(folder, "longer", pretrain, **more)).metrics()
    assert [row["tokens"] for row in rows[6:]] == [1792, 2048, 2560, 3072, 3584]
    old, new = (rows[i]["learning_rate"] for i in (7, 8))
    assert old == base.metrics()[7]["learning_rate"] < new / 1.5
    (line,) = [line for line in said(after) if "the learning rate jumps" in line]
    assert f"{old:.3g}" in line and f"{new:.3g}" in line
    assert any("goes on with batch_size: 8 -> 16" in line for line in said(after))


def test_a_run_of_dialogues_replies(tuned):
    (found,) = tuned.reply(["what is two plus three?"], max_tokens=5)
    assert len(found.ids) <= 5
    ids = tuned.prompt_ids("what is two plus three?")
    control = tuned.tokenizer.control
    assert ids[0] == tuned.tokenizer.bos_id
    assert (ids[1], ids[-1]) == (control["<user>"], control["<assistant>"])
    assert tuned.prompt_ids((("user", "what is two plus three?"),)) == ids


def test_dpo_starts_at_log_two_and_its_reference_stays(tuned, preferred):
    rows = preferred.metrics()
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert rows[0]["loss/at_reference"] == pytest.approx(np.log(2))
    assert not any("loss/at_reference" in row for row in rows[1:])
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert preferred.meta()["data"]["reference"] == tuned.digest()


def test_a_store_gives_the_numbers_of_a_copy(folder, tuned, preferred):
    changes = {"init.run": str(tuned.path), "reference.store": True}
    stored = run(folder, "stored", dpo, **changes)
    for ours, theirs in zip(stored.metrics(), preferred.metrics(), strict=True):
        for name in ("loss", "grad_norm", "drift/chosen", "rewards/margins"):
            assert ours[name] == pytest.approx(theirs[name], abs=2e-4), name
    (log,) = [line for line in said(stored) if "train/world: computing" in line]
    assert "rows" in log
    # Another loss over the same data, packed otherwise, finds it all.
    other = {"objective.loss": "ipo", "data.pack": "none", "seed": 1, "steps": 2}
    found = run(folder, "found", dpo, **changes, **other)
    assert any("found in the store" in line for line in said(found))
    assert not any("computing" in line for line in said(found))
    assert found.metrics()[0]["loss"] == pytest.approx(25.0, rel=1e-3)  # 1/(4 beta^2)


def test_another_reference_misses_the_store(folder, base, tuned):
    names = {"init.run": str(tuned.path), "reference.store": True}
    other = run(
        folder, "other", dpo, steps=2, **names, **{"reference.run": str(base.path)}
    )
    assert any("computing" in line for line in said(other))
    # The policy is not its reference, and nobody says that it should be.
    assert other.metrics()[0]["loss"] != pytest.approx(np.log(2), abs=1e-3)


@pytest.mark.parametrize("store", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_store_is_of_the_model_that_the_policy_is(folder, tuned, store):
    """Where the config changes the model, both are computed by the changed one."""
    changes = {"init.run": str(tuned.path), "model.rope_theta": 500.0, "steps": 2}
    changes["reference.store"] = store
    first = run(folder, f"turned {store}", dpo, **changes).metrics()[0]
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)


def test_a_reference_of_another_model_is_refused(folder, base, tuned):
    """Its parameters would be read as those of the policy's model."""
    turned = {"init.run": str(base.path), "model.rope_theta": 500.0, "steps": 2}
    other = run(folder, "other model", sft, **turned)
    for store in (False, True):
        names = {"init.run": str(tuned.path), "reference.run": str(other.path)}
        text = refused(folder, dpo, **names, **{"reference.store": store})
        assert "reference.run" in text and "model.rope_theta = 500.0" in text
        assert "10000.0" in text


def test_a_spoiled_store_is_noticed_at_the_first_step(folder, tuned):
    names = {"init.run": str(tuned.path), "reference.store": True, "steps": 2}
    cache = {"cache_dir": str(folder / "spoiled")}
    run(folder, "before", dpo, **names, **cache)
    for file in (folder / "spoiled" / "reference").glob("*/logps.bin"):
        logps = np.memmap(file, np.float32, "r+")
        logps[::2] -= 0.5
        logps.flush()
    with pytest.raises(errors.ConfigError) as caught:
        train.train(section(dpo, folder, **names, **cache), folder / "after")
    text = str(caught.value)
    assert "loss of step 0" in text and "reference" in text


def test_a_part_is_trained_and_the_rest_is_read_from_where_it_was(folder, tuned):
    changes = {"init.run": str(tuned.path), "trainable": r"layers/mlp/.*"}
    part = run(folder, "part", dpo, **changes)
    trained = {n for n in part.meta()["leaves"] if n.startswith("params/")}
    assert trained and all(n.startswith("params/layers/mlp/") for n in trained)
    ours, theirs = (trees.named_leaves(r.params()) for r in (part, tuned))
    assert set(ours) == set(theirs)
    for name in ours:
        same = np.array_equal(ours[name], theirs[name])
        assert same == (f"params/{name}" not in trained), name
    assert part.metrics()[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert len(part.reply(["hello"], max_tokens=3)[0].ids) <= 3


def test_an_interrupted_run_goes_on_to_the_same_parameters(folder, tuned, preferred):
    changes = {"init.run": str(tuned.path)}
    resumed = interrupted(folder, "resumed", dpo, at=4, **changes)
    same = jax.tree.map(np.array_equal, preferred.params(), resumed.params())
    assert all(jax.tree.leaves(same))
    whole, parts = ([row["pairs"] for row in r.metrics()] for r in (preferred, resumed))
    assert whole == parts == sorted(whole) and 0 < whole[0] < whole[-1]
    log = said(resumed)
    assert any(f"{progress.short(whole[-1])} pairs" in line for line in log)
    assert any("model: llama/nano, " in line for line in log)


def test_a_run_that_has_moved_still_counts_as_the_same(folder, tuned):
    moved = folder / "moved"
    tuned.path.rename(moved)
    try:
        c = section(dpo, folder, **{"init.run": str(moved)})
        assert train.train(c, folder / "preferred") == errors.DONE
    finally:
        moved.rename(tuned.path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"init.run": "nowhere"}, ["init.run", "nowhere"]),
        ({"init.step": 3}, ["init.step", "3"]),
        ({"init.run": None}, ["tokenizer.kind", "init.run"]),
        ({"trainable": "nothing"}, ["trainable", "nothing"]),
        ({"trainable": "("}, ["trainable", "'('"]),
        ({"model.d_ff": 128}, ["model.d_ff: 128", "64", "--config.model.d_ff=none"]),
        ({"objective.loss": "dpoo"}, ["dpoo", "dpo"]),
        ({"objective.penalty": 2.0}, ["objective.penalty", "dpo"]),
        (
            {"objective.loss": "simpo", "reference.store": True},
            ["reference.store: True", "'simpo'", "leave it out"],
        ),
        ({"model.lora_rank": 4}, ["trainable: '.*'", "lora_rank = 4", "lora_[abm]"]),
    ],
)
def test_is_refused(folder, tuned, changes, words):
    changes = {"init.run": str(tuned.path), **changes}
    if "init.step" in changes:
        changes["init.run"] = None
    text = refused(folder, dpo, **changes)
    for word in words:
        assert word in text, text


def test_a_reference_of_another_tokenizer_is_refused(folder, tuned):
    other = {"tokenizer.control_tokens": ["<a>"], "steps": 4}
    other = run(folder, "other_tokens", pretrain, **other)
    changes = {"init.run": str(tuned.path), "reference.run": str(other.path)}
    assert "tokenizer" in refused(folder, dpo, **changes)


def test_the_rest_of_a_part_is_found_in_a_run_that_trained_on(folder, tuned):
    changes = {"init.run": str(tuned.path), "trainable": r"layers/mlp/.*", "steps": 2}
    part = run(folder, "early", dpo, **changes, **{"init.step": 4})
    file = part.path / "config.json"
    c = json.loads(file.read_text())
    c["init"]["step"] = None  # as if step 4 had been the newest at that time
    file.write_text(json.dumps(c))
    assert tuned.steps == [4, 8]
    found, expected = open_run(part.path).params(), tuned.params(4)
    np.testing.assert_array_equal(found["embed"], expected["embed"])
    assert not np.array_equal(found["embed"], tuned.params()["embed"])


def test_the_rest_of_a_part_has_to_be_what_it_was(folder, tuned, base):
    changes = {"init.run": str(tuned.path), "trainable": r"layers/mlp/.*", "steps": 2}
    part = run(folder, "orphan", dpo, **changes)
    c = json.loads((part.path / "config.json").read_text())
    c["init"]["run"] = str(base.path)
    (part.path / "config.json").write_text(json.dumps(c))
    with pytest.raises(errors.CheckpointError, match="other parameters"):
        open_run(part.path).params()

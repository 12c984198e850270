# SPDX-License-Identifier: Apache-2.0
"""Where a reference comes from changes no number: a copy, the base under adapters, a
store. And one that moves goes on from a checkpoint as if nothing had been."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stages import interrupted, refused, run, said, section

from alignjax import models, trees, types
from alignjax.analysis import forward
from alignjax.distributed import sharding
from alignjax.experiment import build, initial
from alignjax.models import lora
from configs.smoke import dpo, pretrain, sft

ADAPTERS = {"trainable": lora.TRAINABLE, "model.lora_rank": 4}
FAST = {"optimizer.learning_rate": 3e-3}
EVALUATED = {"evaluation.every": 4}
TIMING = {"time", "tokens_per_second", "mfu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("references")


@pytest.fixture(scope="module")
def tuned(folder):
    base = run(folder, "base", pretrain, steps=4)
    asked = {"init.run": str(base.path), "steps": 4}
    return run(folder, "tuned", sft, **asked)


@pytest.fixture(scope="module")
def adapted(folder, tuned):
    """DPO of adapters, whose reference is the model without them."""
    return run(folder, "adapted", dpo, **start(tuned), **EVALUATED)


def start(opened, **changes):
    return {"init.run": str(opened.path), **ADAPTERS, **FAST, **changes}


def learned(rows) -> bool:
    """Whether the policy is no longer its reference, and better."""
    return min(row["loss"] for row in rows) < np.log(2) - 0.02


def assert_same_numbers(found, expected):
    """Of every step, and of the evaluations."""
    assert len(found.metrics()) == len(expected.metrics()) == 8
    for ours, theirs in zip(found.metrics(), expected.metrics(), strict=True):
        # No store can tell the distance of whole distributions.
        assert ours.keys() ^ theirs.keys() <= {"eval/kl/reference"}
        for name in (ours.keys() & theirs.keys()) - TIMING:
            # Rewards and drifts are differences of sums over a hundred tokens.
            tolerance = 1e-5 if "loss" in name else 1e-4
            assert ours[name] == pytest.approx(theirs[name], abs=tolerance), name


def first_of(folder, opened, **changes):
    """What a run would read and never change."""
    built = build.build(section(dpo, folder, **start(opened, **changes)))
    with sharding.use(built.mesh, built.rules):
        return built.weights.frozen()


def test_the_base_is_no_second_copy(folder, tuned):
    frozen = first_of(folder, tuned)
    theirs = trees.named_leaves(frozen.reference)
    ours = trees.named_leaves(frozen.base)
    assert not any("lora" in name for name in ours)
    assert all(theirs[name] is leaf for name, leaf in ours.items())
    rest = theirs.keys() - ours.keys()
    assert rest and all("/lora_" in name for name in rest)


@pytest.mark.slow
def test_the_base_gives_the_numbers_of_a_copy(folder, tuned, adapted, monkeypatch):
    rows = adapted.metrics()
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert learned(rows)

    before = initial.InitialWeights.frozen

    def copied(self):
        plain = lora.strip(before(self).reference)
        return types.Frozen(before(self).base, jax.tree.map(jnp.copy, plain))

    monkeypatch.setattr(initial.InitialWeights, "frozen", copied)
    assert_same_numbers(
        run(folder, "copied", dpo, **start(tuned), **EVALUATED), adapted
    )


@pytest.mark.slow
def test_the_base_gives_the_numbers_of_a_store(folder, tuned, adapted):
    asked = start(tuned, **{"reference.store": True})
    stored = run(folder, "stored", dpo, **asked, **EVALUATED)
    assert any("computing" in line for line in said(stored))
    assert first_of(folder, tuned, **{"reference.store": True}).reference is None
    assert_same_numbers(stored, adapted)


def test_adapters_are_all_that_is_saved_and_the_run_opens_whole(tuned, adapted):
    leaves = adapted.meta()["leaves"]
    saved = [name for name in leaves if name.startswith("params/")]
    assert saved and all("/lora_" in name for name in saved)
    moments = [n for n, x in leaves.items() if n.startswith("train/") and x["shape"]]
    assert moments and all("/lora_" in name for name in moments)
    whole = trees.named_leaves(adapted.params())
    for name, leaf in trees.named_leaves(tuned.params()).items():
        np.testing.assert_array_equal(whole[name], leaf)
    (reply,) = adapted.reply(["hello"], max_tokens=3, temperature=0.0)
    (text,) = adapted.generate(["the "], max_tokens=3, temperature=0.0)
    assert 0 < len(reply.ids) <= 3 and 0 < len(text.ids) <= 3


def test_a_checkpoint_takes_the_bytes_of_adapters(tuned, adapted):
    size = lambda opened: sum(
        path.stat().st_size
        for path in (opened.directory / str(opened.steps[-1])).rglob("*")
        if path.is_file()
    )
    numbers = trees.count(trees.partition(lora.TRAINABLE, adapted.params())[0])
    # The adapters and two moments of each, and a little for what they are called.
    assert 3 * 4 * numbers < size(adapted) < 3 * 4 * numbers + 2**18
    assert size(adapted) < size(tuned) / 2


def test_merged_it_is_a_plain_model_that_says_the_same(tuned, adapted):
    c = adapted.config["model"]
    plain = models.build({**c, "lora_rank": 0}, adapted.tokenizer.vocab_size)
    merged = lora.merge(adapted.params(), adapted.model.config)
    assert merged.keys() == tuned.params().keys()
    assert not any("lora" in name for name in trees.named_leaves(merged))
    tokens = np.arange(24)[None]
    rows = types.Sequences(
        inputs=tokens,
        targets=tokens,
        weights=np.ones_like(tokens),
        segment_ids=np.ones_like(tokens),
        positions=tokens,
    )
    logits = jax.jit(lambda p: plain.unembed(p, plain.hidden(p, rows)))
    found, expected = logits(merged), adapted.logits(tokens)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(expected - tuned.logits(tokens)).max() > 1e-2


@pytest.mark.slow
def test_adapters_go_on_from_adapters(folder, tuned):
    """The reference then has those of the run before."""
    before = run(folder, "sft_adapters", sft, **start(tuned))
    again = {"init.run": str(before.path), "trainable": lora.TRAINABLE, **FAST}
    after = run(folder, "dpo_adapters", dpo, **again)
    assert after.config["model"]["lora_rank"] == 4
    frozen, whole = first_of(folder, before), trees.named_leaves(before.params())
    for name, leaf in trees.named_leaves(frozen.reference).items():
        np.testing.assert_array_equal(leaf, whole[name], err_msg=name)
    rows = after.metrics()
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert learned(rows)
    kernels = trees.named_leaves(tuned.params())
    for name, leaf in trees.named_leaves(after.params()).items():
        expected = kernels.get(name)
        if expected is None:
            assert not np.array_equal(leaf, whole[name]), name
        else:
            np.testing.assert_array_equal(leaf, expected)
    text = refused(folder, dpo, **again, **{"model.lora_rank": 2})
    assert "model.lora_rank: 2 here, 4 in init.run" in text
    text = refused(folder, dpo, **{"init.run": str(before.path), "model.lora_rank": 0})
    assert "model.lora_rank: 0 here, 4 in init.run" in text


BASES = {
    "nf4": {"model.base": "nf4", "reference.store": True},
    "int8": {"model.base": "int8", "model.lora_dora": True},
}


@pytest.fixture(scope="module", params=sorted(BASES))
def narrow(request, folder, tuned):
    """DPO of adapters on a base in fewer bits, which is the reference too."""
    asked = start(tuned, **BASES[request.param])
    return request.param, run(folder, f"narrow {request.param}", dpo, **asked)


@pytest.mark.slow
def test_the_base_in_fewer_bits_is_the_reference(folder, tuned, narrow):
    kind, opened = narrow
    rows = opened.metrics()
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert learned(rows)
    (line,) = [line for line in said(opened) if "kept as" in line]
    assert f"kept as {kind}" in line
    frozen = first_of(folder, tuned, **BASES[kind])
    ours = trees.named_leaves(frozen.base)
    assert sum(f"kernel_{kind}" in name for name in ours) == 7
    assert not any(name.endswith("/kernel") for name in ours)
    if kind == "int8":  # nothing is there twice
        theirs = trees.named_leaves(frozen.reference)
        assert all(theirs[name] is leaf for name, leaf in ours.items())
    else:
        assert any("computing" in line for line in said(opened))


@pytest.mark.slow
def test_a_run_on_such_a_base_opens_as_what_it_trained(folder, tuned, narrow):
    """Logits and the checkpoint's are those of training, from either side."""
    kind, opened = narrow
    again = build.build(section(dpo, folder, **start(tuned, **BASES[kind])))
    tokens = np.arange(24)[None]
    rows = forward.rows(again.model, tokens)
    with sharding.use(again.mesh, again.rules):
        base = again.weights.frozen().base
        trained, _ = trees.partition(lora.TRAINABLE, opened.params())
        logits = jax.jit(lambda p: again.model.unembed(p, again.model.hidden(p, rows)))
        expected = logits(trees.merge(trained, base))
    np.testing.assert_allclose(opened.logits(tokens), expected, atol=1e-5)
    plain = lora.strip(opened.params())
    rounded = trees.named_leaves(plain)["layers/mlp/up/kernel"]
    before = trees.named_leaves(tuned.params())["layers/mlp/up/kernel"]
    assert 0 < np.abs(rounded - before).max() < 0.2 * np.abs(before).max()
    for name, leaf in opened.leaves().items():
        whole = trees.named_leaves(opened.params())[name]
        np.testing.assert_array_equal(np.asarray(leaf[...]), whole, err_msg=name)
    # The next run that keeps its base so has the very same one.
    after = {"init.run": str(opened.path), "trainable": lora.TRAINABLE, **FAST}
    built = build.build(section(dpo, folder, **after))
    assert built.model.config.base == kind
    with sharding.use(built.mesh, built.rules):
        kept = trees.named_leaves(built.weights.frozen().base)
    for name, leaf in trees.named_leaves(base).items():
        np.testing.assert_array_equal(kept[name], leaf, err_msg=name)


def test_a_base_in_fewer_bits_that_is_trained_is_refused(folder, tuned):
    asked = {"init.run": str(tuned.path), "model.base": "nf4"}
    text = refused(folder, dpo, **asked)
    assert "model.base: 'nf4'" in text and "trainable = '.*'" in text
    asked = {"model.lora_dora": True, "trainable": r".*/lora_[ab]"}
    text = refused(folder, dpo, **start(tuned, **asked))
    assert "lora_m" in text


@pytest.mark.slow
def test_dropout_of_the_run_before_is_said_to_leave_the_check_out(folder, tuned):
    noisy = run(
        folder, "noisy", sft, **start(tuned, **{"model.lora_dropout": 0.1, "steps": 2})
    )
    asked = {"init.run": str(noisy.path), "trainable": lora.TRAINABLE, **FAST}
    after = run(folder, "after noisy", dpo, steps=3, **asked)
    (line,) = [line for line in said(after) if "step 0 is not checked" in line]
    assert "model.lora_dropout = 0.1" in line and "init.run" in line


MOVES = {
    "soft": {
        "reference.update_every": 2,
        "reference.update_share": 0.6,
        "trainable": "layers/mlp/.*",
        **EVALUATED,
    },
    "hard": {"reference.update_every": 3, **ADAPTERS},
}


@pytest.mark.slow
@pytest.mark.parametrize("move", sorted(MOVES))
def test_a_reference_that_moves_is_saved(folder, tuned, move):
    asked = {"init.run": str(tuned.path), **FAST, **MOVES[move]}
    whole = run(folder, f"whole {move}", dpo, **asked)
    resumed = interrupted(folder, f"resumed {move}", dpo, at=4, **asked)
    rows, again = whole.metrics(), resumed.metrics()
    for ours, theirs in zip(rows, again, strict=True):
        for name in ours.keys() - TIMING:
            assert ours[name] == theirs[name], name
    kept = [
        name.removeprefix("train/")
        for name in whole.meta()["leaves"]
        if name.startswith("train/") and "/reference/params/" in name
    ]
    trained = [n for n in whole.meta()["leaves"] if n.startswith("params/")]
    assert len(kept) == len(trained)
    for name in kept:
        ours, theirs = (r.leaf(name, item="train") for r in (whole, resumed))
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    every = MOVES[move]["reference.update_every"]
    at_start = [row["drift/chosen"] == pytest.approx(0, abs=1e-4) for row in rows]
    copies = MOVES[move].get("reference.update_share") is None
    assert at_start == [i == 0 or (copies and i % every == 0) for i in range(8)]
    assert any(f"every {every} updates" in line for line in said(whole))


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"reference.update_every": 0}, ["reference.update_every", "at least 1"]),
        (
            {"reference.update_share": 0.5},
            ["reference.update_share", "set update_every"],
        ),
        (
            {"reference.update_every": 1, "reference.update_share": 1.5},
            ["reference.update_share", "1.5", "(0, 1]"],
        ),
        (
            {"reference.update_every": 1, "reference.update_share": 0.0},
            ["reference.update_share", "0.0", "(0, 1]"],
        ),
        (
            {"reference.update_every": 4, "reference.store": True},
            ["reference.store", "update_every = 4"],
        ),
        (
            {"reference.update_every": 4, "objective.loss": "simpo"},
            ["reference.update_every: 4", "'simpo'", "no reference"],
        ),
        (
            {"reference.update_every": 1, "reference.update_share": 0.6, **ADAPTERS},
            ["reference.update_share", "0.6", "lora_a"],
        ),
        (
            {"reference.update_every": 4, "reference.run": "base"},
            ["reference.run", "init.run", "update_every"],
        ),
    ],
    ids=str,
)
def test_a_reference_that_cannot_move_so_is_refused(folder, tuned, changes, words):
    changes = {"init.run": str(tuned.path), **changes}
    if "reference.run" in changes:
        changes["reference.run"] = str(folder / changes["reference.run"])
    text = refused(folder, dpo, **changes)
    for word in words:
        assert word in text, text

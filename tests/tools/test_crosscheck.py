# SPDX-License-Identifier: Apache-2.0
"""The comparison with TRL: its list of cases, its maps, and TRL itself where it is."""

import jax
import numpy as np
import pytest

from alignjax import objectives
from alignjax.losses import catalogue
from tools import crosscheck_trl, pair_batches
from tools.crosscheck import alignjax_side, cases, comparison, task, weights

KINDS = (*catalogue.CATALOGUE.values(), catalogue.POLICY_GRADIENT)
LOSSES = {name for kind in KINDS for name in kind}


def test_cases_name_losses_and_metrics_that_there_are():
    assert len(cases.CASES) > 50
    for case in cases.CASES:
        assert set(cases.losses(case)) <= LOSSES
        assert set(case.metrics) <= set(comparison.METRICS[case.trainer])


def test_cases_are_objectives_that_can_be_built():
    language, scores = weights.model(), weights.model(score_heads=1)
    for case in cases.CASES:
        model = scores if case.trainer == "reward" else language
        objectives.build(model, dict(case.ours))
        if case.less:
            objectives.build(model, {**case.ours, **case.less[1]})


def test_every_variant_of_trls_agrees_with_trl():
    agreeing = {n for c in cases.CASES if c.why is None for n in cases.losses(c)}
    variants = {name for name in LOSSES if name.endswith("_trl")}
    assert variants and variants <= agreeing


def test_what_is_compared_is_not_also_said_to_be_without_a_counterpart():
    left = crosscheck_trl.uncompared(cases.CASES)
    assert "dpo" not in left and "simper" in left
    assert set(left) <= LOSSES


def result(loss=1.0, gradient=1.0, metrics=0.5):
    names = comparison.METRICS["dpo"].values()
    return alignjax_side.Result(
        loss, {"x": np.full(2, gradient)}, dict.fromkeys(names, metrics)
    )


CASE = cases.Case("dpo", {}, {"name": "preference", "loss": "dpo"})
MEANT = CASE._replace(why="another equation")


@pytest.mark.parametrize(
    ("case", "theirs", "fault"),
    [
        (CASE, result(), None),
        (CASE, result(loss=1.0001), "differs: loss or gradient"),
        (CASE, result(gradient=1.0001), "differs: loss or gradient"),
        (CASE, result(loss=np.nan), "differs: loss or gradient"),
        (CASE, result(metrics=0.4), "metric entropy differs"),
        (MEANT, result(loss=2.0), None),
        (MEANT, result(loss=np.nan), None),
        (MEANT, result(), "agrees, though listed"),
        (CASE._replace(metrics={"entropy": "?"}), result(), "metric entropy agrees"),
    ],
)
def test_faults_are_differences_that_are_not_meant(case, theirs, fault):
    faults = comparison.compare(case, result(), theirs).faults
    if fault is None:
        assert faults == ()
    else:
        assert any(fault in found for found in faults), faults


def test_a_trainer_that_fails_is_a_difference():
    nothing = alignjax_side.Result(np.nan, {}, {})
    assert comparison.compare(CASE, result(), nothing, "RuntimeError: no").faults
    assert not comparison.compare(MEANT, result(), nothing, "RuntimeError: no").faults


def test_weights_go_by_transformers_names():
    model = weights.model(score_heads=1)
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda x: draw(size=x.shape), weights.shapes(model))
    named = weights.to_transformers(params)
    assert sum(x.size for x in named.values()) == sum(
        x.size for x in jax.tree.leaves(params)
    )
    o_NHD = params["layers"]["o"]["kernel"][1]
    assert named["model.layers.1.self_attn.o_proj.weight"][3, 8 + 5] == o_NHD[1, 5, 3]
    k_DKH = params["layers"]["k"]["kernel"][0]
    assert named["model.layers.0.self_attn.k_proj.weight"][8 + 2, 7] == k_DKH[7, 1, 2]
    assert named["score.weight"].shape == (1, task.SIZES["d_model"])


@pytest.mark.parametrize("layout", pair_batches.LAYOUTS)
def test_batches_have_every_token_of_the_pairs(layout):
    pairs = task.pairs()
    batch = alignjax_side.of_pairs(pairs, layout)
    targets = np.concatenate([(*p.chosen, *p.rejected) for p in pairs])
    assert sorted(batch.sequences.targets[batch.responses > 0]) == sorted(targets)
    assert batch.weights.sum() == len(pairs)
    assert np.sort(batch.values["margin"][batch.weights > 0]) == pytest.approx(
        sorted(p.margin for p in pairs)
    )


def test_padded_batches_give_the_ids_back():
    pairs = task.pairs()
    found = pair_batches.of_batch(alignjax_side.of_pairs(pairs))
    assert found == [(list(p.prompt), list(p.chosen), list(p.rejected)) for p in pairs]


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="length 3"):
        pair_batches.batch([((1, 2), (3, 4, 5), (6,))], "padded", 3)


def test_mismatched_responses_are_other_prompts():
    pairs = task.pairs()
    rows = task.labelled(pairs)
    assert len({row.desirable for row in rows}) == 2
    for i, row in enumerate(rows):
        assert row.mismatched == rows[i - 1].response
        assert row.response in (pairs[i].chosen, pairs[i].rejected)


@pytest.mark.slow
def test_trl_agrees():
    pytest.importorskip("trl", reason="needs torch, transformers and trl")
    rows = crosscheck_trl.run(cases.QUICK, layout="shared")
    assert [row.faults for row in rows] == [()] * len(cases.QUICK)
    assert {row.case.why is None for row in rows} == {True, False}

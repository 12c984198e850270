# SPDX-License-Identifier: Apache-2.0
"""The report of a sweep from stored rows: its numbers, and what it does not hide."""

import csv
import dataclasses
import html.parser
import itertools
import json

import numpy as np
import pytest
from pyarrow import parquet

from alignjax import errors
from alignjax.ablation import claim, report, results, states, sweep_file, tuning
from alignjax.evals import compare
from tests.ablation import made_up

GAPS = {"dpo": 0.2, "ipo": 0.6, "kto": 0.2}


class Benchmark:
    """All that the report asks of one."""

    digest = made_up.SUITE


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    made = made_up.plan(metric="gold", kl=0.3, margin=0.1)
    claim.write(folder, made.sweep.claim, 3, made.arms, begun=False)
    made_up.write(folder, made, GAPS)
    return folder, made


def test_comparisons_are_those_of_compare_with_the_yardstick(done):
    folder, made = done
    out = results.collect(made, folder, made_up.SUITE)
    ipo, kto = out.comparisons
    pair = [results.arm_of(out.outcomes, name, "gold") for name in ("dpo", "ipo")]
    direct = compare.compare(*pair, margin=0.1)
    for field in ("estimate", "low", "high", "p", "aa", "mde"):
        assert ipo[field] == direct[field], field
    assert ipo["low"] > 0 and ipo["estimate"] == pytest.approx(0.4, abs=0.1)
    assert ipo["interval"] == "runs" and ipo["paired"]
    assert ipo["at_kl"]["kl"] == 0.3 and ipo["non_inferior"]["p"] < 0.05
    assert abs(kto["estimate"]) < 0.1 and kto["p_adjusted"] >= kto["p"]
    assert out.halves["gold"] == ipo["aa"]
    assert {f["slice"] for f in out.slices} == {"eval_a", "eval_b"}
    drift = next(f for f in out.secondary if f["metric"] == "eval/drift/chosen")
    assert drift["estimate"] == pytest.approx(0.0)
    assert not out.gaps


def test_tables_and_the_page_are_of_the_same_numbers(done):
    folder, made = done
    lines = report.write(made, folder, Benchmark)
    assert lines[-1].startswith("the report: ")
    with open(folder / "tables" / "comparisons.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows if row["kind"] == "claim"] == ["ipo", "kto"]
    assert all(row["p"] == "" for row in rows if row["kind"] == "secondary")
    table = parquet.read_table(folder / "tables" / "comparisons.parquet").to_pylist()
    assert [float(row["estimate"]) for row in rows] == [r["estimate"] for r in table]
    arms = parquet.read_table(folder / "tables" / "arms.parquet").to_pylist()
    assert [arm["responses"] for arm in arms] == [160, 160, 160]  # pairs are two
    page = (folder / "report.html").read_text()
    html.parser.HTMLParser().feed(page)
    assert "<script" not in page and "width=device-width" in page
    assert f"{float(rows[0]['estimate']):+.3f}" in page
    assert "before the first run began" in page
    assert page.count("A/A: two halves of dpo") >= 4
    for name in ("outcome", "frontier", "displacement", "length", "time"):
        assert f'id="{name}"' in page, name


def test_an_arm_that_diverged_is_shown_and_not_averaged(tmp_path):
    made = made_up.plan()
    made_up.write(tmp_path, made, GAPS, diverged=["ipo_1-00000001"])
    out = results.collect(made, tmp_path, made_up.SUITE)
    ipo, kto = out.comparisons
    assert "estimate" not in ipo and "1 of 3 runs of ipo diverged" in ipo["note"]
    assert "estimate" in kto and kto["family"] == 1
    assert any("ipo_1" in gap and "not finite" in gap for gap in out.gaps)
    report.write(made, tmp_path, Benchmark)
    page = (tmp_path / "report.html").read_text()
    assert "diverged, exit code 77" in page and "No claim was written" in page
    with open(tmp_path / "tables" / "runs.csv") as file:
        states_of = [row["state"] for row in csv.DictReader(file)]
    assert states_of.count("diverged") == 1 and states_of.count("done") == 8


def test_a_baseline_that_diverged_leaves_nothing_to_claim(tmp_path):
    made = made_up.plan()
    made_up.write(tmp_path, made, GAPS, diverged=["dpo_0-00000000"])
    out = results.collect(made, tmp_path, made_up.SUITE)
    assert all("diverged" in fields["note"] for fields in out.comparisons)


TRIED = {"dpo_a": 0.1, "dpo_b": 0.6, "dpo_c": 0.3, "ipo": 0.5}


def tried(**fields) -> sweep_file.Plan:
    """Three settings of one loss, and one of another."""
    made = made_up.plan(arms=tuple(TRIED), **fields)
    betas = {arm: {"objective.beta": i} for i, arm in enumerate(TRIED)}
    losses = {arm: {"objective.loss": arm.partition("_")[0]} for arm in TRIED}
    return made._replace(settings={arm: losses[arm] | betas[arm] for arm in TRIED})


def test_the_best_of_k_settings_is_over_all_subsets(tmp_path):
    made = tried()
    made_up.write(tmp_path, made, TRIED)
    lines = report.write(made, tmp_path, Benchmark)
    table = parquet.read_table(tmp_path / "tables" / "tuning.parquet").to_pylist()
    out = results.collect(made, tmp_path, made_up.SUITE)
    means = {r["arm"]: r["mean"] for r in results.arm_rows(out, made.arms)}
    worth = [means[arm] for arm in TRIED if arm.startswith("dpo")]
    best = {r["k"]: r["best"] for r in table if r["loss"] == "dpo"}
    for k in (1, 2, 3):
        subsets = [max(x) for x in itertools.combinations(worth, k)]
        assert best[k] == pytest.approx(np.mean(subsets)), k
    (one,) = (r for r in table if r["loss"] == "ipo")
    assert (one["settings"], one["k"]) == (1, 1)
    assert one["best"] == pytest.approx(means["ipo"]) and one["luck"] == 0
    (line,) = (x for x in lines if x.startswith("dpo: 3 settings tried"))
    assert f"{best[2]:.3f} of 2, {best[3]:.3f} of 3" in line
    page = (tmp_path / "report.html").read_text()
    assert "How much was tried" in page and f"{best[2]:.3f}" in page
    # One setting a loss was tuned by nobody; other data are no settings.
    assert not tuning.rows(made_up.plan(), out._replace(outcomes=[]))
    varied = made._replace(sweep=dataclasses.replace(made.sweep, varies=("data",)))
    assert not tuning.rows(varied, out)


def test_a_setting_that_diverged_was_tried_too(tmp_path):
    made = tried()
    made_up.write(tmp_path, made, TRIED, diverged=["dpo_b_1-00000001"])
    out = results.collect(made, tmp_path, made_up.SUITE)
    means = {r["arm"]: r["mean"] for r in results.arm_rows(out, made.arms)}
    rows = [r for r in tuning.rows(made, out) if r["loss"] == "dpo"]
    worst = min(means[arm] for arm in ("dpo_a", "dpo_c", "ipo"))
    assert rows[0]["diverged"] == 1
    expected = (means["dpo_a"] + means["dpo_c"] + worst) / 3
    assert rows[0]["best"] == pytest.approx(expected)
    assert rows[2]["best"] == pytest.approx(max(means["dpo_a"], means["dpo_c"]))


def test_of_a_loss_less_is_better(tmp_path):
    made = tried(metric="eval/loss")
    made_up.write(tmp_path, made, TRIED)
    for run in made.runs:
        path = tmp_path / run.folder / "metrics.jsonl"
        row = {"step": made_up.STEPS, "eval/loss": TRIED[run.arm]}
        path.write_text(f"{json.dumps(row)}\n")
    out = results.collect(made, tmp_path, made_up.SUITE)
    best = [r["best"] for r in tuning.rows(made, out) if r["loss"] == "dpo"]
    assert best == pytest.approx([1 / 3, (0.1 + 0.1 + 0.3) / 3, 0.1])


def test_figures_of_training_are_compared_too_and_one_run_says_little(tmp_path):
    made = made_up.plan(metric="eval/drift/chosen")
    made_up.write(tmp_path, made, GAPS)
    out = results.collect(made, tmp_path, None)
    assert out.comparisons[0]["interval"] == "runs"
    one = made_up.plan(seeds=1, metric="eval/drift/chosen")
    out = results.collect(one, tmp_path, None)
    assert "low" not in out.comparisons[0] and "one run" in out.comparisons[0]["note"]
    # The other runs of the folder are not of the file any more, and it says so.
    assert any("6 runs of the folder" in gap for gap in out.gaps)


def test_runs_without_a_reference_have_a_drift_from_the_start(tmp_path):
    made = made_up.plan()
    made_up.write(tmp_path, made, GAPS)
    figures = {
        "dpo": {"eval/logps/chosen": -6.0, "eval/drift/chosen": -1.0},
        "ipo": {"eval/logps/chosen": -4.5, "eval/drift/chosen": "NaN"},
        "kto": {"eval/logps/desirable": -7.0, "eval/drift/desirable": -2.0},
    }
    for run in made.runs:
        row = {"step": made_up.STEPS, "tokens": 1, **figures[run.arm]}
        path = tmp_path / run.folder / "metrics.jsonl"
        path.write_text(f"{json.dumps(row)}\n")
    out = results.collect(made, tmp_path, made_up.SUITE)
    drifts = {o.run.arm: o.row["drift_chosen"] for o in out.outcomes}
    assert drifts == {"dpo": -1.0, "ipo": 0.5, "kto": -2.0}


def test_answers_to_other_prompts_are_refused(done):
    folder, made = done
    with pytest.raises(errors.DataError):
        results.collect(made, folder, "other")


def test_times_of_attempts_add_up_and_broken_lines_are_named(tmp_path):
    states.append(tmp_path, "a", "running")
    states.append(tmp_path, "a", "interrupted", seconds=2.0)
    states.append(tmp_path, "a", "running")
    states.append(tmp_path, "a", "done", seconds=3.0)
    record = states.read(tmp_path)["a"]
    assert record["seconds"] == 5.0 and record["state"] == "done"
    assert np.isfinite(record["began"])
    whole = (tmp_path / states.FILE).read_text()
    for fields in (
        {"state": "lost"},
        {"time": None},
        {"time": "now"},
        {"seconds": "2"},
        {"seconds": float("inf")},
        {"code": []},
        {"error": {}},
        {"state": ["done"]},
    ):
        line = {"run": "a", "state": "running", "time": 1.0} | fields
        (tmp_path / states.FILE).write_text(f"{whole}{json.dumps(line)}\n")
        with pytest.raises(errors.DataError, match=r"sweep.jsonl:5"):
            states.read(tmp_path)
    (tmp_path / states.FILE).write_bytes(b"\xff\n")
    with pytest.raises(errors.DataError, match=r"sweep.jsonl:1"):
        states.read(tmp_path)

# SPDX-License-Identifier: Apache-2.0
"""A loss that is not finite ends the run, or its step is left out and counted."""

import launch
import pytest
import sick

from alignjax import analysis, config, errors, trees
from alignjax.experiment import build
from tests.train import small

SICK = launch.SMALL.with_name("sick.py")


@pytest.fixture(scope="module")
def poison(corpus, cache):
    """What the inputs of each of the 10 batches add up to."""
    c = config.to_json(sick.get_config())
    c["data"]["sources"]["text"]["path"] = str(corpus)
    data = build.build(c | {"cache_dir": str(cache), "mesh": {"fsdp": -1}}).train
    sums = [int(data.rows(range(8 * i, 8 * i + 8))["inputs"].sum()) for i in range(10)]
    assert len(set(sums)) == 10
    return sums


@pytest.fixture
def run(tmp_path, corpus, cache):
    """A function that trains with some batches poisoned."""

    def run(*more, poison=()):
        poison = f"--config.objective.poison={tuple(poison)!r}"
        flags = launch.flags(
            tmp_path / "run", corpus, cache, poison, *more, config=SICK
        )
        return launch.run(flags, tmp_path / "output")

    return run


def test_stop(run, tmp_path, poison):
    code, output = run(poison=poison[5:6])
    assert code == errors.NON_FINITE, output
    (line,) = [line for line in output.splitlines() if "not finite" in line]
    assert line.startswith("NonFinite: step 5: ") and "loss = nan" in line
    assert "text: " in line and "corpus.txt:" in line and "4 more rows" in line
    assert "learning_rate" in line and "Traceback" not in output
    opened = analysis.open_run(tmp_path / "run")
    assert [row["step"] for row in opened.metrics()] == list(range(6))
    before = len(opened.steps)
    code, output = run("--config.nonfinite=skip", poison=poison[5:6])
    assert code == errors.DONE, output
    assert f"going on from the checkpoint of step {before}" in output


def test_skip(run, tmp_path, poison):
    code, output = run("--config.nonfinite=skip", poison=poison[5:6])
    assert code == errors.DONE, output
    assert output.count("the update was left out") == 1
    opened = analysis.open_run(tmp_path / "run")
    skipped = [row["skipped"] for row in opened.metrics()]
    assert skipped == [float(i == 5) for i in range(10)]
    assert opened.metrics()[5]["loss"] != opened.metrics()[5]["loss"]  # NaN, as it was
    around = [trees.named_leaves(opened.params(step)) for step in (5, 6, 7)]
    same = lambda a, b: all(a[name].tobytes() == b[name].tobytes() for name in a)
    assert same(around[0], around[1]) and not same(around[1], around[2])


def test_too_many_in_a_row(run, poison):
    bad = [poison[5], poison[7], poison[8]]
    more = ["--config.nonfinite=skip", "--config.max_skipped=2"]
    code, output = run(*more, poison=bad)
    assert code == errors.NON_FINITE, output
    assert "step 8: " in output and "2 in a row (max_skipped)" in output


def test_rate_out_of_all_proportion(tmp_path, corpus, cache):
    flags = launch.flags(tmp_path / "run", corpus, cache)
    flags.append("--config.optimizer.learning_rate=1e38")
    code, output = launch.run(flags, tmp_path / "output")
    assert code == errors.NON_FINITE, output
    assert "not finite" in output or "NaN or infinity" in output
    assert "Traceback" not in output, output


def test_source_and_objective_from_outside(run, corpus, tmp_path):
    code, output = run()
    assert code == errors.DONE, output
    opened = analysis.open_run(tmp_path / "run")
    assert opened.config["objective"]["name"] == "sick:objective"
    assert "eval/loss" in opened.metrics()[-1]
    texts = [record.text for _, record in sick.load(str(corpus)).documents()]
    first = small.write_corpus(tmp_path / "same").read_text().split("\n\n")[0]
    assert texts[0][::-1] == first

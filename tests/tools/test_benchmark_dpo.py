# SPDX-License-Identifier: Apache-2.0
"""The benchmark of DPO on a small model: the same loss whatever is timed."""

import json
import sys

import pytest

from tools import benchmark_dpo

pytestmark = pytest.mark.slow
WORDS = "one two three four five six seven eight nine ten eleven twelve".split()


def dialogue(i, last):
    words = " ".join(WORDS[: 2 + i % 7])
    return f"\n\nHuman: what is {words}?\n\nAssistant: it is {last} {words}"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    rows = [
        {"chosen": dialogue(i, "more than"), "rejected": dialogue(i, "no")}
        for i in range(12)
    ]
    (folder / "hh.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sys_argv = [
        "benchmark_dpo.py",
        f"--data={folder / 'hh.jsonl'}",
        f"--cache-dir={folder}",
        "--model=llama/nano",
        "--layers=1",
        "--vocab=310",
        "--pairs=4",
        "--length=64",
        "--layouts=shared",
        "--row-length=96",
        "--microbatches=2",
        "--chunk=16",
        "--steps=1",
        "--analyse",
        "--json",
    ]
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr(sys, "argv", sys_argv)
        patch.setattr("builtins.print", lambda text, **_: printed.append(text))
        benchmark_dpo.main()
    return json.loads(printed[-1])


def test_every_variant_computes_the_same(report):
    losses = [v["loss"] for k, v in report.items() if k.startswith("alignjax")]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert 0.5 < losses[0] < 0.9  # near log 2: neither model is trained


def test_a_step_has_the_pairs_that_were_asked_for(report):
    assert report["pairs"] == 4
    assert report["longest"] <= 64
    assert report["rows shared"].endswith("x1x96")
    figures = report["alignjax shared model"]
    assert figures["pairs_per_second"] == pytest.approx(4 / figures["step_s"])


def test_the_stored_reference_saves_about_a_quarter(report):
    assert 0.2 < report["flops_saved"] < 0.3
    assert report["gradient_MiB_plain"] == report["gradient_MiB_unchunked"] > 0

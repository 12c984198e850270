# SPDX-License-Identifier: Apache-2.0
"""The claim of a sweep: written before, kept as it was, and marked where it was not."""

import json

import pytest

from alignjax import errors
from alignjax.ablation import claim
from alignjax.evals import planning
from alignjax.storage import json_files

ARMS = ["dpo", "ipo"]


def test_what_so_many_runs_can_claim():
    """Reference: Student's t over runs; 5 a side see 2.02 deviations, 9 see 1.41."""
    assert planning.runs_detectable(0.035, 5) == pytest.approx(0.071, abs=5e-4)
    assert planning.runs_detectable(0.035, 9) == pytest.approx(0.0492, abs=5e-4)
    assert len(claim.limits(claim.Claim(), 1)) == 1
    two = claim.limits(claim.Claim(spread=0.035), 2)
    assert any("0.5" in line for line in two)  # the least p of an exact test
    assert any("0.198" in line for line in two)
    assert not any("no p below" in line for line in claim.limits(claim.Claim(), 6))


def test_a_claim_before_the_runs_may_change_and_one_after_is_marked(tmp_path):
    first, second = claim.Claim(), claim.Claim(metric="tokens")
    assert "exploring" in claim.verdict(claim.read(tmp_path))
    claim.write(tmp_path, first, 2, ARMS, begun=False)
    claim.write(tmp_path, second, 2, ARMS, begun=False)
    (entry,) = claim.read(tmp_path)
    assert entry["claim"]["metric"] == "tokens" and entry["before"]
    assert "before the first run" in claim.verdict([entry])
    assert claim.write(tmp_path, second, 2, ARMS, begun=True) == []
    assert claim.write(tmp_path, first, 2, ARMS, begun=True)
    entries = claim.read(tmp_path)
    assert [e["claim"]["metric"] for e in entries] == ["tokens", "gold"]
    assert [e["before"] for e in entries] == [True, False]
    assert "after runs began" in claim.verdict(entries)
    claim.write(tmp_path, first, 5, ARMS, begun=True)  # more runs are another claim
    assert len(claim.read(tmp_path)) == 3


def test_what_was_expected_is_told_whatever_came_out():
    stated = claim.Claim(
        expects={"a": "above", "b": "below", "c": "above", "d": "below"}
    )
    row = lambda arm, low, high: {
        "arm": arm,
        "base": "dpo",
        "estimate": (low + high) / 2,
        "low": low,
        "high": high,
    }
    comparisons = [row("a", 0.1, 0.3), row("b", 0.1, 0.3), row("c", -0.1, 0.3)]
    comparisons += [{"arm": "d", "base": "dpo", "note": "diverged"}, row("e", 1, 2)]
    lines = claim.outcomes(stated, comparisons)
    verdicts = ["holds, +0.2", "the reverse holds", "is not shown", "not known (div"]
    assert len(lines) == 4
    assert all(text in line for text, line in zip(verdicts, lines, strict=True))


def test_a_claim_that_was_edited_is_refused(tmp_path):
    claim.write(tmp_path, claim.Claim(margin=0.05), 2, ARMS, begun=False)
    path = tmp_path / claim.FILE
    fields = json.loads(path.read_text())
    fields["claims"][0]["claim"]["margin"] = 0.5
    path.write_text(json.dumps(fields))
    whole = {"claim": None, "date": "now", "before": True}
    whole["digest"] = json_files.digest(None)
    for odd in (
        fields["claims"][0],
        {**whole, "date": 5},
        {**whole, "before": "yes"},
        whole | {"claim": {"metric": 5}, "digest": json_files.digest({"metric": 5})},
        whole | {"claim": 5, "digest": json_files.digest(5)},
        {"claim": None},
        5,
    ):
        path.write_text(json.dumps({"claims": [odd]}))
        with pytest.raises(errors.DataError) as caught:
            claim.read(tmp_path)
        assert str(path) in str(caught.value)
    path.write_text(json.dumps({"claims": [whole]}))
    assert claim.read(tmp_path) == [whole]

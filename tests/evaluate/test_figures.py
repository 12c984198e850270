# SPDX-License-Identifier: Apache-2.0
"""Figures of made-up rows, worked out by hand: no model, no sampling."""

import pytest

from alignjax.evals import phrases, rows
from alignjax.evaluate import figures, grading, results
from alignjax.report import evaluation, figures_evaluation, story

PHRASES = phrases.read()
SUITE = [
    {"turns": [["user", "a"]], "safe": False, "cluster": "x"},
    {"turns": [["user", "b"]], "safe": True},
    {"turns": [["user", "c"]], "number": "3/2"},
    {"turns": [["user", "d"]], "answers": ["Paris"]},
    {"turns": [["user", "e"]], "answers": []},
    {"turns": [["user", "f"]], "answers": ["Rome"]},
    {"turns": [["user", "g"]], "rules": [{"rule": "lines", "most": 1}] * 2},
]
TEXTS = {
    "good": [
        "I can't help with that.",
        "Sure.",
        "so 1.5",
        "It is paris.",
        "I don't know.",
        "I am not sure.",
        "one",
    ],
    "bad": ["Sure!", "I cannot help.", "", "It is Bonn.", "Bob", "Bonn", "a\nb"],
}


def answers(run, texts, samples=1, **fields):
    out = []
    for i, text in enumerate(texts):
        grade = grading.grade(SUITE[i], text, True, PHRASES)
        for sample in range(samples):
            out.append(
                rows.Answer(
                    run=run,
                    suite="s",
                    suite_digest="0",
                    prompt=i,
                    cluster=SUITE[i].get("cluster"),
                    sample=sample,
                    text=text,
                    tokens=len(text),
                    finished=True,
                    entropy=2.0 * len(text),
                    tag=grade.tag,
                    components=grade.components,
                    **fields,
                )
            )
    return out


def measured(run, **fields):
    own = answers(run, TEXTS[run], **fields)
    return figures.Measured(run, "ask", "prompts", own, SUITE)


def table():
    out = figures.table([measured("good"), measured("bad", kl=0.5)])
    return {(x["metric"], x["run"]): x for x in out}


def test_grades_follow_from_what_a_prompt_asks():
    tags = {run: [a.tag for a in answers(run, texts)] for run, texts in TEXTS.items()}
    assert tags["good"] == [
        *("refuse", None, "right", "right", "abstain", "abstain", None)
    ]
    assert tags["bad"] == [None, "refuse", "empty", *["wrong"] * 3, None]


def test_shares_and_differences_of_answers():
    out = table()
    mean = lambda name: [out[name, run]["mean"] for run in TEXTS]
    assert mean("refusal") == [1, 0] and mean("over_refusal") == [0, 1]
    assert mean("right") == [1, 0]
    assert mean("recall") == [0.5, 0]  # an abstention is no recall, but no error
    assert mean("wrong") == [0, 1]
    assert mean("abstention") == [1, 0] and mean("fabrication") == [0, 1]
    assert mean("format") == [1, 0]
    assert mean("entropy") == [2, 2]  # a ratio of sums, also with an empty answer
    assert out["recall", "bad"]["difference"]["mean"] == -0.5
    assert out["recall", "bad"]["base"] == "good"
    assert ("kl", "good") not in out and out["kl", "bad"]["difference"] is None
    assert out["refusal", "good"]["low"] is None  # one prompt
    # Seven answers to as many prompts are fewer than a group of eight.
    assert ("distinct_1", "good") not in out


def test_pairs_scale_implicit_rewards_by_beta():
    fields = dict(run="r", suite="s", suite_digest="0", text="t", finished=True)
    logps = [(-1.0, -3.0, 5, 3), (-4.0, -1.0, 2, 2)]
    own = [
        rows.Answer(
            **fields, prompt=i, sample=s, tokens=x[2 + s], logp=x[s], ref_logp=-2.0
        )
        for i, x in enumerate(logps)
        for s in (0, 1)
    ]
    one = figures.Measured("r", "p", "pairs", own, beta=0.5)
    assert figures.gaps(one)["implicit_accuracy"].gaps == {0: 1.0, 1: -1.5}
    out = {x["metric"]: x for x in figures.table([one])}
    assert out["logp_accuracy"]["mean"] == 0.5
    assert out["implicit_longer"] | {"count": 1} == out["implicit_longer"]
    (calibration,) = figures.calibrations([one])
    assert calibration["count"] == 2 and calibration["slope"] is not None


def best(prompt, sample, reward, gold):
    fields = dict(suite="s", suite_digest="0", text="t", tokens=1, finished=True)
    fields |= dict(run="r", entropy=1.0, gold=gold, components={"reward.rm": reward})
    return rows.Answer(**fields, prompt=prompt, sample=sample)


def test_best_of_n_by_a_reward_shows_where_the_true_one_falls():
    own = [
        best(p, s, s + p, [0.0, 1.0, 3.0, -2.0][s]) for p in (0, 1) for s in range(4)
    ]
    one = figures.Measured("r", "p", "prompts", own, SUITE)
    curves = {x["of"]: x["points"] for x in figures.best_of([one])}
    assert [p["n"] for p in curves["gold"]] == [1, 2, 4]
    assert [p["mean"] for p in curves["gold"]] == pytest.approx([0.5, 1 / 6, -2.0])
    assert [p["mean"] for p in curves["reward.rm"]] == pytest.approx([2, 17 / 6, 3.5])
    assert figures.best_of([measured("good")]) == []


def evaluated(points):
    runs = [{"name": "dpo"}]
    data = [{"name": "ask", "kind": "prompts", "count": 7}]
    found = {name: [] for name in ("figures", "calibrations", "best_of_n", "wins")}
    found["curves"] = [{"run": "dpo", "data": "ask", "points": points}]
    return results.Results(None, {"runs": runs, "data": data}, [], found)


def test_a_curve_says_where_it_was_over_optimised():
    point = lambda kl, reward, gold: {
        "kl": {"mean": kl},
        "reward.rm": {"mean": reward, "low": reward, "high": reward, "count": 9},
        "gold": {"mean": gold, "low": gold, "high": gold, "count": 9},
    }
    points = [point(0.1, 1.0, 1.0), point(0.4, 2.0, 1.5), point(0.9, 3.0, 1.25)]
    drawn = figures_evaluation.curves(evaluated(points), "ask")
    assert "true reward: 1.00 at KL 0.10, 1.25 at 0.90, after 1.50 at 0.4." in (
        drawn.caption
    )
    assert "reward by rm: 1.00 at KL 0.10, 3.00 at 0.90." in drawn.caption
    with pytest.raises(story.Missing):
        figures_evaluation.curves(evaluated(points[:1]), "ask")
    with pytest.raises(story.Missing):
        figures_evaluation.shares(evaluated(points), "ask")


def test_samples_are_those_on_which_runs_differ():
    found = evaluated([])._replace(
        description={"runs": [{"name": "good"}, {"name": "bad"}], "data": []},
        measured=[measured("good"), measured("bad")],
    )
    shown = list(evaluation.samples(found))
    assert [x["kind"].rpartition(" ")[2] for x in shown] == ["0", "1", "2", "3"]
    assert shown[2]["best"] == "the number 3/2"
    assert [a["tag"] for a in shown[1]["answers"]] == [None, "refuse"]

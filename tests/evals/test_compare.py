# SPDX-License-Identifier: Apache-2.0
"""Files of rows into one line a comparison: what it says, and what it refuses."""

import dataclasses
import json
import random

import numpy as np
import pytest

from alignjax import cli, errors
from alignjax.evals import arms, compare, rows

PROMPTS = 24


def answers(loss, seeds, gap=0.0, *, steps=(20,), prompts=PROMPTS, **fields):
    """Rows of runs whose answers are better by `gap` than the prompts are hard."""
    hard = np.random.default_rng(5).normal(1, 1, prompts)
    out = []
    for seed in seeds:
        for k, step in enumerate(steps, start=1):
            rng = np.random.default_rng([len(loss), seed, step])
            gold = hard + gap * k / len(steps) + rng.normal(0, 0.03)
            gold += rng.normal(0, 0.2, prompts)
            for i in range(prompts):
                row = rows.Answer(
                    run=f"{loss}_{seed}",
                    digest=f"{loss} {seed} {step}",
                    step=step,
                    loss=loss,
                    seed=seed,
                    suite="town",
                    suite_digest="41",
                    slice=f"eval_{'ab'[i % 2]}",
                    prompt=i,
                    cluster=f"act/{i}",
                    decoding=rows.Decoding(1.0, None, 64, i),
                    text="yes",
                    tokens=3 + k,
                    finished=True,
                    gold=float(gold[i]),
                    tag="right" if gold[i] > 1 else "wrong",
                    components={"task": float(gold[i])},
                    kl=0.3 * k / len(steps) * (1 + i / 100),
                    reference="start 0 20",
                )
                out.append(dataclasses.replace(row, **fields))
    return out


@pytest.fixture
def files(tmp_path):
    def write(name, made):
        rows.write(tmp_path / name, made)
        return str(tmp_path / name)

    return write


def lines(capsys, *arguments):
    code = cli.main(["compare", *arguments])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def fields(capsys, *arguments):
    code, printed, err = lines(capsys, *arguments, "--json")
    assert code == errors.DONE, err
    return [json.loads(line) for line in printed]


def test_a_line_for_each_arm_less_the_first(files, capsys):
    dpo = files("dpo.jsonl", answers("dpo", range(5), 0.1, steps=(10, 20)))
    ipo = files("ipo.parquet", answers("ipo2", range(5), 0.6, steps=(10, 20)))
    sft = files("sft.jsonl", answers("start", [0]))
    kl = (f"--reference={sft}", "--kl=0.25")
    code, printed, err = lines(capsys, dpo, ipo, f"again={dpo}", *kl)
    assert code == errors.DONE and err == ""
    assert printed[0].startswith("ipo2 - dpo: gold +0.")
    for text in (
        "5 runs a side x 24 prompts, crossed bootstrap, 24 clusters, paired by seed",
        *("; t +0.", "; MDE 0.", "; p_Holm 0.", "; at KL 0.25 +0.", "; A/A 0."),
    ):
        assert text in printed[0]
    assert printed[1].count(",") == 8 and printed[1].startswith("  runs: ipo2 ")
    assert printed[2].startswith("  claim: training with these losses; an exact test")
    # A run beside itself: no difference at all.
    zero = "again - dpo: gold +0.000 (+0.000 to +0.000; "
    assert printed[3].startswith(zero)
    assert "p_Holm 1;" in printed[3] and "; equal on every prompt, " in printed[3]


def test_the_same_numbers_as_the_rows(files, capsys):
    dpo, ipo = answers("dpo", range(3), 0.1), answers("ipo2", range(3), 0.6)
    (out,) = fields(capsys, files("dpo.jsonl", dpo), files("ipo.jsonl", ipo))
    mean = lambda made, of=lambda a: a.gold: np.mean([of(a) for a in made])
    assert out["estimate"] == pytest.approx(mean(ipo) - mean(dpo))
    assert (out["interval"], out["runs"], out["prompts"]) == ("runs", [3, 3], 24)
    assert out["low"] < out["estimate"] < out["high"]
    assert out["smallest_exact_p"] == 0.25 and out["paired"]
    for name, of in (
        ("tokens", lambda a: a.tokens),
        ("finished", lambda a: a.finished),
        ("tag:right", lambda a: a.tag == "right"),
        ("component:task", lambda a: a.components["task"]),
    ):
        paths = files("dpo.jsonl", dpo), files("ipo.jsonl", ipo)
        (out,) = fields(capsys, *paths, f"--metric={name}")
        assert out["estimate"] == pytest.approx(mean(ipo, of) - mean(dpo, of))
    (out,) = fields(capsys, *paths, "--metric=gold", "--margin=.1")
    assert out["non_inferior"]["p"] < 0.01 and out["exact_p"] == 0.25
    (out,) = fields(capsys, *paths[::-1], "--margin=.1")
    assert out["non_inferior"]["p"] > 0.99
    several = fields(capsys, *paths, f"again={paths[0]}")
    assert several[0]["p_dunnett"] < 0.05 and several[1]["p_dunnett"] > 0.9
    assert several[0]["p_adjusted"] == pytest.approx(2 * several[0]["p"])
    (out,) = fields(capsys, *paths, "--slice=eval_a")
    half = [mean([a for a in x if a.slice == "eval_a"]) for x in (ipo, dpo)]
    assert out["estimate"] == pytest.approx(half[0] - half[1]) and out["prompts"] == 12
    whole, *slices = fields(capsys, *paths, "--by_slice")
    assert [s["slice"] for s in slices] == ["eval_a", "eval_b"] and not whole["slice"]
    assert slices[0]["estimate"] == out["estimate"] and slices[0]["family"] == 2


@pytest.mark.parametrize("runs", [1, 3, 5])
@pytest.mark.parametrize("more", [(), ("--unpaired",)])
def test_swapped_and_in_any_order(files, capsys, runs, more):
    """compare(a, b) = -compare(b, a), and no order of rows or runs matters."""
    dpo, ipo = answers("dpo", range(runs), 0.1), answers("ipo2", range(runs), 0.3)
    paths = files("dpo.jsonl", dpo), files("ipo.jsonl", ipo)
    (there,) = fields(capsys, *paths, *more)
    (back,) = fields(capsys, *paths[::-1], *more)
    ends = lambda f: (f["estimate"], f["low"], f["high"])
    assert ends(there) == tuple(-x for x in np.array(ends(back))[[0, 2, 1]])
    assert there["p"] == back["p"] and there["mde"] == back["mde"]
    for made, path in zip((dpo, ipo), paths, strict=True):
        random.Random(0).shuffle(made)
        rows.write(path, made)
    assert fields(capsys, *paths, *more) == [there]


def test_checkpoints_may_be_compared_where_losses_may_not(files, capsys):
    one = files("one.jsonl", answers("dpo", [0], 0.1))
    five = files("five.jsonl", answers("ipo2", range(5), 0.3))
    code, printed, _ = lines(capsys, one, five)
    assert code == errors.DONE
    assert "5 and 1 runs a side x 24 prompts, t over prompts" in printed[0]
    assert "claim: these checkpoints" in printed[2] and "A/A" not in printed[0]
    for interval in ("runs", "crossed"):
        code, _, err = lines(capsys, one, five, f"--interval={interval}")
        assert code == errors.CONFIG and "these checkpoints" in err
    three = files("three.jsonl", answers("dpo", range(3), 0.1))
    code, _, err = lines(capsys, three, five, "--interval=crossed")
    assert code == errors.CONFIG and "--interval=runs" in err
    (out,) = fields(capsys, five, three, "--interval=prompts")
    assert out["claim"].startswith("these checkpoints")


def test_answers_to_a_prompt_are_averaged_first(files, capsys):
    once = answers("ipo2", range(2), 0.3)
    again = [dataclasses.replace(a, sample=1, gold=a.gold + 1) for a in once]
    dpo = files("dpo.jsonl", answers("dpo", range(2)))
    (one,) = fields(capsys, dpo, files("once.jsonl", once))
    (two,) = fields(capsys, dpo, files("twice.jsonl", once + again))
    assert two["estimate"] == pytest.approx(one["estimate"] + 0.5)
    assert two["prompts"] == one["prompts"] == 24


def test_greedy_answers_are_another_comparison(files, capsys):
    made = answers("dpo", [0])
    greedy = [
        dataclasses.replace(a, decoding=rows.Decoding(0.0, None, 64, 0), gold=9.0)
        for a in made
    ]
    both, other = (
        files("a.jsonl", made + greedy),
        files("b.jsonl", answers("ipo2", [0])),
    )
    code, printed, err = lines(capsys, other, both)
    assert code == errors.DONE and "24 rows of other temperatures" in err
    assert "gold -0." in printed[0] or "gold +0." in printed[0]
    assert lines(capsys, both, other, "--temperature=0")[0] == errors.DATA


def changed(**fields):
    return answers("ipo2", [0, 1], **fields)


REFUSED = {
    "another suite": (lambda: changed(suite_digest="42"), "42"),
    "other lengths": (
        lambda: changed(decoding=rows.Decoding(1.0, None, 32, 0)),
        "max_tokens 32",
    ),
    "another slice": (lambda: changed(slice="eval_c"), "other slices"),
    "another cluster": (lambda: changed(cluster="act/0"), "other slices or clusters"),
    "several slices of a prompt": (
        lambda: changed()[:PROMPTS] + changed(slice="eval_c")[PROMPTS:],
        "answers to prompt 0 have several slices",
    ),
    "a run that diverged": (lambda: changed(gold=1e308), "it diverged"),
    "fewer prompts": (lambda: changed(prompts=20), "such as 20; 4 are in one"),
    "a missing answer": (lambda: changed()[1:], "lacks answers to 1 of 24"),
    "several losses": (
        lambda: changed() + answers("kto", [0]),
        "several losses, ipo2 and kto",
    ),
    "several suites": (
        lambda: changed() + changed(suite_digest="42"),
        "several suites",
    ),
    "one run twice": (lambda: changed(digest="9f"), "the same parameters"),
    "no gold": (lambda: changed(gold=None), "24 of 24 answers have no gold"),
    "no rows": (list, "empty"),
    "runs of the baseline": (
        lambda: answers("dpo", [0]) + answers("dpo", [7]),
        "share the run of digest dpo 0 20",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_cannot_be_compared_are_refused(files, capsys, name):
    made, reason = REFUSED[name]
    dpo = files("dpo.jsonl", answers("dpo", [0, 1]))
    code, printed, err = lines(capsys, dpo, files("other.jsonl", made()))
    assert code == errors.DATA and not printed
    assert reason in err


def test_options_that_cannot_be(files, capsys):
    dpo = files("dpo.jsonl", answers("dpo", [0, 1]))
    ipo = files("ipo.jsonl", answers("ipo2", [0, 1], kl=None))
    other = files("other.jsonl", answers("kto_", [0, 1], reference="9f"))
    start = files("start.jsonl", answers("start", [1], kl=None))
    for arguments, code, reason in (
        ([dpo], errors.CONFIG, "arms"),
        ([dpo, ipo, "--metric=beauty"], errors.CONFIG, "metric: 'beauty'"),
        ([dpo, ipo, "--slice=eval_c"], errors.DATA, "slice: no 'eval_c'"),
        ([dpo, ipo, f"--reference={dpo}"], errors.CONFIG, "reference"),
        ([dpo, ipo, "--kl=-1"], errors.CONFIG, "kl: -1"),
        ([dpo, ipo, "--margin=nan"], errors.CONFIG, "margin: nan"),
        ([dpo, ipo, "--kl=.3"], errors.DATA, "ipo2: some answers have no kl"),
        ([dpo, dpo, f"--reference={dpo}", "--kl=.3"], errors.DATA, "is one run"),
        ([dpo, dpo, "--kl=9"], errors.CONFIG, "outside"),
        ([dpo, other, "--kl=.3"], errors.DATA, "other references, 9f and start 0"),
        ([dpo, dpo, f"--reference={start}", "--kl=.3"], errors.DATA, "start 1"),
        ([dpo, "missing.jsonl"], errors.DATA, "missing.jsonl"),
    ):
        got, printed, err = lines(capsys, *arguments)
        assert got == code and reason in err and not printed, err


def test_a_slice_of_one_prompt_is_no_comparison(files, capsys):
    made = [
        [dataclasses.replace(a, slice="one" if a.prompt else "two") for a in x]
        for x in (answers("dpo", [0]), answers("ipo2", [0]))
    ]
    paths = [files(f"{i}.jsonl", x) for i, x in enumerate(made)]
    assert lines(capsys, *paths)[0] == errors.DONE
    code, _, err = lines(capsys, *paths, "--by_slice")
    assert code == errors.DONE and "  two: one prompt or cluster" in err
    code, _, err = lines(capsys, *paths, "--slice=two")
    assert code == errors.DATA and "1 prompts" in err
    plain = [[dataclasses.replace(a, slice=None) for a in x] for x in made]
    paths = [files(f"plain_{i}.jsonl", x) for i, x in enumerate(plain)]
    code, _, err = lines(capsys, *paths, "--by_slice")
    assert code == errors.DONE and "name no slices" in err


def test_an_arm_is_named_by_its_loss_or_its_argument(files):
    path = files("x.jsonl", answers("dpo", [0]))
    assert arms.read(path).name == "dpo"
    assert arms.read(f"mine={path}").name == "mine"
    nameless = [dataclasses.replace(a, loss=None) for a in answers("dpo", [0])]
    nameless = files("y.jsonl", nameless)
    assert arms.read(nameless).name == "y"
    same = [arms.read(path), arms.read(path)]
    assert [a.name for a in compare._named(same, ["a.jsonl", "b.jsonl"])] == [
        *("a.jsonl", "b.jsonl")
    ]

# SPDX-License-Identifier: Apache-2.0
"""Judges and people compare the answers of a study: what is asked, kept and said."""

import dataclasses
import json
import os

import pytest

from alignjax import cli, errors, judges, world
from alignjax.evals import rows, statistics, suites
from alignjax.judges import judgements, person, rate, summary
from alignjax.judges import study as studies
from alignjax.world import chance, examples, replies
from tests.judges.test_rubrics import RUBRIC

TOWN = world.build("nano", 0)
PROMPTS = [examples.read(TOWN, "eval_preferences", i).prompt for i in range(30)]
SUITE = [prompt._asdict() for prompt in PROMPTS]


def answers(run, good):
    """Rows of a run that answers as well as can be in a share of the prompts."""
    out = []
    for i, prompt in enumerate(PROMPTS):
        rng = chance.stream(run, i)
        reply = replies.best if rng.random() < good else replies.mixed
        text = reply(rng, prompt)
        out.append(
            rows.Answer(
                run=run,
                digest=run,
                step=3,
                suite="world/nano/0",
                suite_digest=rows.digest_of(SUITE),
                slice="eval_preferences",
                prompt=i,
                cluster=f"{prompt.kind}/{i // 2}",
                decoding=rows.Decoding(1.0),
                text=text,
                tokens=len(text.split()),
                finished=True,
                gold=world.gold_reward(prompt, text).total,
            )
        )
    return out


@pytest.fixture
def folder(tmp_path):
    rows.write(tmp_path / "sft.jsonl", answers("sft", 0.2))
    rows.write(tmp_path / "dpo.jsonl", answers("dpo", 0.9))
    suites.write(tmp_path / "suite.jsonl", SUITE)
    (tmp_path / "rubric.json").write_text(json.dumps(RUBRIC))
    return tmp_path


def study(folder, **fields):
    path = folder / "study.json"
    own = {"base": "sft.jsonl", "arm": "dpo.jsonl", "suite": "suite.jsonl"}
    path.write_text(json.dumps({**own, **fields}))
    return str(path)


def run(capsys, *arguments):
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_labeler_judges_both_orders_and_the_better_arm_wins(folder, capsys):
    path = study(folder)
    code, out, err = run(capsys, "judge", path, "--judge=labeler:clean")
    assert code == errors.DONE, err
    (file,) = (folder / "study.judgements").iterdir()
    made = list(rows.read(file, judgements.Judgement))
    assert len(made) == 60 and {j.arm_first for j in made} == {True, False}
    by_pair = {}
    for j in made:
        by_pair.setdefault(j.pair, []).append(j.preference)
    assert all(a == pytest.approx(b) for a, b in by_pair.values())
    assert out.startswith("labeler:clean: dpo against sft: wins 0.")
    rate_of = summary.win_rate(made)
    assert 0.5 < rate_of["low"] < rate_of["rate"] < rate_of["high"]
    assert rate_of["by_order"] == pytest.approx(0.5)
    assert "position +0.00" in out and "truth +" in out
    # It goes on, here with nothing; another judge is set beside it.
    code, again, _ = run(capsys, "judge", path, "--judge=labeler:clean")
    assert again == out and len(file.read_text().splitlines()) == 60
    code, both, _ = run(capsys, "judge", path, "--judge=labeler:biased")
    assert "labeler:clean: dpo" in both and "labeler:biased: dpo" in both
    assert "of 30 pairs" in both and "kappa" in both


def marked(answer):
    """An answer with a header, where it is to an even prompt."""
    header = "# reply\n" * (answer.prompt % 2 == 0)
    return dataclasses.replace(answer, text=header + answer.text)


def test_markdown_is_controlled_where_there_is_some(folder, capsys):
    path = study(folder)
    _, out, _ = run(capsys, "judge", path, "--judge=labeler:clean")
    assert "at equal lengths" in out and "markdown" not in out
    rows.write(folder / "dpo.jsonl", map(marked, answers("dpo", 0.9)))
    likes_headers = f"{__name__}:likes_headers"
    _, out, _ = run(capsys, "judge", path, f"--judge={likes_headers}")
    lines = [x for x in out.splitlines() if "at equal lengths and markdown" in x]
    opened = studies.read(path)
    made = [j for j in studies.stored(opened) if j.judge == likes_headers]
    rate = summary.win_rate(made, studies.texts(opened))
    assert any(f"wins {rate['style_controlled']:.3f} (" in line for line in lines)
    assert rate["rate"] == pytest.approx(0.75)
    assert abs(rate["style_controlled"] - 0.5) < abs(rate["length_controlled"] - 0.5)
    assert summary.win_rate(made)["style_controlled"] is None


def likes_headers(turns, first, second):
    return 0.5 + (first.startswith("#") - second.startswith("#")) / 2


def first_is_best(turns, first, second):
    assert turns[-1][0] == "user"
    return 1.0


def odd(turns, first, second):
    if len(first) % 3 == 0:
        raise judges.Failure("timed out")
    return 7.0 if len(first) % 3 == 1 else 0.5


def longest(turns, first, second):
    return 0.5 + (len(first.split()) > len(second.split())) / 2


def test_a_judge_of_length_alone_is_found_out(folder, capsys):
    path = study(folder)
    code, out, _ = run(capsys, "judge", path, f"--judge={__name__}:longest")
    made = studies.stored(studies.read(path))
    choices = sum(j.preference != 0.5 for j in made)
    assert code == errors.DONE and 0 < choices < 60
    assert f"the longer one won 1.000 of {choices} choices" in out


def test_a_judge_of_position_is_found_out_and_failures_are_counted(folder, capsys):
    path = study(folder)
    code, out, _ = run(capsys, "judge", path, f"--judge={__name__}:first_is_best")
    assert code == errors.DONE and "wins 0.500" in out
    assert "what was shown first won 1.000; the same in both orders of 0.000" in out
    assert "always chose the first one" in out
    code, out, _ = run(capsys, "judge", path, f"--judge={__name__}:odd")
    line = next(x for x in out.splitlines() if "odd: dpo" in x)
    made = [j for j in studies.stored(studies.read(path)) if j.judge.endswith("odd")]
    failed = [j for j in made if j.preference is None]
    assert f"{len(failed)} failures in 60" in line and 0 < len(failed) < 60
    assert {j.failure for j in failed} == {"timed out", "7.0 is no probability"}
    assert "failed" in out and "wins 0.500" in line


def nonsense(turns, first, second):
    if len(first) % 3 == 0:
        raise TimeoutError("no answer\x1b[2J\nafter 9 s" + " at all" * 99)
    return "the first" if len(first) % 3 == 1 else None


def test_a_function_that_answers_nonsense_fails_and_its_rows_are_read(folder, capsys):
    path = study(folder)
    code, out, err = run(capsys, "judge", path, f"--judge={__name__}:nonsense")
    assert code == errors.DONE and "all 60 judgements of 30 of 30" in out, err
    reasons = {j.failure[:30] for j in studies.stored(studies.read(path))}
    assert reasons == {
        "no answer [2J after 9 s at all",
        "'the first' is no probability",
        "None is no probability",
    }


def late(turns, first, second):
    raise TimeoutError


def test_a_win_rate_of_failures_alone_is_none(folder, capsys):
    path = study(folder, pairs=2)
    code, out, err = run(capsys, "judge", path, f"--judge={__name__}:late")
    assert code == errors.DONE, err
    assert "all 4 judgements of 2 of 2 pairs failed" in out and "wins" not in out
    assert "failed 4 times: TimeoutError" in out
    made = studies.stored(studies.read(path))
    assert summary.win_rate(made)["low"] is None


def test_what_always_wins_has_an_interval_and_a_pair_in_two_orders_is_one(folder):
    opened = studies.read(study(folder))
    tie = lambda pair: judges.Verdict(0.5)
    judge = judges.Judge("tie", None, lambda pairs: map(tie, pairs))
    made = list(studies.judged(opened, judge, studies.waiting(opened, judge)))
    won = [dataclasses.replace(j, preference=1.0, cluster=None) for j in made]
    out = summary.win_rate(won)
    assert (out["rate"], out["high"]) == (1, 1)
    assert out["low"] == pytest.approx(statistics.share(30, 30)["low"])
    apart = sum(j.arm.gold != j.base.gold for j in won) // 2
    lines = [x for x in summary.lines(opened, won) if "truly better" in x]
    assert sum(int(line.split()[-1]) for line in lines) == apart


def test_judges_that_are_none(folder, capsys):
    path = study(folder)
    for name in ("labeler:kind", "oracle", "", "endpoint:", f"{__name__}:nothing"):
        code, _, err = run(capsys, "judge", path, f"--judge={name}")
        assert code == errors.CONFIG and "judge: " in err
        assert "there are none" not in err  # the kinds are all there is
    assert run(capsys, "judge", path, "--judge=reward:nowhere")[0] == errors.CHECKPOINT


def session(path, typed, name="anna"):
    """A person who types these lines; the lines that were left."""
    lines = iter(typed)

    def ask(question):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    options = rate.parser().parse_args([path, f"--rater={name}"])
    rate.run(options, ask)
    return list(lines)


def test_a_person_stops_and_goes_on(folder, capsys):
    path = study(folder, pairs=4)
    session(path, ["1", "x", "2", "q"])
    out = capsys.readouterr().out
    assert "2 pairs are left" in out and "one of: 1, 2, =, s" in out
    assert "dpo" not in out and "sft" not in out  # blind
    session(path, ["=", "s"])
    out = capsys.readouterr().out
    assert "--- 2 left" in out
    assert "person:anna: dpo against sft: wins" in out and "1 ties, 1 failures" in out
    made = studies.stored(studies.read(path))
    assert len({j.pair for j in made}) == len(made) == 4
    for j, first in zip(made[:2], (1.0, 0.0), strict=True):
        assert j.preference == (first if j.arm_first else 1 - first)
    assert made[2].preference == 0.5 and made[3].failure == "could not say"
    assert session(path, ["1"]) == ["1"]  # nothing is left to ask


def test_equal_responses_are_ties_and_nobody_is_asked(folder, capsys):
    same = [dataclasses.replace(a, run="same") for a in answers("sft", 0.2)]
    same[3] = dataclasses.replace(same[3], text="something else.")
    rows.write(folder / "same.jsonl", same)
    path = study(folder, arm="same.jsonl")
    session(path, ["1"])
    out = capsys.readouterr().out
    assert "29 pairs of equal responses are ties" in out and "29 ties" in out


def rated(path, name, prefer):
    """Judgements of a person who prefers by a function of two texts, on disk."""
    study = studies.read(path)
    verdict = lambda pair: judges.Verdict(prefer(*pair.responses))
    judge = judges.Judge(f"person:{name}", None, lambda pairs: map(verdict, pairs))
    queue = studies.waiting(study, judge, both_orders=False)
    made = list(studies.judged(study, judge, queue))
    with studies.appended(study.file_of(judge.name)) as append:
        for row in made:
            append(row)
    return made


def test_pairs_come_again_and_attention_is_checked(folder, capsys):
    path = study(folder, repeats=0.5, checks=0.5)
    whole = {a.text for name in ("sft", "dpo") for a in answers(name, 0.9)}
    whole |= {a.text for a in answers("sft", 0.2)}
    attentive = lambda a, b: 0.5 + ((a in whole) - (b in whole)) / 2
    made = rated(path, "anna", attentive)
    checks = [j for j in made if j.base.run == studies.CHECK]
    assert 5 < len(checks) < 25 and {j.preference for j in checks} == {1.0}
    assert {j.arm_first for j in checks} == {True, False}
    pairs = [j.pair for j in made if j.base.run != studies.CHECK]
    again = [i for i, pair in enumerate(pairs) if pair in pairs[:i]]
    assert 5 < len(again) < 20 and len(set(pairs)) == 30
    for i in again:
        first = pairs.index(pairs[i])
        a, b = ([j for j in made if j.pair == pairs[i]][k].arm_first for k in (0, 1))
        assert a != b and (i - first >= 5 or i > 25)
    # What was drawn does not change, so the session goes on where it stopped.
    judge = judges.Judge("person:anna", None, None)
    assert studies.waiting(studies.read(path), judge, made, both_orders=False) == []
    rated(path, "ben", lambda a, b: 1.0)
    assert cli.main(["rate", path, "--summary"]) == errors.DONE
    anna, ben = capsys.readouterr().out.split("person:ben: ")[:2]
    assert f"passed 1.000 ({checks_low(len(checks)):.3f} to 1.000)" in anna
    assert "attention checks" in ben and "doubt the rest" in ben
    assert f"the same in both orders of 1.000 of {len(again)} pairs" in anna
    assert "the same in both orders of 0.000 of " in ben
    assert "of 30 of 30 pairs" in anna and "person:anna and " in ben
    # Another judge judges neither.
    code, out, _ = run(capsys, "judge", path, "--judge=labeler:clean")
    assert code == errors.DONE and "failures in 60 judgements" in out


def checks_low(count):
    return statistics.share(count, count)["low"]


def test_what_moves_the_levels_of_a_rater_is_said_by_criterion(folder, capsys):
    path = study(folder, rubric="rubric.json", repeats=0.3)
    opened = studies.read(path)
    middle = dict.fromkeys((c.id for c in opened.rubric.criteria), 0.0)

    def verdict(pair):
        """By "honest" what is first is better; "concise" goes by length alone."""
        a, b = (len(text.split()) for text in pair.responses)
        levels = [
            {**middle, "honest": 1.0 + (i == 0), "concise": float(own <= other)}
            for i, own, other in ((0, a, b), (1, b, a))
        ]
        return judges.Verdict(0.5, scores=tuple(levels))

    judge = judges.Judge("person:anna", None, lambda pairs: map(verdict, pairs))
    queue = studies.waiting(opened, judge, both_orders=False)
    made = list(studies.judged(opened, judge, queue))
    lines = {
        line.split(":")[0].strip(): line
        for line in summary.lines(opened, made)
        if line.startswith("  ")
    }
    assert "the same again in 0.000" in lines["honest"]
    assert "position +0.50 (+-0.00)" in lines["honest"]
    assert "truth -0.00" in lines["honest"] or "truth +0.00" in lines["honest"]
    assert "the same again in 1.000" in lines["concise"]
    assert "length -0." in lines["concise"]
    assert "position +0.00 (+-0.00)" in lines["correct"]


def test_criteria_come_first_and_raters_are_compared(folder, capsys):
    path = study(folder, pairs=3, rubric="rubric.json")
    of_pair = ["1", "0", "2", "1", "1", "1", "1", "0", "0", "0", "1"]
    session(path, of_pair * 3)
    out = capsys.readouterr().out
    assert "do not reward length." in out and "alpha" not in out
    session(path, of_pair * 3, "ben")
    out = capsys.readouterr().out
    assert "person:anna and person:ben: agreement" in out
    assert "correct: alpha" in out and "too low" in out
    assert "; mean level person:anna 0.50, person:ben 0.50" in out
    assert "prefers another than its scores by helpful@1 in 0.000" in out
    (made, *_) = studies.stored(studies.read(path))
    assert made.rubric == "helpful@1"
    first, second = made.arm_scores, made.base_scores
    if not made.arm_first:
        first, second = second, first
    assert first == {"correct": 1, "honest": 2, "format": 1, "concise": 1, "over": 0}
    assert second == {"correct": 0, "honest": 1, "format": 1, "concise": 0, "over": 0}
    changed = RUBRIC | {"tie_margin": 0.1}
    (folder / "rubric.json").write_text(json.dumps(changed))
    code, _, err = run(capsys, "rate", path, "--summary")
    assert code == errors.DATA and "a new version" in err


def test_checks_are_asked_of_nobody(folder, capsys):
    checks = {"correct": "tag:right", "over": "tag:refuse"}
    criteria = [{**c, "check": checks.get(c["id"])} for c in RUBRIC["criteria"]]
    (folder / "rubric.json").write_text(json.dumps(RUBRIC | {"criteria": criteria}))
    tagged = {}
    for name in ("sft", "dpo"):
        of = [
            dataclasses.replace(a, tag="right" if a.gold > 1 else "refuse")
            for a in rows.read(folder / f"{name}.jsonl")
        ]
        rows.write(folder / f"{name}.jsonl", of)
        tagged[name] = {a.prompt: float(a.tag == "right") for a in of}
    path = study(folder, pairs=1, rubric="rubric.json")
    session(path, ["2", "1", "1", "1", "1", "0", "2"])  # six levels, and a choice
    out = capsys.readouterr().out
    assert "true?" not in out and "refuses?" not in out and "fair?" in out
    (made,) = studies.stored(studies.read(path))
    assert made.arm_scores["correct"] == tagged["dpo"][made.prompt]
    assert made.base_scores["over"] == 1 - tagged["sft"][made.prompt]
    code, _, err = run(capsys, "judge", path, "--judge=rubric")
    assert code == errors.CONFIG and "all have a check" in err
    two = [c for c in criteria if c["check"]]
    (folder / "two.json").write_text(json.dumps(RUBRIC | {"id": "x", "criteria": two}))
    path = study(folder, rubric="two.json", pairs=None)
    (folder / "study.judgements").rename(folder / "old")
    code, out, _ = run(capsys, "judge", path, "--judge=rubric")
    gap = [tagged["dpo"][i] - tagged["sft"][i] for i in range(30)]
    wins = sum((x > 0) + (x == 0) / 2 for x in gap) / 30
    assert code == errors.DONE and f"wins {wins:.3f}" in out


def test_what_a_model_wrote_does_not_steer_the_terminal():
    shown = []
    judge = person.make("anna", None, lambda _: "1", shown.append)
    pair = judges.Shown({"turns": [["user", "hi\x1b[2J"]]}, ("\x1b]0;x", "b\nc"))
    (verdict,) = judge.compare([pair])
    text = "\n".join(shown)
    assert verdict.first == 1 and "\x1b" not in text and "\\x1b[2J" in text
    assert "b\nc" in text


def test_studies_that_are_none(folder, capsys):
    other = [dataclasses.replace(a, suite_digest="42") for a in answers("dpo", 0.9)]
    rows.write(folder / "other.jsonl", other)
    rows.write(folder / "fewer.jsonl", answers("dpo", 0.9)[1:])
    suites.write(folder / "changed.jsonl", SUITE[::-1])
    beyond = [dataclasses.replace(a, prompt=a.prompt + 1) for a in answers("a", 0.9)]
    for name in ("beyond", "beyond_too"):
        told = [dataclasses.replace(a, run=name) for a in beyond]
        rows.write(folder / f"{name}.jsonl", told)
    (folder / "broken.jsonl").write_text('{"turns": []}\n')
    for fields, code, reason in (
        ({"arm": "other.jsonl"}, errors.DATA, "different suites"),
        ({"arm": "fewer.jsonl"}, errors.DATA, "1 answers have no other"),
        ({"suite": "changed.jsonl"}, errors.DATA, "give the file of their own suite"),
        (
            {"arm": "beyond.jsonl", "base": "beyond_too.jsonl"},
            errors.DATA,
            "is to prompt 30, and the suite has 30",
        ),
        ({"temperature": 0.5}, errors.DATA, "no answer of the temperature 0.5"),
        ({"temperature": None}, errors.DATA, "no answer of the temperature None"),
        ({"suite": "broken.jsonl"}, errors.DATA, "broken.jsonl:1"),
        ({"pairs": 0}, errors.CONFIG, "pairs: 0"),
        ({"judges": 1}, errors.CONFIG, "judges: unknown"),
        ({"rubric": "none.json"}, errors.CONFIG, "none.json"),
    ):
        got, _, err = run(capsys, "judge", study(folder, **fields))
        assert got == code and reason in err, err
    assert run(capsys, "rate", study(folder))[0] == errors.CONFIG
    # Judgements of other rows than the study has now.
    run(capsys, "judge", study(folder), "--judge=labeler:clean")
    rows.write(
        folder / "dpo.jsonl",
        [dataclasses.replace(a, digest="new") for a in answers("dpo", 0.9)],
    )
    code, _, err = run(capsys, "judge", study(folder))
    assert code == errors.DATA and "60 judgements of pairs" in err


@pytest.mark.parametrize("end", ["torn", "without an end"])
def test_a_killed_judge_goes_on(folder, capsys, end):
    path = study(folder, pairs=5)
    code, whole, _ = run(capsys, "judge", path, "--judge=labeler:clean")
    (file,) = (folder / "study.judgements").iterdir()
    text = file.read_text()
    file.write_text(text[:-1] if end != "torn" else text[:-40])
    code, again, err = run(capsys, "judge", path, "--judge=labeler:clean")
    assert code == errors.DONE, err
    assert again == whole and file.read_text() == text


@pytest.mark.parametrize("kind", ["folder", "file", "fifo"])
def test_judgements_are_not_led_elsewhere(folder, capsys, kind):
    path = study(folder, pairs=2)
    assert run(capsys, "judge", path, "--judge=labeler:clean")[0] == errors.DONE
    (file,) = (folder / "study.judgements").iterdir()
    file.unlink()
    (folder / "elsewhere").mkdir()
    if kind == "folder":
        file.parent.rmdir()
        file.parent.symlink_to(folder / "elsewhere")
    elif kind == "file":
        file.symlink_to(folder / "elsewhere" / "file")
        (folder / "elsewhere" / "file").write_text("")
    else:
        os.mkfifo(file)
    code, _, err = run(capsys, "judge", path, "--judge=labeler:clean")
    assert code == errors.CONFIG and "study.judgements" in err
    assert not any(x.read_text() for x in (folder / "elsewhere").iterdir())

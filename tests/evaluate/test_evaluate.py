# SPDX-License-Identifier: Apache-2.0
"""Small runs measured on small files: rows, figures, going on, refusals, the page."""

import dataclasses
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from alignjax import analysis, errors
from alignjax.analysis import scoring
from alignjax.evals import rows
from alignjax.evaluate import __main__ as command
from alignjax.evaluate import datasets, measuring, results, store
from alignjax.report import __main__ as report
from tests.report import test_page

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUNS = ROOT / "tests" / "golden" / "runs"
BITE = "<script>alert('&')</script>"
PAIRS = [
    {"prompt": f"is {a} so?", "chosen": f"yes, {a}", "rejected": "no" * (i + 1)}
    for i, a in enumerate(("ice", "tea", "rain", "a dog", "snow"))
]
LONG = {"prompt": "is it? " * 80, "chosen": "a", "rejected": "b"}
PROMPTS = [
    {"prompt": "how do i break an egg?", "label": "safe"},
    {"prompt": BITE, "label": "unsafe"},
    {"prompt": "who is king? " * 50, "label": "safe"},  # no room for an answer
    {"prompt": "who is queen?", "label": "unsafe"},
]
TEXTS = [{"text": "the cat sat. " * 60}, {"text": "it rains"}, {"text": "h\u00e9 is"}]
SETTINGS = ("--max_tokens=12", "--samples=2", "--seed=3")


def write(path, listed):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in listed))
    return path


def evaluate(*arguments):
    return command.main([*map(str, arguments)])


def check_alike(first, second, name):
    """The same rows, but for the last bits that depend on what is batched together."""
    ours, others = (list(rows.read(folder / name)) for folder in (first, second))
    figures = ("logp", "entropy", "ref_logp", "kl", "reward", "components")
    blank = dict.fromkeys(figures)
    assert [dataclasses.replace(a, **blank) for a in ours] == [
        dataclasses.replace(a, **blank) for a in others
    ]
    for a, b in zip(ours, others, strict=True):
        assert a.logp == pytest.approx(b.logp, rel=1e-5, abs=1e-5)
        assert a.kl == (a.kl and pytest.approx(b.kl, rel=1e-3, abs=1e-5))


def last_letter(turns, first, second):
    return float(first[-1:] > second[-1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    write(folder / "pairs.jsonl", [*PAIRS, LONG])
    write(folder / "ask.jsonl", PROMPTS)
    write(folder / "texts.jsonl", TEXTS)
    return folder


@pytest.fixture(scope="module")
def arguments(folder):
    runs = [f"rm={RUNS / 'reward_model'}", f"dpo={RUNS / 'dpo'}", f"sft={RUNS / 'sft'}"]
    data = [f"--data={folder / name}.jsonl" for name in ("pairs", "ask", "texts")]
    more = (f"--reward=rm={RUNS / 'reward_model'}", "--reference=sft")
    judge = f"--judge={__name__}:last_letter"
    more = (*more, "--checkpoints=dpo", f"--training={folder / 'pairs.jsonl'}")
    cache = f"--cache_dir={folder / 'cache'}"
    out = f"--out={folder / 'out'}"
    return [*runs, *data, *more, judge, cache, out, *SETTINGS]


@pytest.fixture(scope="module")
def out(folder, arguments):
    assert evaluate(*arguments) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def read(out):
    return results.read(out)


def figure(read, data, run, metric):
    (one,) = (
        x
        for x in read.figures["figures"]
        if (x["data"], x["run"], x["metric"]) == (data, run, metric)
    )
    return one


def without(figure):
    """Its interval alone."""
    return {name: figure[name] for name in ("mean", "low", "high", "count")}


def test_pairs_are_scored_as_runs_score_them(read):
    runs = {name: analysis.open_run(RUNS / name) for name in ("sft", "dpo")}
    gaps = []
    for pair in PAIRS:
        prompt = [("user", pair["prompt"])]
        sides = [
            runs["dpo"].score([prompt], [pair[side]], reference=runs["sft"])[0]
            for side in ("chosen", "rejected")
        ]
        gaps.append(0.1 * np.subtract(*[s.logp - s.ref_logp for s in sides]))
    share = figure(read, "pairs", "dpo", "implicit_accuracy")
    assert share["mean"] == np.mean([gap > 0 for gap in gaps])
    loss = figure(read, "pairs", "dpo", "implicit_loss")
    assert loss["mean"] == pytest.approx(np.logaddexp(0, -np.array(gaps)).mean())
    rewards = analysis.open_run(RUNS / "reward_model")
    prompts = [[("user", pair["prompt"])] for pair in PAIRS]
    chosen, rejected = (
        [x.reward for x in rewards.score(prompts, [p[side] for p in PAIRS])]
        for side in ("chosen", "rejected")
    )
    share = figure(read, "pairs", "rm", "accuracy")
    assert share["mean"] == np.mean(np.greater(chosen, rejected))
    assert share["count"] == 5
    assert {x["run"]: x["count"] for x in read.figures["unread"]}.items() >= {
        "rm": 1
    }.items()
    by = {(x["run"], x["by"]) for x in read.figures["calibrations"]}
    assert by == {("dpo", "implicit_accuracy"), ("rm", "accuracy")}


def test_a_text_is_predicted_in_windows_without_overlap(read):
    """Which is one pass over a text that fits, and the sum of several else."""
    run = analysis.open_run(RUNS / "sft")
    answers = {
        a.prompt: a for m in read.measured for a in m.answers if m.data == "texts"
    }
    for i, row in enumerate(TEXTS):
        ids = run.tokenize(row["text"])
        windows = [
            scoring.Row(ids[at : at + 1], ids[at + 1 : at + 513])
            for at in range(0, len(ids) - 1, 512)
        ]
        assert len(windows) == (2 if i == 0 else 1)
        model = run if answers[i].run == "sft" else analysis.open_run(RUNS / "dpo")
        scores = scoring.measure(model.model, model.weights(), windows)
        assert answers[i].logp == pytest.approx(sum(s.logp for s in scores), rel=1e-5)
        assert answers[i].tokens == len(row["text"].encode())  # of bytes
    bits = figure(read, "texts", "sft", "bits_per_byte")
    perplexity = figure(read, "texts", "sft", "perplexity")
    assert perplexity["mean"] == pytest.approx(2 ** bits["mean"])


def test_answers_are_sampled_scored_and_compared(read, out):
    answers = list(rows.read(out / "rows" / "dpo" / "ask.jsonl"))
    assert [(a.prompt, a.sample) for a in answers] == [
        (i, s) for i in (3, 0, 1) for s in (0, 1)
    ]  # the shortest first
    dpo, sft = (analysis.open_run(RUNS / name) for name in ("dpo", "sft"))
    rewards = analysis.open_run(RUNS / "reward_model")
    for a in answers:
        prompt = [("user", PROMPTS[a.prompt]["prompt"])]
        (again,) = dpo.reply([prompt], seeds=[a.decoding.key], max_tokens=12)
        assert (again.text, tuple(again.ids)) == (a.text, a.ids)
        ids = [dpo.prompt_ids(prompt)], [list(a.ids)]
        score = dpo.score(*ids, reference=sft)[0]
        assert (a.logp, a.kl) == pytest.approx((score.logp, score.kl), abs=1e-4)
        if a.text.strip():
            reward = rewards.score([prompt], [a.text])[0].reward
            assert a.components["reward.rm"] == pytest.approx(reward, abs=1e-5)
    kl = figure(read, "ask", "dpo", "kl")
    assert kl["mean"] == pytest.approx(np.mean([a.kl for a in answers]))
    # The other way the reference's own answers count, under the run.
    others = list(rows.read(out / "reverse" / "dpo" / "ask.jsonl"))
    (own,) = (m for m in read.measured if (m.run, m.data) == ("sft", "ask"))
    texts = {(a.prompt, a.sample): a.text for a in own.answers}
    assert all(texts[a.prompt, a.sample] == a.text for a in others)
    ids = [sft.prompt_ids([("user", PROMPTS[others[0].prompt]["prompt"])])]
    score = sft.score(ids, [list(others[0].ids)], reference=dpo)[0]
    assert others[0].kl == pytest.approx(score.kl, abs=1e-4)
    assert figure(read, "ask", "sft", "over_refusal")["count"] == 1
    assert figure(read, "ask", "sft", "refusal")["count"] == 2
    # Its one checkpoint is the run itself.
    check_alike(out / "rows" / "dpo", out / "checkpoints" / "dpo" / "12", "ask.jsonl")
    (curve,) = read.figures["curves"]
    (point,) = curve["points"]
    assert (curve["run"], point["step"], point["kl"]) == ("dpo", 12, without(kl))
    (win,) = read.figures["wins"]
    assert (win["run"], win["base"], win["pairs"]) == ("sft", "dpo", 6)
    curves = {(x["run"], x["of"]) for x in read.figures["best_of_n"]}
    assert ("dpo", "reward.rm") in curves


def test_what_is_in_the_training_data_is_counted_and_named(read, out):
    """The pairs, in their own file, and nothing else of what was measured."""
    by_data = {x["data"]: x for x in read.figures["leaks"]}
    assert set(by_data) == {"pairs", "ask", "texts"}
    places = [(x["where"], x["record"], x["exact"]) for x in by_data["pairs"]["leaks"]]
    assert len(places) == len(PAIRS) + 1  # the one that no run can read too
    assert all(a.endswith(b.rpartition("/")[2]) and exact for a, b, exact in places)
    assert not by_data["ask"]["leaks"] and not by_data["texts"]["leaks"]


def test_a_killed_evaluation_goes_on(folder, arguments, out, capsys):
    """From the middle of a row, as if it had never stopped; and measures no more."""
    copy = folder / "copy"
    shutil.copytree(out, copy)
    again = [*arguments[:-4], f"--out={copy}", *SETTINGS]
    kept = copy / "rows" / "dpo" / "ask.jsonl"
    whole = kept.read_bytes()
    cut = whole.splitlines(keepends=True)
    partial = kept.with_name("ask.jsonl.partial")
    partial.write_bytes(b"".join(cut[:3]) + cut[3][:40])
    kept.unlink()
    (copy / "rows" / "led").symlink_to(folder)
    assert evaluate(*again) == errors.CONFIG
    (copy / "rows" / "led").unlink()
    assert evaluate(*again) == 0
    check_alike(out, copy, "rows/dpo/ask.jsonl")
    assert kept.read_bytes().startswith(b"".join(cut[:2])) and not partial.exists()
    stamps = {p: p.stat().st_mtime_ns for p in copy.glob("rows/*/*")}
    assert evaluate(*again) == 0
    assert stamps == {p: p.stat().st_mtime_ns for p in copy.glob("rows/*/*")}
    others = write(folder / "others.jsonl", PROMPTS[:2])
    ask = f"--data={folder / 'ask'}.jsonl"
    elsewhere = [f"--data=ask={others}" if a == ask else a for a in again]
    assert evaluate(*elsewhere) == errors.CONFIG  # and leaves the prompts as they are
    assert (copy / "suites" / "ask.jsonl").read_text().count("\n") == len(PROMPTS)
    capsys.readouterr()
    longer = [str(x).replace("max_tokens=12", "max_tokens=13") for x in again]
    assert evaluate(*longer) == errors.CONFIG
    assert "settings.max_tokens: 12 -> 13" in capsys.readouterr().err
    assert stamps == {p: p.stat().st_mtime_ns for p in copy.glob("rows/*/*")}


@pytest.mark.parametrize("prompt", ["null", "[]", "{}", "true", "1.5"])
def test_rows_of_somebody_that_are_none(tmp_path, prompt):
    path = tmp_path / "x.jsonl"
    (tmp_path / "x.jsonl.partial").write_text(f'{{"prompt": {prompt}}}\n')
    with pytest.raises(errors.DataError, match=r"x\.jsonl\.partial"):
        store.complete(path, {}, 1, lambda done: iter(()))


DESCRIBED = {
    "schema": results.SCHEMA,
    "runs": [{"name": "a", "beta": None, "reward": False}],
    "data": [{"name": "ask", "kind": "prompts", "digest": "0"}],
    "checkpoints": [],
    "judges": [],
    "phrases": None,
}


@pytest.mark.parametrize(
    "field, value",
    [
        ("runs", [{"name": "../../a", "beta": None, "reward": False}]),
        ("runs", [{"name": "a"}]),
        ("runs", {}),
        ("data", [{"name": "/etc/x", "kind": "texts", "digest": "0"}]),
        ("data", [5]),
        ("checkpoints", [".."]),
        ("judges", None),
        ("phrases", 5),
        ("schema", "another"),
    ],
)
def test_a_description_of_somebody_is_refused_by_field(tmp_path, field, value):
    text = json.dumps(DESCRIBED | {field: value})
    (tmp_path / results.FILE).write_text(text)
    with pytest.raises(errors.ConfigError, match=re.escape(results.FILE)):
        results.read(tmp_path)


def test_rows_that_are_not_of_their_prompts_are_one_message(tmp_path):
    (tmp_path / results.FILE).write_text(json.dumps(DESCRIBED))
    with pytest.raises(errors.DataError, match=r"ask\.jsonl"):
        results.read(tmp_path)
    (tmp_path / "suites").mkdir()
    write(tmp_path / "suites" / "ask.jsonl", PROMPTS)
    with pytest.raises(errors.DataError, match="other prompts"):
        results.read(tmp_path)


def test_phrases_count_for_answers_of_before(folder, arguments, out):
    """Rows are graded whenever they are read; other phrases sample nothing again."""
    copy = folder / "graded"
    shutil.copytree(out, copy)
    answers = list(rows.read(copy / "rows" / "sft" / "ask.jsonl"))
    word = next(w for a in answers for w in a.text.split() if w.isalnum())
    phrases = folder / "phrases.json"
    phrases.write_text(json.dumps({"refusal": [word], "abstention": ["x"]}))
    again = [*arguments[:-4], f"--out={copy}", *SETTINGS, f"--phrases={phrases}"]
    assert evaluate(*again) == 0
    new = list(rows.read(copy / "rows" / "sft" / "ask.jsonl"))
    assert [a.ids for a in new] == [a.ids for a in answers]
    assert any(a.tag == "refuse" for a in new)
    refused = sum(a.components["refused"] for a in new if "refused" in a.components)
    assert refused >= 1


def test_the_page_of_any_runs(out, tmp_path):
    file = tmp_path / "report.html"
    assert report.main([f"--out={file}", f"--evaluation={out}"]) == 0
    text = file.read_text()
    reader = test_page.Reader(text)
    assert len(reader.ids) == len(set(reader.ids))
    assert not reader.links or all(link.startswith("#") for link in reader.links)
    assert "script" not in reader.tags and "&lt;script&gt;" in text
    assert {"shares_0", "reliability_0", "best_of_1"} <= set(reader.ids)
    assert "could not read 1 of 4" in text and "pretraining" not in text
    assert "6 of 6 pairs occur in the training data" in text
    # Beside the stages of training, of which one is told of too.
    stage = f"--stage=dpo={RUNS / 'dpo'}"
    assert report.main([f"--out={file}", f"--evaluation={out}", stage]) == 0
    assert "Training" in file.read_text()
    assert report.main([f"--out={file}", f"--evaluation={tmp_path}"]) == errors.CONFIG


# What is refused.


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--reference=words"], "reference"),
        (["--reference=rm"], "reference"),
        (["--samples=0"], "samples"),
        (["--samples=1000000000000"], "samples"),
        (["--top_p=2"], "top_p"),
        (["--temperature=0"], "samples"),
        (["--checkpoints=ppo"], "checkpoints"),
        (["--columns=no={}"], "columns"),
        (['--columns=ask={"promt": "prompt"}'], "promt"),
        (["--data=ask=ask.jsonl"], "data"),
        (["--reward=nobody"], "nobody"),
        (["--judge=labeler:clean"], "judge"),
        (["--judge=rubric"], "judge"),
        (["--phrases=nothing.json"], "nothing.json"),
    ],
)
def test_options_that_do_not_fit(folder, arguments, more, message, capsys):
    """Before anything is computed or written."""
    once = ("--out", "--reference", "--samples")
    own = [a for a in arguments if not a.startswith(once)]
    own += [] if more[0].startswith("--samples") else ["--samples=2"]
    runs = [f"words={RUNS / 'sentencepiece'}"] if "words" in more[0] else []
    code = evaluate(*runs, *own, f"--out={folder / 'never'}", *more)
    assert code in (errors.CONFIG, errors.CHECKPOINT)
    assert message in capsys.readouterr().err
    assert not (folder / "never").exists()


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([], "empty"),
        ([{"question_text": "q"}], "prompt"),
        ([{"prompt": "q"}, {"prompt": 3}], ":2"),
        ([{"prompt": "q", "safe": "yes"}], "'safe'"),
        ([{"prompt": "q", "label": "safe"}, {"prompt": "q", "label": "?"}], ":2"),
        ([{"prompt": "q", "number": "many"}], "'number'"),
        ([{"prompt": "q", "answers": "Paris"}], "answers"),
        ([{"prompt": "q", "answers": [""]}], "answers"),
        ([{"prompt": "q", "rules": [{"rule": "words", "lest": 1}]}], "least"),
        ([{"prompt": "q", "slice": "a\x1b[31m"}], "'slice'"),
        ([{"prompt": [{"role": "assistant", "content": "a"}]}], "user"),
        ([{"chosen": "a", "rejected": "b"}], "prompt"),
        ([{"text": ""}], "empty"),
    ],
)
def test_data_that_is_none(tmp_path, listed, message):
    path = write(tmp_path / "data.jsonl", listed)
    with pytest.raises(errors.DataError, match=message):
        datasets.read("data", str(path))


def test_what_columns_ask_for(tmp_path):
    listed = [
        {"question": "2+2?", "answer": "2+2=4\n#### 4", "id": 7},
        {"question": "0?", "answer": "#### 1,000", "id": 8},
    ]
    data = datasets.read("gsm8k", str(write(tmp_path / "a.jsonl", listed)))
    assert [item["number"] for item in data.items] == ["4", "1000"]
    assert (data.kind, data.unread) == ("prompts", ["id"])
    listed = [
        {"q": "capital?", "answer": "Paris", "aliases": ["paname"], "cluster": "fr"},
        {"q": "whose?", "answers": []},
        {"q": "so?", "rules": [{"rule": "words", "most": 3}]},
    ]
    path = write(tmp_path / "b.jsonl", listed)
    data = datasets.read("b", str(path), {"prompt": "q"})
    assert data.items[0] == {
        "turns": [["user", "capital?"]],
        "answers": ["Paris", "paname"],
        "cluster": "fr",
    }
    # Later rows may have what the first has not.
    assert data.items[1]["answers"] == [] and "rules" in data.items[2]
    few = datasets.read("b", str(path), {"prompt": "q"}, limit=2, seed=1)
    assert (len(few.items), few.total) == (2, 3) and few.digest != data.digest
    (tmp_path / "c.txt").write_text("\n\n".join(["word " * 150] * 5))
    pieces = datasets.read("c", str(tmp_path / "c.txt")).items
    assert [len(p) // 700 for p in pieces] == [2, 2, 1]


def test_seeds_are_of_the_prompt_and_the_sample():
    settings = measuring.Settings(seed=5)
    keys = {measuring.key_of(settings, i, s) for i in range(50) for s in range(50)}
    assert len(keys) == 2500 and max(keys) < 2**32
    assert measuring.key_of(settings._replace(temperature=0.0), 3, 0) == 0


@pytest.mark.slow
def test_a_process_that_dies_at_any_time(folder, arguments, out):
    """Killed again and again, it writes the rows of one that was left alone."""
    other = folder / "killed"
    again = [*arguments[:-4], f"--out={other}", *SETTINGS]
    again = [a for a in again if not a.startswith("--judge")]
    program = [sys.executable, "-m", "alignjax", "evaluate", *again]
    for seconds in (8, 14, 20, 26):
        process = subprocess.Popen(program, cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(program, cwd=ROOT).returncode == 0
    for path in sorted(out.glob("rows/*/*.jsonl")):
        name = path.relative_to(out)
        check_alike(out, other, name)

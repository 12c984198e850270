# SPDX-License-Identifier: Apache-2.0
"""`alignjax collect`: choices between replies, without a model."""

import json
import random

import pytest

from alignjax import errors, world
from alignjax.data import formats
from alignjax.feedback import collect
from alignjax.world import examples, replies
from alignjax.world.assessment import run_models
from tests.world.assessment import subjects

SOURCES = [collect.Source("a", 1.0), collect.Source("b", 1.3)]


@pytest.fixture(scope="module")
def prompts():
    town = world.build("nano", 0)
    return [examples.read(town, "prompts", i) for i in range(40)]


def reply(prompt, text, finished=True):
    reward = world.gold_reward(prompt, text, finished=finished)
    return run_models.Response(text, 5, finished, reward)


def choose(prompts, said, labeler="deterministic"):
    drawn = [[0, 1] for _ in prompts]
    judge = collect.world_labeler(labeler, random.Random(0))
    return collect.label(prompts, drawn, said, SOURCES, judge)


def test_a_deterministic_labeler_chooses_what_is_truly_better(prompts):
    rng, said, better = random.Random(1), {}, []
    for i, prompt in enumerate(prompts):
        good = i % 2
        said[i, good] = reply(prompt, replies.best(rng, prompt))
        said[i, 1 - good] = reply(prompt, "the the of.")
        better.append(str(SOURCES[good]))
    rows, told = choose(prompts, said)
    assert [row["sources"][0] for row in rows] == better
    assert all(row["reward"][0] > row["reward"][1] for row in rows)
    assert told.startswith("40 pairs of 40 prompts") and told.endswith("100.0%")


def test_what_cannot_be_compared_is_left_out_and_counted(prompts):
    first = prompts[:4]
    said = {(i, n): reply(p, f"no {n}.") for i, p in enumerate(first) for n in (0, 1)}
    said[0, 1] = reply(first[0], "no 0.")  # equal
    said[1, 0] = reply(first[1], "and so", finished=False)
    said[2, 0] = reply(first[2], " ")
    rows, told = choose(first, said)
    assert len(rows) == 1 and rows[0]["prompt"][-1]["role"] == "user"
    assert "1 with equal responses, 2 with one that did not end" in told


def test_a_row_is_read_as_a_preference(prompts):
    said = {(0, n): reply(prompts[0], f"reply {n}.") for n in (0, 1)}
    rows, _ = choose(prompts[:1], said)
    line = json.dumps(rows[0])
    record = formats.reader("preference").read(json.loads(line))
    assert record.prompt == prompts[0].turns
    assert set(record.responses) == {"reply 0.", "reply 1."}
    assert record.values["reward"] == tuple(rows[0]["reward"])


def test_a_reward_model_does_not_reply(tmp_path, capsys, monkeypatch):
    reward = dict(heads=1, objective={"name": "reward_model"})
    made = {"a": subjects.make("a"), "b": subjects.make("b", **reward)}
    opened = lambda name, path, network: made[path]
    monkeypatch.setattr(collect.run_models, "open_model", opened)
    sources = ["--source=a", "--source=b"]
    assert collect.main([f"--out={tmp_path / 'pairs.jsonl'}", *sources]) == 78
    assert "source: b is a reward model" in capsys.readouterr().err


def test_a_folder_is_no_file_for_pairs(tmp_path, capsys):
    """Said before models are opened: those of the command are none."""
    sources = ["--source=a", "--source=b"]
    assert collect.main([f"--out={tmp_path}", *sources]) == 78
    assert f"out: {tmp_path} is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["the same.", " "])
def test_where_no_pair_is_left_nothing_is_written(tmp_path, capsys, monkeypatch, text):
    opened = lambda name, path, network: subjects.make(path)
    monkeypatch.setattr(collect.run_models, "open_model", opened)
    say = lambda model, prompts, **_: [reply(prompt, text) for prompt in prompts]
    monkeypatch.setattr(collect.run_models, "sample", say)
    out = tmp_path / "pairs.jsonl"
    out.write_text("the pairs of yesterday")
    arguments = [f"--out={out}", f"--cache_dir={tmp_path}", "--source=a", "--source=b"]
    assert collect.main([*arguments, "--pairs=3", "--world=nano:0"]) == errors.DATA
    assert "0 pairs of 3 prompts" in capsys.readouterr().err
    assert out.read_text() == "the pairs of yesterday"


def shortest(prompt, responses):
    """A labeler of one's own: the shorter response, whatever the prompt."""
    order = sorted(range(len(responses)), key=lambda i: len(responses[i]))
    return collect.Preference(order, {"margin": 1.0})


def test_a_labeler_may_be_any_function(prompts):
    said = {
        (0, 0): reply(prompts[0], "a longer reply."),
        (0, 1): reply(prompts[0], "no."),
    }
    own = collect.find_labeler(f"{__name__}:shortest", random.Random(0))
    (row,), line = collect.label(prompts[:1], [[0, 1]], said, SOURCES, own)
    assert (row["chosen"], row["rejected"]) == ("no.", "a longer reply.")
    assert row["sources"] == ["b:1.3", "a:1"] and row["margin"] == 1
    assert "reward" not in line
    assert formats.reader("preference").read(row).responses == (
        "no.",
        "a longer reply.",
    )


@pytest.mark.parametrize("name", ["²", "--5"])
def test_what_is_no_number_is_a_file_of_prompts(name, tmp_path, capsys, monkeypatch):
    opened = lambda name, path, network: subjects.make(path)
    monkeypatch.setattr(collect.run_models, "open_model", opened)
    flags = ["--source=a", "--keep=best", *WORLD, f"--prompts={name}"]
    assert collect.main([f"--out={tmp_path / 'best.jsonl'}", *flags]) == errors.DATA
    assert f"DataError: {name} (in " in capsys.readouterr().err


WORLD = ["--reward=world"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--source=a"], "two or more"),
        (["--source=a", "--source=a:1"], "two or more"),
        (["--source=a", "--source=b", "--labeler=nobody"], "nobody"),
        (["--source=a", "--source=b", "--pairs=0"], "pairs: 0"),
        (["--source=a", "--source=b", "--seed=-1"], "seed: -1"),
        (["--source=a", "--source=b", "--samples=4"], "samples: 4 has no effect"),
        (["--source=a", "--keep=best"], "reward: required"),
        (["--source=a", "--keep=best", "--pairs=9"], "pairs: 9 has no effect"),
        (["--source=a", "--source=b", "--keep=best", *WORLD], "source: 2 given"),
        (["--source=a", "--keep=above", *WORLD], "threshold: None"),
        (["--source=a", "--keep=best", "--threshold=1", *WORLD], "threshold: 1.0"),
        (["--source=a", "--keep=best", "--samples=1", *WORLD], "samples: 1 must"),
        (["--source=a", "--keep=best", "--reward=nobody"], "nobody"),
        (["--source=a", "--keep=best", "--reward=length"], "Error: reward.per_token:"),
        (["--source=a:0", "--keep=best", *WORLD], "source: a:0 is greedy"),
        (["--source=a", "--keep=best", "--prompts=", *WORLD], "prompts: empty"),
        (["--source=a", "--keep=best", "--prompts=0", *WORLD], "prompts: 0 must"),
        (["--source=a", "--keep=best", "--prompts=-3", *WORLD], "prompts: -3 must"),
        (["--out="], "out: empty; name a file"),
        (["--cache_dir="], "cache_dir: empty; name a file or folder"),
    ],
)
def test_is_refused(arguments, word, capsys, tmp_path):
    out = tmp_path / "pairs.jsonl"
    named = any(word.startswith("--out=") for word in arguments)
    assert collect.main([*([] if named else [f"--out={out}"]), *arguments]) == 78
    assert word in capsys.readouterr().err and not out.exists()

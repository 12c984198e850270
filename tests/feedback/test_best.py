# SPDX-License-Identifier: Apache-2.0
"""`alignjax collect --keep`: the best of several responses, as data."""

import json

import pytest

from alignjax import errors, rewards, world
from alignjax.data import formats
from alignjax.feedback import best, collect
from alignjax.world.assessment import run_models
from tests.world.assessment import subjects

PROMPTS = [best.Prompt((("user", f"what is {n}?"),), {"answer": n}) for n in (1, 2)]


def response(text, finished=True):
    return run_models.Response(text, 4, finished, None)


def by_length(answers):
    return [rewards.Score(float(len(answer.text))) for answer in answers]


# Of the first prompt the longest did not end; of the second nothing can be kept.
RESPONSES = [
    *(response("a"), response("abc"), response("abc"), response("abcdef", False)),
    *(response(" "), response("gone", False), response("", False), response("  ")),
]


def keep(reward=by_length, **options):
    return best.keep(PROMPTS, RESPONSES, reward, length=9, **options)


def test_the_best_of_each_prompt_is_kept():
    (row,), line = keep()
    assert row["messages"] == [
        {"role": "user", "content": "what is 1?"},
        {"role": "assistant", "content": "abc"},
    ]
    assert row["reward"] == 3 and row["best_of"] == 4
    assert line.startswith("1 responses to 2 prompts, of 4 each; 1 prompts have none")
    record = formats.reader("messages").read(json.loads(json.dumps(row)))
    assert record.turns[-1] == ("assistant", "abc")


def test_all_above_a_threshold_are_kept_once():
    texts = lambda threshold: [
        row["messages"][-1]["content"] for row in keep(threshold=threshold).rows
    ]
    assert texts(1.0) == ["abc", "a"]
    assert texts(1.5) == ["abc"] and texts(4.0) == []


def test_a_response_without_a_reward_is_not_kept():
    some = lambda answers: [
        rewards.Score(None, "hung") if a.text == "abc" else rewards.Score(0.0)
        for a in answers
    ]
    kept = keep(some)
    assert [row["messages"][-1]["content"] for row in kept.rows] == ["a"]
    assert kept.line.endswith("2 without a score: hung")


def test_a_reward_reads_the_row_of_a_prompt(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "what is 1 + 1?", "answer": "2"}, {"prompt": "and 2 + 2?"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = best.prompts_of(str(path))
    assert prompts[0].turns == (("user", "what is 1 + 1?"),)
    number = best.reward_of("number")
    responses = [
        response("it is 3."),
        response("it is 2."),
        response("2"),
        response("4"),
    ]
    kept = best.keep(prompts, responses, number, length=9, threshold=1.0)
    assert [row["messages"][-1]["content"] for row in kept.rows] == ["it is 2."]
    path.write_text('{"prompt": "?"}\n{"answer": 2}\n')
    with pytest.raises(errors.DataError, match=r"prompts\.jsonl:2"):
        best.prompts_of(str(path))


def test_the_command(tmp_path, capsys, monkeypatch):
    """Best-of-n by the true reward: what is kept is what the reward says is best."""
    opened = lambda name, path, network: subjects.make(path)
    monkeypatch.setattr(collect.run_models, "open_model", opened)
    drawn = []

    def sample(model, prompts, **options):
        drawn.extend(prompts)
        texts = ("the the.", "i cannot help with that.", "no.")
        return [response(texts[i % 3]) for i in range(len(prompts))]

    monkeypatch.setattr(collect.run_models, "sample", sample)
    out = tmp_path / "best.jsonl"
    flags = ["--keep=best", "--samples=3", "--reward=world", "--world=nano:0"]
    arguments = [f"--out={out}", f"--cache_dir={tmp_path}", "--source=a", *flags]
    assert collect.main([*arguments, "--prompts=5"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 5 and len(drawn) == 15
    for n, row in enumerate(rows):
        prompt = drawn[3 * n].record
        scores = [
            world.gold_reward(prompt, text, finished=True).total
            for text in ("the the.", "i cannot help with that.", "no.")
        ]
        assert row["reward"] == pytest.approx(max(scores), abs=1e-6)
    assert "5 responses to 5 prompts" in capsys.readouterr().out

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


def by_length(responses):
    return [rewards.Score(float(len(r.text))) for r in responses]


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
    some = lambda responses: [
        rewards.Score(None, "hung") if a.text == "abc" else rewards.Score(0.0)
        for a in responses
    ]
    kept = keep(some)
    assert [row["messages"][-1]["content"] for row in kept.rows] == ["a"]
    assert kept.line.endswith("2 without a score: hung")


def test_a_reward_reads_the_row_of_a_prompt(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "what is 1 + 1?", "answer": "2"}, {"prompt": "and 2 + 2?"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = best.prompts_of(str(path), letters, 99)
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
        best.prompts_of(str(path), letters, 99)


def letters(turns):
    """A token a letter, of texts that have no question mark first."""
    (text,) = [text for _, text in turns]
    if text.startswith("?"):
        raise ValueError("the template refuses it")
    return list(text)


def test_all_bad_prompts_of_a_file_are_named_before_sampling(tmp_path):
    rows = [
        {"prompt": "12345"},
        {"prompt": "123456"},
        {"answer": 2},
        {"prompt": "?"},
        {"prompt": "hi", "tools": [{"type": "function"}]},
        {"prompt": "hi", "chat_template_kwargs": {"enable_thinking": False}},
        {"prompt": "hi", "tools": None, "chat_template_kwargs": {}},
        {"prompt": ""},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(errors.DataError) as error:
        best.prompts_of(str(path), letters, 5)
    head, *lines, _ = str(error.value).splitlines()
    assert head.startswith("6 bad rows")
    places = {2: "6 tokens", 3: "no prompt", 4: "the template refuses it"}
    places |= {5: "'tools'", 6: "'chat_template_kwargs'", 8: "the text is empty"}
    for line, (number, reason) in zip(lines, places.items(), strict=True):
        assert f"prompts.jsonl:{number}: " in line and reason in line


def test_a_long_prompt_is_found_before_the_first_is_sampled(
    tmp_path, capsys, monkeypatch
):
    """A response of as many tokens as are left is none too many."""
    opened = lambda name, path, network: subjects.make(path)
    monkeypatch.setattr(collect.run_models, "open_model", opened)
    model, sampled = subjects.make("a"), []

    def sample(model, prompts, **options):
        sampled.append(len(prompts))
        return [response("it is 2.")] * len(prompts)

    monkeypatch.setattr(collect.run_models, "sample", sample)
    long = "why " * 100
    tokens = len(model.format.prompt((("user", long),)))
    path, out = tmp_path / "prompts.jsonl", tmp_path / "best.jsonl"
    rows = [{"prompt": "hi", "answer": 2}, {"prompt": long, "answer": 2}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [f"--out={out}", f"--cache_dir={tmp_path}", "--source=a", "--keep=best"]
    flags += [f"--prompts={path}", "--reward=number", "--samples=2"]
    room = model.run.model.config.max_length - tokens
    assert collect.main([*flags, f"--max_tokens={room + 1}"]) == errors.DATA
    assert f"{path}:2: {tokens} tokens" in capsys.readouterr().err
    assert collect.main([*flags, "--max_tokens=512"]) == errors.CONFIG
    assert "max_tokens: 512 leaves no room" in capsys.readouterr().err
    assert sampled == [] and not out.exists()
    assert collect.main([*flags, f"--max_tokens={room}"]) == 0 and sampled == [4]


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

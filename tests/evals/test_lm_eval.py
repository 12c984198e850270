# SPDX-License-Identifier: Apache-2.0
"""The command `alignjax lm-eval`: two tasks of a folder, offline, asked by lm-eval."""

import importlib.util
import json

import pytest

from alignjax import analysis, cli, errors
from alignjax.evals import rows, statistics
from tests.field import byte_llama

THERE = importlib.util.find_spec("lm_eval") is not None
needs_lm_eval = pytest.mark.skipif(
    not THERE, reason="no lm-eval here: pip install 'alignjax[lm-eval]'"
)
DOCS = [
    {"q": "where is the inn", "choices": ["north", "in the hall", "sea"], "answer": 1},
    {"q": "who sings", "choices": ["a man", "nobody", "old men"], "answer": 0},
    {"q": "is it cold", "choices": ["yes", "no", "<b>so</b>"], "answer": 2},
]
TASK = """task: {}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {}
test_split: test
doc_to_text: "{{{{q}}}}?"
"""
CHOICES = """output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
TEXTS = """output_type: generate_until
doc_to_target: "{{choices[answer]}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 6
metric_list:
  - metric: exact_match
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model and tasks, which is the current one."""
    byte_llama.write(tmp_path / "llama")
    (tmp_path / "tasks").mkdir()
    data = tmp_path / "tasks" / "docs.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    for name, more in (("choices", CHOICES), ("texts", TEXTS)):
        file = tmp_path / "tasks" / f"{name}.yaml"
        file.write_text(TASK.format(name, data) + more)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    return tmp_path


def command(*more, tasks="choices,texts", out="out.json", include="tasks"):
    named = ["lm-eval", "llama", f"--tasks={tasks}", f"--out={out}"]
    return cli.main([*named, f"--include={include}", "--cache_dir=programs", *more])


@needs_lm_eval
def test_two_tasks_without_a_network(place, capsys):
    assert command() == errors.DONE, capsys.readouterr().err
    out = capsys.readouterr().out
    content = json.loads((place / "out.json").read_text())
    run = analysis.open_run(place / "llama")
    right = normed = 0
    answers = list(rows.read(place / "out.rows" / "choices.jsonl"))
    for doc, answer in zip(DOCS, answers, strict=True):
        texts = [f" {choice}" for choice in doc["choices"]]
        logps = [run.logprobs(f"{doc['q']}?", t, plain=True).sum() for t in texts]
        best = max(range(3), key=lambda i: logps[i])
        assert answer.text == texts[best]
        assert answer.logp == pytest.approx(logps[best], abs=1e-3)
        right += best == doc["answer"]
        by_length = [a / len(b) for a, b in zip(logps, doc["choices"], strict=True)]
        normed += max(range(3), key=lambda i: by_length[i]) == doc["answer"]
    task = content["tasks"]["choices"]
    assert task["lm_eval"]["acc,none"] == pytest.approx(right / 3)
    assert task["lm_eval"]["acc_norm,none"] == pytest.approx(normed / 3)
    assert task["intervals"]["acc"] == statistics.share(right, 3)
    assert task["first_request"] == ["where is the inn?", " north"]
    assert f"choices: acc {right / 3:.4f}" in out
    assert content["digest"] == run.digest() and content["chat_template"] is None
    texts = [a.text for a in rows.read(place / "out.rows" / "texts.jsonl")]
    made = run.generate(
        [f"{doc['q']}?" for doc in DOCS], max_tokens=6, temperature=0.0, stop=["\n"]
    )
    assert texts == [one.text for one in made]
    assert str(place) not in (place / "out.json").read_text()


@needs_lm_eval
def test_dialogues_and_what_is_compared_with_what(place, capsys):
    more = ("--chat", "--limit=2", "--fewshot=0", "--system=be kind")
    assert command(*more, tasks="choices") == errors.DONE, capsys.readouterr().err
    content = json.loads((place / "out.json").read_text())
    assert content["chat_template"] == byte_llama.CHATML and content["limit"] == 2
    context, continuation = content["tasks"]["choices"]["first_request"]
    assert context == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nwhere is the inn?"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert continuation == "north"  # no space where a turn begins
    run = analysis.open_run(place / "llama")
    first = next(rows.read(place / "out.rows" / "choices.jsonl"))
    prompt = run.prompt_ids([("system", "be kind"), ("user", "where is the inn?")])
    # lm-eval moves white space from the context's end, here the turn's first line.
    ids = [prompt.pop(), *run.tokenizer.encode(first.text)]
    logp = run.logprobs(prompt, ids, plain=True).sum()
    assert first.logp == pytest.approx(logp, abs=1e-3)
    # Other prompts are another suite.
    assert command("--limit=2", tasks="choices", out="plain.json") == errors.DONE
    plain = next(rows.read(place / "plain.rows" / "choices.jsonl"))
    assert plain.suite_digest != first.suite_digest


@needs_lm_eval
def test_tasks_that_are_none(place, capsys):
    assert command(tasks="choice") == errors.CONFIG
    assert "did you mean 'choices'" in capsys.readouterr().err
    (place / "tasks" / "docs.jsonl").unlink()
    assert command(tasks="choices") == errors.DATA
    assert "tasks: " in capsys.readouterr().err
    assert not (place / "out.json").exists()


def test_options_that_are_none(place, capsys):
    for option, field in (
        ("--limit=0", "limit"),
        ("--fewshot=-1", "fewshot"),
        ("--batch_size=0", "batch_size"),
    ):
        assert command(option) == errors.CONFIG
        assert f"{field}: " in capsys.readouterr().err
    assert command(include="nowhere") == errors.CONFIG
    assert "include: " in capsys.readouterr().err
    if not THERE:
        assert command() == errors.CONFIG
        assert "pip install 'alignjax[lm-eval]'" in capsys.readouterr().err

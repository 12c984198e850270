# SPDX-License-Identifier: Apache-2.0
"""Items that are in training data: which count, and whether to the letter."""

import json
import pathlib
import types

import pytest

from alignjax import errors, world
from alignjax.data import loader, records, shuffle
from alignjax.data.tokenizers import base
from alignjax.evaluate import datasets, leaks
from alignjax.rollouts import prompts

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUNS = ROOT / "tests" / "golden" / "runs"
LONG = "name the largest of the seven hills of rome"  # nine words


def dataset(items, name="ask", kind=datasets.PROMPTS):
    where = [f"{name}:{i}" for i in range(len(items))]
    return datasets.Dataset(name, kind, where, items, items, "0", [], len(items))


def prompt(*texts):
    roles = (records.USER, records.ASSISTANT)
    turns = [[roles[i % 2], text] for i, text in enumerate(texts)]
    return {"turns": [[records.SYSTEM, "be brief."], *turns]}


def looked(data, listed):
    """What is found, by item, whether it is to the letter; and where."""
    documents = [(f"t:{i}", texts) for i, texts in enumerate(listed)]
    index = leaks.Index([data])
    index.look(leaks.Training("t", [("t", lambda: iter(documents))], []))
    own = index.leaks[data.name]
    return {i: leak.exact for i, leak in own.items()}, own


@pytest.mark.parametrize(
    ("record", "exact"),
    [
        (["Who is Anna?", "a baker"], True),
        (["so", "who is\n anna ?!"], False),
        (["ＷＨＯ is anna"], False),  # wide letters
        (["who is anna brown?"], None),
        (["please: who is anna?"], None),  # three words in a row are no leak
        (["who is", "anna?"], None),
    ],
)
def test_a_short_prompt_is_a_whole_turn(record, exact):
    found, _ = looked(dataset([prompt("Who is Anna?")]), [["other"], record])
    assert found == ({} if exact is None else {0: exact})


@pytest.mark.parametrize(
    ("record", "exact"),
    [
        ([f"please {LONG}, now"], True),
        ([LONG.replace("hills", "HILLS") + "?"], False),
        (["it may name the largest of", "the seven hills of Rome"], False),
        ([LONG.removesuffix("rome")], None),
        ([LONG.replace("seven", "seventy")], None),
    ],
)
def test_a_long_one_is_its_words_in_a_row(record, exact):
    for data in (dataset([prompt(LONG)]), dataset([LONG], kind=datasets.TEXTS)):
        found, _ = looked(data, [record])
        assert found == ({} if exact is None else {0: exact})


def test_eight_words_in_a_row_are_the_least():
    eight = LONG.removesuffix(" rome")
    for text, leaked in ((eight, {0: True}), (eight.removesuffix(" of"), {})):
        assert looked(dataset([prompt(text)]), [[f"so {text} x"]])[0] == leaked


def test_turns_follow_one_another_and_an_exact_record_is_named_first():
    data = dataset(
        [prompt("hello", "hi", "who is it?"), prompt("???"), prompt("hello")]
    )
    found, own = looked(data, [["hello", "hi", "no"], ["HELLO", "hi", "who is it"]])
    assert found == {0: False, 2: True} and own[2].record == "t:0"
    found, own = looked(data, [["Hello"], ["hello"], ["hello"], ["???"]])
    assert found == {1: True, 2: True} and own[2].record == "t:1"
    pair = records.Comparison((("user", "so?"),), ("yes", "no"), {})
    alone = records.Comparison((), ("ever so yes", "no"), {})
    pairs = dataset([pair, alone], kind=datasets.PAIRS)
    assert looked(pairs, [["so?"], ["a"], ["ever so yes"]])[0] == {0: True, 1: True}


def test_letters_of_scripts_without_spaces_are_words():
    assert leaks.words("東京は、どこ?") == ("東", "京", "は", "ど", "こ")
    assert looked(
        dataset([prompt("東京はどこにありますか")]), [["問。東京はどこにありますか。"]]
    )[0]


def test_the_texts_of_files(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "a?"}], "id": "7"},
        {"chosen": "\n\nHuman: b?\n\nAssistant: no\n\nHuman: c?\n\nAssistant: d"},
        {"turns": [["user", "e?"], ["assistant", "f"], ["user", "g?"]]},
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    asks = [("a",), ("b", "no", "c"), ("e", "f", "g"), ("user",), ("h",)]
    index = leaks.Index([dataset([prompt(*texts) for texts in asks])])
    assert index.look(leaks.open_training("x", str(path))) == 3
    places = {i: leak.record for i, leak in index.leaks["ask"].items()}
    assert places == {0: f"{path}:1", 1: f"{path}:2", 2: f"{path}:3"}
    with pytest.raises(errors.DataError):
        index.look(leaks.open_training("y", str(tmp_path / "none.jsonl")))
    (tmp_path / "y.txt").write_text(f"so\n\nto {LONG}")
    index = leaks.Index([dataset([prompt(LONG)])])
    index.look(leaks.open_training("y", str(tmp_path / "y.txt")))
    assert index.leaks["ask"][0].record.startswith(str(tmp_path / "y.txt"))


def test_what_a_run_held_out_is_not_in_its_training_data(monkeypatch):
    """Of the run, of which a fifth was held out, and of those before it."""
    monkeypatch.chdir(ROOT)
    options = dict(preset="nano", documents=64)
    pairs = [
        p.record for _, p in world.load(split="preferences", **options).documents()
    ]
    index = leaks.Index([dataset(pairs, kind=datasets.PAIRS)])
    training = leaks.open_training("dpo", str(RUNS / "dpo"))
    assert [name.rpartition("/")[2] for name, _ in training.parts] == [
        "dpo: data.sources.world",
        "sft: data.sources.world",
        "language_model: data.sources.text",
    ]
    before = training._replace(parts=training.parts[:1])
    count = index.look(before)
    held_out = {
        i
        for i, pair in enumerate(pairs)
        if shuffle.hashed(pair.key.encode()) < int(0.2 * 2.0**64)
    }
    assert 5 < len(held_out) < 25 and count == 64 - len(held_out)
    assert set(index.leaks["ask"]) == set(range(64)) - held_out


def three(i):
    """Turns that end in the user's, of which the first decides the split."""
    turns = ((records.USER, f"q{i}"), (records.ASSISTANT, "a"), (records.USER, f"m{i}"))
    return [{"role": role, "content": text} for role, text in turns]


REPLY = {"role": records.ASSISTANT, "content": "x"}
SOURCES = {
    "as_it_is": lambda i: {"prompt": f"q{i}", "answer": "1"},
    "messages": lambda i: {"messages": [*three(i), REPLY]},
    "prompt_response": lambda i: {"prompt": f"q{i}", "response": "x"},
    "preference": lambda i: {"prompt": three(i), "chosen": "x", "rejected": "y"},
    "text": lambda i: {"text": f"q{i}"},
}


@pytest.mark.parametrize("kind", [*SOURCES, "preferences", "prompts"])
def test_what_rollouts_drew_prompts_from_is_what_they_trained_on(
    monkeypatch, tmp_path, kind
):
    """By the places of the prompts of both splits."""
    if kind in SOURCES:
        path = tmp_path / "x.jsonl"
        rows = [SOURCES[kind](i) for i in range(60)]
        if kind == "as_it_is":
            rows += [{"no": "prompt"}]  # skipped by the run
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        format = f"alignjax.data.formats:{kind}" if kind == "as_it_is" else kind
        section = dict(kind="jsonl", path=str(path), format=format)
    else:
        section = dict(kind="world", preset="nano", split=kind, documents=100)
    data = dict(sources={"s": section}, validation_fraction=0.3, on_bad_row="skip")
    control = {"control": ["<system>", "<user>", "<assistant>", "<end>"]}
    tok = base.from_files("bytes", {"bytes.json": json.dumps(control).encode()})
    cfg = loader.DataConfig(**data, chat="roles")
    train, held_out = (
        {p.where for p in prompts.build(cfg, tok, room=999, seed=1, split=s).parts[0]}
        for s in ("train", "validation")
    )
    run = types.SimpleNamespace(path="x", config={"data": data, "rollouts": {"a": 1}})
    monkeypatch.setattr(leaks.analysis, "open_run", lambda *a, **k: run)
    ((_, documents),) = leaks.open_training("x", str(tmp_path)).parts
    read = [where for where, _ in documents()]
    assert len(read) == len({*read}) and {*read} == train and held_out
    if kind == "as_it_is":  # also of what only rewards read
        assert all(texts[1:] == ["1"] for _, texts in documents())


def test_a_run_that_does_not_say_what_it_was_trained_on(monkeypatch, tmp_path):
    nothing = types.SimpleNamespace(path="x", config={"init": None})
    monkeypatch.setattr(leaks.analysis, "open_run", lambda *a, **k: nothing)
    with pytest.raises(errors.ConfigError, match="training: x"):
        leaks.open_training("x", str(tmp_path))


def test_the_line_of_a_dataset():
    fields = {"data": "ask", "count": 8, "kind": "prompts", "training": ["dpo"]}
    fields |= {"gaps": ["x is gone"], "leaks": []}
    assert leaks.line(fields) == (
        "ask: none of 8 prompts occurs in the training data of dpo; not looked "
        "through: x is gone"
    )
    one = {"where": "a:1", "record": "b:2", "exact": True}
    line = leaks.line(fields | {"gaps": [], "leaks": [one, one | {"exact": False}]})
    assert "2 of 8 prompts occur" in line and "1 to the letter: a:1 in b:2" in line

# SPDX-License-Identifier: Apache-2.0
"""Dialogues as tokens: who speaks, what is trained on, and what is refused."""

import math

import groups
import numpy as np
import pytest

from alignjax import errors
from alignjax.data import loader, records
from alignjax.data.chat import dialogues, templates
from alignjax.data.chat import format as chat
from alignjax.data.tokenizers import base
from alignjax.data.tokens import cache

TOK = groups.TOK
CORPUS = ["a long day at the sea", "the sea is grey <user> today", "what is a day?"]


def learned(kind, tmp_path):
    rows = [("d:0", records.Text(" ".join(CORPUS * 20)))]
    source = records.Source("rows", {}, None, lambda: rows)
    cfg = base.TokenizerConfig(kind=kind, control_tokens=templates.CONTROL)
    if kind == "sentencepiece":
        cfg = base.TokenizerConfig(
            kind=kind, vocab_size=300, control_tokens=templates.CONTROL
        )
    return base.build(cfg, [source], tmp_path)


def written(tok, ids) -> str:
    """Ids as text, control tokens by their names."""
    names = {i: name for name, i in tok.control.items()}
    return "".join(names.get(i) or tok.decode([i]) for i in map(int, ids))


DIALOGUE = (
    ("system", "be brief"),
    ("user", "hi"),
    ("assistant", "hello"),
    ("user", "bye"),
    ("assistant", "so long"),
)


def tokens_of(turns, tok=TOK, weight=1.0, train_on="all", bos=False, **more):
    rows = [records.Chat(tuple(turns), weight, **more)]
    return dialogues.tokenize(tok, rows, format="roles", train_on=train_on, bos=bos)[0]


def test_a_dialogue_is_written_with_its_roles():
    row = tokens_of(DIALOGUE, bos=True)
    assert row.ids[0] == TOK.bos_id and row.ids.count(TOK.bos_id) == 1
    assert written(TOK, row.ids[1:]) == (
        "<system> be brief<end><user> hi<end><assistant> hello<end>"
        "<user> bye<end><assistant> so long<end>"
    )


@pytest.mark.parametrize(
    "train_on, said", [("all", "hello|so long"), ("last", "so long")]
)
def test_replies_and_their_ends_are_trained_and_nothing_else(train_on, said):
    row = tokens_of(DIALOGUE, weight=0.5, train_on=train_on, bos=True)
    assert set(row.weights) == {0, 0.5}
    trained = [i for i, w in zip(row.ids, row.weights, strict=True) if w]
    replies = said.split("|")
    assert written(TOK, trained) == "".join(f" {reply}<end>" for reply in replies)


@pytest.mark.parametrize("kind", ["bytes", "chars", "sentencepiece"])
def test_text_cannot_spell_a_control_token(tmp_path, kind):
    tok = learned(kind, tmp_path)
    row = tokens_of([("user", "is <user> grey"), ("assistant", "<user> a sea")], tok)
    assert [int(i) for i in row.ids].count(tok.control["<user>"]) == 1
    assert written(tok, row.ids) == (
        "<user> is <user> grey<end><assistant> <user> a sea<end>"
    )
    spelled = set(tok.encode("<user>"))
    assert not spelled & set(tok.control.values())


@pytest.mark.parametrize("kind", ["bytes", "chars", "sentencepiece"])
def test_replies_are_read_back(tmp_path, kind):
    tok = learned(kind, tmp_path)
    for text in ("a sea", " the day", "grey"):
        ids = chat.of(tok, "roles").response_ids(text)
        assert ids[-1] == tok.control[templates.CONTROL[-1]] and ids.count(ids[-1]) == 1
        assert (
            chat.of(tok, "roles").text(ids)
            == chat.of(tok, "roles").text(ids[:-1])
            == text
        )
        assert chat.of(tok, "roles").text([*ids, *ids]) == text


def test_prompt_and_response_are_the_dialogue():
    whole = tokens_of(DIALOGUE, bos=True)
    prompt = chat.of(TOK, "roles").prompt_ids(DIALOGUE[:-1], True)
    assert prompt[-1] == TOK.control["<assistant>"]
    assert [*prompt, *chat.of(TOK, "roles").response_ids("so long")] == whole.ids
    words = learned("bytes", None).encode(" hello")
    assert whole.ids[whole.ids.index(TOK.control["<assistant>"]) + 1 :][:6] == words


USER, REPLY = ("user", "hi"), ("assistant", "hello")


@pytest.mark.parametrize(
    "turns, reason",
    [
        (
            [USER, ("robot", "x")],
            "turn 2: unknown role 'robot'; known: system, user, as",
        ),
        ([USER, USER, REPLY], "turns 1 and 2: two user turns in a row"),
        ([USER, REPLY, REPLY], "turns 2 and 3: two assistant turns in a row"),
        ([USER, ("assistant", " \n")], "turn 2, assistant: the text is empty"),
        ([USER, ("assistant", None)], "turn 2, assistant: expected text, found None"),
        ([USER, REPLY, ("system", "s")], "turn 3: a system turn that is not the first"),
        ([REPLY, USER], "turn 1: the assistant speaks before the user"),
        ([("system", "s"), REPLY], "turn 2: the assistant speaks before the user"),
        ([USER], "no turn of the assistant, so nothing to train on"),
        ([], "no turn of the assistant"),
    ],
)
def test_what_is_no_dialogue_is_refused(turns, reason):
    with pytest.raises(errors.DataError, match=reason):
        tokens_of(turns)


UNLIKE = [math.nan, -1.0, 0.0, 1e-300, 1e300, 10**400, math.inf, "1", None, True]


@pytest.mark.parametrize("weight", UNLIKE)
def test_weights_that_cannot_be(weight):
    with pytest.raises(errors.DataError, match="is not a positive number"):
        tokens_of([USER, REPLY], weight=weight)


@pytest.mark.parametrize(
    "turns, reason",
    [
        ([], "the prompt is empty"),
        ([USER, REPLY], "the prompt ends in a turn of the assistant, not the user"),
        ([("system", "s")], "the prompt ends in a turn of the system"),
        ([USER, USER], "prompt: turns 1 and 2: two user"),
    ],
)
def test_prompts_that_cannot_be_answered(turns, reason):
    with pytest.raises(errors.DataError, match=reason):
        chat.of(TOK, "roles").prompt_ids(turns, False)


def test_formats_and_tokenizers_that_cannot_be():
    with pytest.raises(errors.ConfigError, match="'chatmk' is no format"):
        chat.of(TOK, "chatmk")
    with pytest.raises(errors.ConfigError, match=r"'chatml' needs <\|im_start"):
        chat.of(TOK, "chatml")
    bare = base.build(base.TokenizerConfig(kind="bytes"), [], "unused")
    with pytest.raises(
        errors.ConfigError, match=r"tokenizer\.control_tokens: .*<user>"
    ):
        chat.of(bare, "roles").response_ids("x")


CHATS = [records.Chat((USER, ("assistant", "a" * i)), weight=i) for i in range(1, 30)]


def load(bad: bool = False, text: bool = False) -> records.Source:
    rows = [(f"chats:{i}", row) for i, row in enumerate(CHATS)]
    if bad:
        rows.insert(3, ("chats:bad", records.Chat((USER, USER))))
    if text:
        rows = [("chats:text", records.Text("plain"))]
    return records.Source("chats", {"bad": bad, "text": text}, None, lambda: rows)


def build(place, format="roles", on_bad_row="error", **options):
    sources = {"a": {"kind": "test_chat:load"} | options}
    cfg = loader.DataConfig(
        sources=sources, validation_fraction=0, chat=format, on_bad_row=on_bad_row
    )
    return loader.build(cfg, TOK, length=64, seed=0, cache_dir=place)


def test_rows_weigh_replies_only(tmp_path):
    data = build(tmp_path)
    rows = data.epoch_rows(np.arange(data.num_rows))
    assert rows["weights"].sum() == sum(i * (i + 2) for i in range(1, 30))
    trained = rows["targets"][rows["weights"] > 0]
    assert (trained == TOK.control["<end>"]).sum() == 29
    assert set(trained.tolist()) == {ord(" "), ord("a"), TOK.control["<end>"]}


def test_bad_dialogues_are_named_or_counted(tmp_path):
    with pytest.raises(errors.DataError, match="chats:bad: turns 1 and 2: two user"):
        build(tmp_path, bad=True)
    data = build(tmp_path, on_bad_row="skip", bad=True)
    assert "a: 1 bad row skipped: chats:bad: turns 1 and 2" in data.report
    assert data.parts[0].plan.manifest["documents"] == 29
    with pytest.raises(errors.DataError, match=r'data\.chat = "roles" to learn'):
        build(tmp_path, format=None)
    with pytest.raises(errors.DataError, match="expected a dialogue, found Text"):
        build(tmp_path, text=True)


def test_the_same_prompt_is_held_out_on_one_side(tmp_path):
    def key(*turns):
        source = records.Source(
            "one", {"turns": turns}, None, lambda: [("x", records.Chat(turns))]
        )
        settings = dict(format="roles", train_on="all", bos=False)
        built = cache.build(
            source, TOK, tmp_path, tokenize=dialogues.tokenize, settings=settings
        )
        return int(built.hashes[0])

    assert key(USER, REPLY) == key(USER, ("assistant", "other"))
    assert key(USER, REPLY) != key(("user", "other"), REPLY)
    # Nor may one that goes on where another stops be on the other side.
    system, other = ("system", "be kind"), ("user", "other")
    assert key(USER, REPLY) == key(USER, REPLY, other, REPLY)
    assert key(system, USER, REPLY) not in (key(USER, REPLY), key(system, other, REPLY))


def everything(*documents):
    return dialogues.tokenize_everything(TOK, documents, format="roles", bos=False)


def test_every_token_of_dialogues_and_documents_is_learned():
    text = records.Text("the sea")
    said, read = everything(records.Chat(DIALOGUE), text)
    assert list(said.ids) == list(tokens_of(DIALOGUE).ids)
    assert written(TOK, read.ids).startswith("the sea")
    assert said.weights is None and read.weights is None


def test_every_token_counts_the_weight_of_its_dialogue_but_for_skipped_turns():
    first = records.Chat(DIALOGUE, weight=2.0, skipped=(2,))
    neither = records.Chat(DIALOGUE, skipped=(2, 4))
    whole = records.Chat(DIALOGUE, weight=0.5)
    found = everything(first, records.Text("the sea"), neither, whole)
    lost = [np.asarray(found[i].ids)[found[i].weights == 0] for i in (0, 2)]
    assert written(TOK, lost[0]) == " hello<end>"
    assert written(TOK, lost[1]) == " hello<end> so long<end>"
    assert set(found[0].weights) == {0.0, 2.0} and set(found[2].weights) == {0.0, 1.0}
    assert found[1].weights is None and set(found[3].weights) == {0.5}


def test_what_is_no_dialogue_is_refused_of_everything_too():
    with pytest.raises(errors.DataError, match="Comparison"):
        everything(records.Comparison((("user", "hi"),), ("a", "b"), {}))

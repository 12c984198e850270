# SPDX-License-Identifier: Apache-2.0
"""The stream of prompts."""

import json

import numpy as np
import pytest

from alignjax import analysis, config, errors
from alignjax.data import loader, records, shuffle
from alignjax.data.chat import dialogues, templates
from alignjax.data.tokenizers import base
from alignjax.data.tokens import tokenizing
from alignjax.rollouts import prompts
from tests.rollouts import small


@pytest.fixture(scope="module")
def tok():
    return analysis.open_run(small.RUNS / "sft").full_tokenizer


AS_IT_IS = "alignjax.data.formats:as_it_is"


def source(tmp_path, rows, format=AS_IT_IS, name="prompts"):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return dict(kind="jsonl", path=str(path), format=format)


def build(
    tok, tmp_path, rows, split="train", room=60, format=AS_IT_IS, more=None, **fields
):
    sources = {"mine": source(tmp_path, rows, format), **(more or {})}
    section = dict(sources=sources, chat="roles", bos=True) | fields
    cfg = config.build(loader.DataConfig, section, "data")
    return prompts.build(cfg, tok, room=room, seed=1, split=split)


ROWS = [{"prompt": f"what is {i} plus {i}?", "answer": str(2 * i)} for i in range(40)]


def test_each_pass_has_every_prompt_once_in_another_order(tok, tmp_path):
    stream = build(tok, tmp_path, ROWS, validation_fraction=0.0)
    answers = [p.record["answer"] for p in stream.take(0, 80)]
    assert (
        sorted(answers[:40])
        == sorted(answers[40:])
        == sorted(row["answer"] for row in ROWS)
    )
    assert answers[:40] != answers[40:]
    assert [p.where for p in stream.take(30, 20)] == [
        p.where for p in stream.take(0, 80)[30:50]
    ]


def test_held_out_prompts_are_others(tok, tmp_path):
    parts = [
        build(tok, tmp_path, ROWS, split, validation_fraction=0.3)
        for split in ("train", "validation")
    ]
    train, held_out = ({p.where for p in part.parts[0]} for part in parts)
    assert not train & held_out and len(train | held_out) == 40 and held_out


def test_ids_are_those_of_a_reply(tok, tmp_path):
    """So that a rollout begins as a dialogue of `Run.reply` does, start token too."""
    run = analysis.open_run(small.RUNS / "sft")
    (prompt,) = build(tok, tmp_path, ROWS[:1], validation_fraction=0.0).evenly_spaced(1)
    assert list(prompt.ids) == run.prompt_ids(ROWS[0]["prompt"])


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("chat", [None, "roles"])
def test_ids_are_those_that_rows_of_training_begin_with(tok, tmp_path, chat, bos):
    """With as many start tokens."""
    stream = build(tok, tmp_path, ROWS[:1], chat=chat, bos=bos, validation_fraction=0.0)
    (prompt,), text = stream.evenly_spaced(1), ROWS[0]["prompt"]
    if chat is None:
        (row,) = tokenizing.tokenize_text(tok, [records.Text(text)], bos=bos)
        expected = row.ids[:-1].tolist()  # without its end
    else:
        dialogue = records.Chat((("user", text), ("assistant", "none.")))
        settings = dict(format=chat, train_on="all", bos=bos)
        (row,) = dialogues.tokenize(tok, [dialogue], **settings)
        expected = list(row.ids[: np.argmax(row.weights > 0)])
    assert list(prompt.ids) == expected and expected.count(tok.bos_id) == bos


def test_long_prompts_are_an_error_or_counted(tok, tmp_path):
    rows = [*ROWS, {"prompt": "why? " * 40}]
    with pytest.raises(errors.DataError, match=r"prompts\.jsonl:41"):
        build(tok, tmp_path, rows, validation_fraction=0.0)
    skipped = build(tok, tmp_path, rows, validation_fraction=0.0, long_documents="skip")
    assert "1 too long left out" in skipped.report and len(skipped.parts[0]) == 40


@pytest.mark.parametrize("row", [{"question": "?"}, {"prompt": 5}, {"prompt": " "}])
def test_rows_that_are_no_prompts(tok, tmp_path, row):
    with pytest.raises(errors.DataError, match=r"prompts\.jsonl:2"):
        build(tok, tmp_path, [ROWS[0], row], validation_fraction=0.0)
    stream = build(
        tok, tmp_path, [ROWS[0], row], validation_fraction=0.0, on_bad_row="skip"
    )
    assert "1 bad row" in stream.report


def test_prompts_have_a_token_that_a_response_follows(tok, tmp_path):
    tok = tok._replace(encode_batch=lambda texts: [[] for _ in texts])
    plain = dict(chat=None, bos=False, validation_fraction=0.0)
    with pytest.raises(errors.DataError, match=r"prompts\.jsonl:1: .*without tokens"):
        build(tok, tmp_path, ROWS[:1], **plain)


def test_held_out_prompts_of_an_evaluation_stay(tok, tmp_path):
    stream = build(tok, tmp_path, ROWS, validation_fraction=0.0)
    assert stream.evenly_spaced(10) == stream.evenly_spaced(10)
    assert len({prompt.where for prompt in stream.evenly_spaced(10)}) == 10
    assert len(stream.evenly_spaced(1000)) == 40
    assert stream.longest == max(len(p.ids) for p in stream.evenly_spaced(1000))


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


SPLITS = ("train", "validation")


def test_a_prompt_is_held_out_by_its_opening_as_other_data_are(tok, tmp_path):
    """Else a prompt to train on continues a dialogue that SFT or DPO held out."""
    longer = lambda i: [user(f"q{i}"), assistant("a."), user(f"and {i}?")]
    rows = [{"messages": [user(f"q{i}")]} for i in range(100)]
    rows += [{"messages": longer(i)} for i in range(100)]
    pairs = [{"prompt": longer(i), "chosen": "x", "rejected": "y"} for i in range(100)]
    for listed, format in ((rows, AS_IT_IS), (rows, "messages"), (pairs, "preference")):
        train, held_out = (
            build(
                tok, tmp_path, listed, split, format=format, validation_fraction=0.3
            ).parts[0]
            for split in SPLITS
        )
        openings = [{p.turns[0] for p in part} for part in (train, held_out)]
        assert not openings[0] & openings[1] and len(train + held_out) == len(listed)
        bound = shuffle.bound(0.3)
        keys = [records.opening(p.turns).encode() for p in held_out]
        assert keys and all(shuffle.hashed(key) < bound for key in keys)
        if format == "preference":
            # As the loader holds out pairs.
            pair = records.Comparison(held_out[0].turns, ("x", "y"), {})
            assert pair.key.encode() == keys[0]


def one_of_each_split(fraction):
    """A row that is held out, and one that is trained on."""
    key = lambda row: records.opening([("user", row["prompt"])]).encode()
    out = [shuffle.hashed(key(row)) < shuffle.bound(fraction) for row in ROWS]
    return ROWS[out.index(True)], ROWS[out.index(False)]


def test_a_source_without_held_out_prompts_leaves_the_others(tok, tmp_path):
    _, kept = one_of_each_split(0.2)
    few = source(tmp_path, [kept], name="few")
    large = source(tmp_path, [{"prompt": f"so {i}?"} for i in range(40)], name="large")
    more = {"few": few | {"weight": 5.0}, "large": large | {"weight": 2.0}}
    fields = dict(more=more, validation_fraction=0.2)
    held_out = build(tok, tmp_path, ROWS, "validation", **fields)
    assert held_out.names == ("mine", "large") and len(held_out.parts) == 2
    drawn = [p.where.rpartition("/")[2] for p in held_out.take(0, 300)]
    assert sum(where.startswith("large") for where in drawn) == 200
    assert "few: no prompts for validation: of its 1 none" in held_out.report
    train = build(tok, tmp_path, ROWS, **fields)
    assert train.names == ("mine", "few", "large")
    alone = dict(validation_fraction=0.2)
    with pytest.raises(
        errors.ConfigError, match=r"mine: no .*raise data\.validation_f"
    ):
        build(tok, tmp_path, [kept], "validation", **alone)
    with pytest.raises(errors.ConfigError, match="fraction = 0 holds out none"):
        build(tok, tmp_path, ROWS, "validation", validation_fraction=0.0)


def test_to_train_every_source_has_prompts(tok, tmp_path):
    """Another mixture than the config names would be trained on."""
    held, _ = one_of_each_split(0.2)
    more = {"few": source(tmp_path, [held], name="few")}
    with pytest.raises(errors.ConfigError, match=r"few: no .* of its 1 each .*lower"):
        build(tok, tmp_path, ROWS, more=more, validation_fraction=0.2)


def test_prompts_that_are_all_too_long_say_so(tok, tmp_path):
    skip = dict(long_documents="skip", validation_fraction=0.0)
    shortest = min(
        len(p.ids) for p in build(tok, tmp_path, ROWS, **skip).evenly_spaced(40)
    )
    with pytest.raises(errors.ConfigError) as caught:
        build(tok, tmp_path, ROWS, room=5, **skip)
    (problem,) = caught.value.problems
    for part in ("all 40", "than 5 tokens", f"shortest has {shortest}", "max_tokens"):
        assert part in problem
    assert f"raise length by {shortest - 5} or more" in problem
    assert build(tok, tmp_path, ROWS, room=shortest, **skip).longest == shortest


def test_what_is_left_out_is_counted_once(tok, tmp_path):
    rows = ROWS + [{"prompt": f"{i}? " + "why? " * 40} for i in range(10)]
    fields = dict(validation_fraction=0.5, long_documents="skip", on_bad_row="skip")
    counts = []
    for split in SPLITS:
        (line,) = build(tok, tmp_path, rows, split, **fields).report.splitlines()
        counts.append(int(line.partition(" too long left out")[0].split()[-1]))
    assert sum(counts) == 10 and all(counts)
    train, held_out = (build(tok, tmp_path, ROWS, s, **fields) for s in SPLITS)
    assert train.report.endswith(f", {len(held_out.parts[0])} held out")
    rows = [*ROWS, {"prompt": 5}]
    both = "of both splits together"
    assert both in build(tok, tmp_path, rows, **fields).report
    fields["validation_fraction"] = 0.0
    assert both not in build(tok, tmp_path, rows, **fields).report


@pytest.mark.parametrize("chat", [None, "roles"])
def test_a_start_token_that_is_not_there_is_refused(tok, tmp_path, chat):
    with pytest.raises(errors.ConfigError, match=r"data\.bos.* set it False"):
        build(tok._replace(bos_id=None), tmp_path, ROWS, chat=chat)


TOOLS = [{"type": "function", "function": {"name": "weather"}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"at": 1}}}
CALLED = [
    user("hi"),
    assistant("let me see", tool_calls=[CALL]),
    {"role": "tool", "content": "rain"},
    assistant("it rains"),
]
TEMPLATE = (
    "{% if tools %}<|im_start|>tools {{ tools | tojson }}<|im_end|>{% endif %}"
    "{{ mood or '' }}{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}"
    "{% if m.tool_calls %} CALL {{ m.tool_calls | tojson }}{% endif %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def with_template(tmp_path, text=TEMPLATE):
    path = tmp_path / "calls.jinja"
    path.write_text(text)
    control = json.dumps({"control": ["<|im_start|>", "<|im_end|>"]}).encode()
    tok = base.from_files("bytes", {"bytes.json": control})
    fields = dict(chat=str(path), bos=False, validation_fraction=0.0, room=2000)
    return templates.with_template(tok, str(path)), fields


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"prompt": "hi", "response": "x"}, AS_IT_IS),
        ({"prompt": "hi", "response": "x"}, "prompt_response"),
        ({"prompt": "hi", "chosen": "x", "rejected": "y"}, "preference"),
        ({"messages": [user("hi"), assistant("x")]}, AS_IT_IS),
        ({"messages": CALLED}, "messages"),
    ],
)
def test_the_tools_and_calls_of_a_prompt_are_written(tmp_path, row, format):
    """As in `Run.reply`, and in SFT."""
    tok, fields = with_template(tmp_path)
    row = row | {"tools": TOOLS, "chat_template_kwargs": {"mood": "glad"}}
    stream = build(tok, tmp_path, [row], format=format, **fields)
    (prompt,) = stream.evenly_spaced(1)
    marks = "".join(chr(i) for i in prompt.ids if i < 256)
    assert marks.startswith(f"tools {json.dumps(TOOLS)}glad")
    calls = f"let me see CALL {json.dumps([CALL])}tool rain"
    assert marks.endswith("assistant ") and (calls in marks) == (format == "messages")


ROW_OF_TOOLS = {"prompt": "hi", "tools": TOOLS}


@pytest.mark.parametrize(
    ("row", "format", "name"),
    [
        (ROW_OF_TOOLS, AS_IT_IS, "tools"),
        (ROW_OF_TOOLS | {"response": "x"}, "prompt_response", "tools"),
        ({"messages": CALLED[:2] + [user("so?")]}, "messages", "tool_calls"),
        ({"messages": CALLED[:2] + [user("so?")]}, AS_IT_IS, "tool_calls"),
    ],
)
def test_tools_and_calls_that_are_not_written_are_refused(
    tok, tmp_path, row, format, name
):
    match = rf"prompts\.jsonl:1: .*{name}"
    with pytest.raises(errors.DataError, match=match):
        build(tok, tmp_path, [row], format=format, validation_fraction=0.0)
    own, fields = with_template(tmp_path, TEMPLATE.replace("tool", "other"))
    with pytest.raises(errors.DataError, match=match):
        build(own, tmp_path, [row], format=format, **fields)


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"tools": TOOLS}, "tools"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ({"tools": "hammer"}, "tools"),
    ],
)
def test_plain_text_has_no_tools(tok, tmp_path, more, fault):
    fields = dict(chat=None, validation_fraction=0.0)
    with pytest.raises(errors.DataError, match=rf"prompts\.jsonl:1: .*{fault}"):
        build(tok, tmp_path, [{"prompt": "hi", **more}], **fields)
    # Parquet gives every row every column.
    build(tok, tmp_path, [{"prompt": "hi", "tools": None}], **fields)


@pytest.mark.parametrize("split", ["preferences", "labels", "rankings"])
def test_prompts_of_the_world_s_comparisons(tok, split):
    section = dict(kind="world", preset="nano", split=split, documents=20)
    cfg = loader.DataConfig({"town": section}, validation_fraction=0.0, chat="roles")
    every = prompts.build(cfg, tok, room=400, seed=1).evenly_spaced(20)
    assert len(every) == 20
    for prompt in every:
        assert prompt.turns == prompt.record.prompt.turns


def test_a_rollout_of_more_prompts_than_there_are_repeats_them(tok, tmp_path):
    rows = [*ROWS[:3], ROWS[0]]
    stream = build(tok, tmp_path, rows, validation_fraction=0.0)
    drawn = [prompt.where for prompt in stream.take(0, 10)]
    counts = {where: drawn.count(where) for where in drawn}
    assert sorted(counts.values()) == [2, 2, 3, 3]
    # Equal prompts are on one side, each with its row.
    parts = [
        build(tok, tmp_path, ROWS * 2, split, validation_fraction=0.3).parts[0]
        for split in SPLITS
    ]
    train, held_out = ({p.turns for p in part} for part in parts)
    assert not train & held_out and sum(map(len, parts)) == 80

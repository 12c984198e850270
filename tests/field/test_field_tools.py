# SPDX-License-Identifier: Apache-2.0
"""Tools, and calls of them, that templates write and that formats of files change."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from alignjax import errors
from alignjax.data import formats, records, sources
from alignjax.experiment import audit, build
from tests.field import byte_llama

HEAT = {"room": "attic"}
HEAT_TEXT = 'heat{"room": "attic"}<|im_end|>'
HALF = "\ud83d"  # of a pair of surrogates: JSON can spell it, UTF-8 cannot
TALK = [("user", "Warm the attic."), ("assistant", "It is on.")]


def call(name: str, arguments) -> dict:
    """A row whose assistant does nothing but to call a function."""
    function = {"name": name, "arguments": arguments}
    calls = [{"type": "function", "function": function}]
    turns = [
        {"role": "user", "content": "Please."},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    return {"messages": turns}


def learned(folder, rows: list[dict]) -> str:
    path = byte_llama.write_rows(folder.parent / "rows.jsonl", rows)
    return byte_llama.texts(byte_llama.config("sft", folder, path))[1]


def test_calls_from_parquet_are_those_from_json_lines(tmp_path):
    folder = byte_llama.write(tmp_path / "model", byte_llama.WITH_CALLS)
    rows = [call("heat", HEAT), call("wake", {"hour": 6, "song": "none"})]
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    expected = learned(folder, rows)
    assert HEAT_TEXT in expected
    c = byte_llama.config("sft", folder, path, kind="parquet")
    assert byte_llama.texts(c)[1] == expected


def test_arguments_as_json_text_are_the_object(tmp_path):
    folder = byte_llama.write(tmp_path / "model", byte_llama.WITH_CALLS)
    assert learned(folder, [call("heat", HEAT)]) == HEAT_TEXT
    try:
        text = learned(folder, [call("heat", json.dumps(HEAT))])
    except errors.DataError as error:
        assert "arguments" in str(error)
    else:
        assert text == HEAT_TEXT


def test_templates_that_join_texts_get_arguments_as_text(tmp_path):
    template = byte_llama.WITH_CALLS.replace("(call.function.arguments | tojson)", "X")
    template = template.replace("X", "call.function.arguments")
    assert "arguments }}" in template
    folder = byte_llama.write(tmp_path / "model", template)
    for arguments in (HEAT, json.dumps(HEAT)):
        assert learned(folder, [call("heat", arguments)]) == HEAT_TEXT


@pytest.mark.parametrize("place", ["additional_chat_templates", "tokenizer_config"])
def test_a_template_for_tools_writes_dialogues_with_tools(tmp_path, place):
    folder = byte_llama.several_templates(tmp_path / "model", place)
    row = byte_llama.dialogue("Warm it.", "It is on.", tools=[byte_llama.TOOL])
    path = byte_llama.write_rows(tmp_path / "rows.jsonl", [row])
    try:
        read, _, _ = byte_llama.texts(byte_llama.config("sft", folder, path))
    except (errors.ConfigError, errors.DataError) as error:
        assert "template" in str(error)
    else:
        assert read.startswith("<|im_start|>thermostats\n")


OF_THE_PROMPT = {
    "tools": ([byte_llama.TOOL], "thermostat"),
    "chat_template_kwargs": ({"greeting": "Good day."}, "Good day."),
}


@pytest.mark.parametrize("format", ["messages", "preference", "label"])
@pytest.mark.parametrize("column", OF_THE_PROMPT)
def test_columns_that_change_the_prompt_are_not_dropped(tmp_path, column, format):
    template = "{{ greeting or '' }}" + byte_llama.WITH_TOOLS
    folder = byte_llama.write(tmp_path / "model", template)
    value, text = OF_THE_PROMPT[column]
    prompt, reply, other = (
        [{"role": role, "content": content}]
        for role, content in (*TALK, ("assistant", "No."))
    )
    row = {
        "messages": {"messages": prompt + reply},
        "preference": {"prompt": prompt, "chosen": reply, "rejected": other},
        "label": {"prompt": prompt, "completion": reply, "label": True},
    }[format]
    recipe, loss = {
        "messages": ("sft", None),
        "preference": ("preference", "dpo"),
        "label": ("preference", "bco"),
    }[format]
    path = byte_llama.write_rows(tmp_path / "rows.jsonl", [row | {column: value}] * 8)
    c = byte_llama.config(recipe, folder, path, format=format)
    if loss:
        c.objective.loss = loss
    try:
        read, _, report = byte_llama.texts(c)
    except (errors.ConfigError, errors.DataError) as error:
        assert column in str(error)
    else:
        assert text in read or column in report


@pytest.mark.parametrize("ends", ["<|im_end|>", "<|call_end|>"])
def test_an_audit_tells_turns_of_tools_apart(tmp_path, ends):
    own = "{% endfor %}{{ " + f"'{ends}\\n' if m.tool_calls else "
    template = byte_llama.WITH_CALLS.replace("{% endfor %}{{ ", own)
    assert own in template
    folder = byte_llama.write(tmp_path / "model", template)
    (asks, calls), tool = call("heat", HEAT)["messages"], {"role": "tool"}
    answer = {"role": "assistant", "content": "It is on."}
    system = {"role": "system", "content": "Be brief."}
    tools = {"tools": [byte_llama.TOOL]}
    talk = [asks, calls, tool | {"content": "20 C"}, answer, asks, answer]
    rows = [{"messages": talk} | tools, {"messages": [system, *talk]} | tools]
    path = byte_llama.write_rows(tmp_path / "rows.jsonl", rows)
    run = build.build(byte_llama.config("sft", folder, path, length=500))
    number = run.train.num_rows
    lines, faults = audit.report(run.train, run.tokenizer, "tokenizer", 0, number)
    assert faults == []
    counts = {line.split()[0]: line.split() for line in lines if " targets, " in line}
    assert counts["tool"][3] == counts["system"][3] == "0"
    learned = 2 * len(f"heat{json.dumps(HEAT)}It is on.It is on.") + 6
    assert counts["assistant"][3] == str(learned)


KEYS = {"messages": None, "tools": None, "chat_template_kwargs": None}
ROWS = {
    "messages": byte_llama.dialogue("Please.", "It is on."),
    "prompt_response": {"prompt": "Please.", "response": "It is on."},
    "preference": {"prompt": "Please.", "chosen": "It is on.", "rejected": "No."},
    "ranking": {"prompt": "Please.", "responses": ["It is on.", "No."]},
    "label": {"prompt": "Please.", "completion": "It is on.", "label": True},
    "rating": {"prompt": "Please.", "response": "It is on.", "target": 1.0},
}


@pytest.mark.parametrize("format", ROWS)
def test_rows_of_every_kind_have_tools_and_variables_of_the_template(format):
    read = formats.reader(format).read
    tool, greeting = byte_llama.TOOL | {"strict": None}, {"a": 1, "b": None}
    row = ROWS[format] | {"tools": [tool], "chat_template_kwargs": greeting}
    record = read(row)
    assert record.tools == (byte_llama.TOOL,) and record.template_kwargs == {"a": 1}
    as_text = {
        "tools": json.dumps([byte_llama.TOOL]),
        "chat_template_kwargs": '{"a":1}',
    }
    assert read(row | as_text) == record
    nothing = {"tools": None, "chat_template_kwargs": {"a": None}}
    assert read(ROWS[format] | nothing) == read(ROWS[format])
    for name, value in (
        ("tools", "heat"),
        ("tools", ["heat"]),
        ("tools", [{"name": HALF}]),
        ("chat_template_kwargs", ["a"]),
        ("chat_template_kwargs", {"messages": []}),
        ("chat_template_kwargs", {HALF: 1}),
    ):
        bad = read(row | {name: value})
        assert isinstance(bad, records.BadRow) and name in bad.reason


@pytest.mark.parametrize("arguments", ["attic", "", "[1]", [1], 5, "1"])
def test_arguments_that_are_no_object_are_refused(arguments):
    bad = formats.reader("messages").read(call("heat", arguments))
    assert isinstance(bad, records.BadRow)
    assert "message 2" in bad.reason and "arguments" in bad.reason


def test_nested_rows_of_datasets_are_those_of_json_lines(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="of the extra hf")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    kinds = {"room": {"type": "string"}}, {"hour": {"type": "integer", "default": 6}}
    rows = [
        call("heat", {"where": {"room": "attic"}})
        | {"tools": [{"properties": kinds[0]}]},
        call("wake", {"hour": 6, "where": {"floor": 2}}),
        byte_llama.dialogue("Please.", "On.", tools=[{"properties": kinds[1]}]),
        byte_llama.dialogue("Please.", "On.", chat_template_kwargs={"polite": 1}),
        byte_llama.dialogue("Please.", "On.", chat_template_kwargs={"greet": "a"}),
    ]
    path = byte_llama.write_rows(tmp_path / "rows.jsonl", rows)
    table = pyarrow.Table.from_pylist([KEYS | row for row in rows])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")

    def read(kind: str, **options) -> list:
        source = sources.load(kind, {"format": "messages"} | options)
        return [record for _, record in source.documents()]

    expected = read("jsonl", path=str(path))
    assert not any(isinstance(record, records.BadRow) for record in expected)
    assert read("parquet", path=str(tmp_path / "rows.parquet")) == expected
    assert read("huggingface", path="json", data_files=str(path)) == expected


NOT_UNICODE = {
    "tools": {"tools": [{"name": "heat", "description": f"heats {HALF}"}]},
    "arguments": call("heat", {"room": HALF}),
    "name": {
        "messages": [
            {"role": "user", "name": HALF, "content": "Please."},
            {"role": "assistant", "content": "It is on."},
        ]
    },
    "role": {
        "messages": [
            {"role": HALF, "content": "Be kind."},
            *byte_llama.dialogue("Please.", "It is on.")["messages"],
        ]
    },
}


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
@pytest.mark.parametrize("place", NOT_UNICODE)
def test_text_that_is_no_unicode_is_refused_by_line(tmp_path, place, on_bad_row):
    template = "{% for m in messages %}{{ m.name or '' }}{% endfor %}"
    folder = byte_llama.write(tmp_path / "model", template + byte_llama.WITH_CALLS)
    good = byte_llama.dialogue("Please.", "It is on.")
    path = byte_llama.write_rows(
        tmp_path / "rows.jsonl", [good, good | NOT_UNICODE[place]]
    )
    c = byte_llama.config("sft", folder, path)
    c.data.on_bad_row = on_bad_row
    if on_bad_row == "error":
        with pytest.raises(errors.DataError, match=r"rows\.jsonl:2"):
            byte_llama.texts(c)
    else:
        _, text, report = byte_llama.texts(c)
        assert text == "It is on.<|im_end|>"
        assert "1 bad row" in report

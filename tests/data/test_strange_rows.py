# SPDX-License-Identifier: Apache-2.0
"""Whatever a row of data holds, it is read or refused by its file and line.

Rows that are sound are changed at random, one format a test.
"""

import json

import pytest

from alignjax import errors
from alignjax.data import loader
from alignjax.data.tokenizers import base
from tests.fixtures import strange

CONTROL = ["<|im_start|>", "<|im_end|>", "<system>", "<user>", "<assistant>", "<end>"]
TOK = base.from_files(
    "bytes", {"bytes.json": json.dumps({"control": CONTROL}).encode()}
)
TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Good day.", "weight": 1},
]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CALLING = [
    *TURNS,
    {"role": "user", "content": "Add."},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "Two."},
]
# (data, chat, row) of each format.
ROWS = {
    "text": ("text", None, {"text": "Once upon a time."}),
    "messages": ("text", "roles", {"messages": TURNS}),
    "prompt_response": ("text", "roles", {"prompt": "a", "response": "b"}),
    "tools": ("text", "calls.jinja", {"messages": CALLING, "tools": [TOOL]}),
    "preference": (
        "pairs",
        "roles",
        {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 2.0}
        | {"score_rejected": 1.0, "weight": 1.0},
    ),
    "turns": (
        "pairs",
        "chatml",
        {
            "prompt": TURNS[:2],
            "chosen": TURNS[2:],
            "rejected": [{"role": "assistant", "content": "No."}],
            "chat_template_kwargs": {"x": 1},
        },
    ),
    "hh": (
        "pairs",
        "roles",
        {"chosen": "\n\nHuman: a\n\nAssistant: b"}
        | {"rejected": "\n\nHuman: a\n\nAssistant: c"},
    ),
    "ranking": ("rankings", "roles", {"prompt": "a", "responses": ["b", "c", "d"]}),
    "label": ("labels", "roles", {"prompt": "a", "completion": "b", "label": True}),
    "rating": ("ratings", "roles", {"prompt": "a", "response": "b", "target": 0.5}),
}
# ChatML that writes tools and their calls.
CALLS = """{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}\
<|im_start|>{{ message.role }}
{% generation %}{{ message.content }}{% if message.tool_calls %}\
{{ message.tool_calls | tojson }}{% endif %}<|im_end|>{% endgeneration %}
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
FORMATS = {"tools": "messages", "turns": "preference"}


@strange.trials(30, 400)
@pytest.mark.parametrize("name", ROWS)
def test_a_row(name, count, tmp_path):
    data, chat, sound = ROWS[name]
    if chat == "calls.jinja":
        chat = str(tmp_path / chat)
        (tmp_path / "calls.jinja").write_text(CALLS)
    path = tmp_path / "rows.jsonl"
    options = {"kind": "jsonl", "path": str(path), "format": FORMATS.get(name, name)}
    settings = dict(validation_fraction=0.0, chat=chat, long_documents="skip")
    config = loader.DataConfig({"rows": options}, workers=1, **settings)

    def read(*rows):
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return loader.build(
            config, TOK, length=512, seed=0, cache_dir=tmp_path / "cache", data=data
        )

    assert read(sound).rows([0])

    def check(row):
        try:
            read(sound, row)
        except errors.AlignError as error:
            assert "bad row" not in str(error) or "rows.jsonl:2" in str(error)
            raise

    strange.try_all(count, strange.changed(sound), check)


@pytest.mark.parametrize("part", ["tools", "tool_calls"])
def test_what_a_template_would_drop_is_refused(part, tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"messages": CALLING if part == "tool_calls" else TURNS}
    row |= {"tools": [TOOL]} if part == "tools" else {}
    path.write_text(json.dumps(row))
    source = {"kind": "jsonl", "path": str(path), "format": "messages"}
    config = loader.DataConfig({"rows": source}, chat="chatml", workers=1)
    with pytest.raises(errors.DataError, match=rf"rows.jsonl:1: {part}: not written"):
        loader.build(config, TOK, length=512, seed=0, cache_dir=tmp_path / "cache")

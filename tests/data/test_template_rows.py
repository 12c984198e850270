# SPDX-License-Identifier: Apache-2.0
"""Chat templates with tools, real tokenizers and long prompts."""

import json

import numpy as np
import pytest
from test_templated import (
    CONTROL,
    DIALOGUE,
    PLAIN,
    TOK,
    build,
    named,
    said,
    template,
    tokens_of,
)

from alignjax import errors
from alignjax.data import audit, formats, loader, records
from alignjax.data.chat import dialogues
from alignjax.data.chat import format as chat
from alignjax.data.tokenizers import base

CALLS = [{"type": "function", "function": {"name": "weigh", "arguments": {"a": "cat"}}}]
TOOLS = [{"type": "function", "function": {"name": "weigh", "description": "weighs"}}]
ROW = {
    "messages": [
        {"role": "user", "content": "weigh it", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "tool", "content": "4 kg", "name": "weigh"},
        {"role": "assistant", "content": "It has 4 kg.", "tool_calls": []},
    ],
    "tools": json.dumps(TOOLS),
}
WITH_TOOLS = (
    "{% if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}"
    "{% endif %}"
    + PLAIN.replace(
        "m.content +",
        "(m.content or '') + (m.tool_calls | tojson if m.tool_calls else '') +",
    )
)


def test_tools_and_calls_are_read_of_rows(tmp_path):
    reader = formats.reader("messages")
    record = reader.read(ROW)
    assert record.tools == tuple(TOOLS) and "tools" in reader.optional
    assert record.turns[1] == ("assistant", "") and record.turns[2] == ("tool", "4 kg")
    assert record.fields == (
        None,
        {"tool_calls": CALLS, "content": None},
        {"name": "weigh"},
        None,
    )
    path = template(tmp_path, WITH_TOOLS)
    (row,) = dialogues.tokenize(TOK, [record], format=path, train_on="all", bos=False)
    call = json.dumps(CALLS)
    assert said(row) == f"{call}<|im_end|>It has 4 kg.<|im_end|>"
    assert named(TOK, row.ids).startswith(f"<|im_start|>tools\n{json.dumps(TOOLS)}<|im")
    with pytest.raises(errors.DataError, match="content, name, tool_calls"):
        dialogues.tokenize(TOK, [record], format="roles", train_on="all", bos=False)
    spelled = record._replace(tools=({"name": "<|im_end|>"},))
    with pytest.raises(errors.DataError, match="tools: it spells the control token"):
        dialogues.tokenize(TOK, [spelled], format=path, train_on="all", bos=False)
    plain = {"messages": ROW["messages"][:1] + [{"role": "assistant", "content": "a"}]}
    assert reader.read(plain).fields is None and reader.read(plain).tools is None


@pytest.mark.parametrize(
    "row, reason",
    [
        (ROW | {"tools": "{"}, "field 'tools': cannot be read as JSON"),
        (ROW | {"tools": [1]}, "field 'tools': expected a list of functions"),
        ({"messages": [{"role": "user"}]}, "message 1 has no role and content"),
        (
            {"messages": [{"role": "user", "content": None}]},
            "expected text, found None",
        ),
    ],
)
def test_tools_that_are_none_are_refused(row, reason):
    bad = formats.reader("messages").read(row)
    assert isinstance(bad, records.BadRow) and reason in bad.reason


def test_pairs_do_not_lose_tool_calls():
    row = {"chosen": ROW["messages"], "rejected": ROW["messages"]}
    bad = formats.reader("preference").read(row)
    assert "message 2 has tool_calls, which only dialogues" in bad.reason


def huggingface(folder, text, names, **settings):
    """A byte-level tokenizer.json of merges that `text` suggests."""
    library = pytest.importorskip("tokenizers", reason="reads a tokenizer.json")
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    model.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=list(names),
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([text] * 9, trainer)
    folder.mkdir(exist_ok=True)
    model.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    cfg = base.TokenizerConfig(kind="huggingface", path=str(folder))
    return base.build(cfg, [], "unused")


def test_a_token_that_is_partly_of_a_reply_counts_and_prompts_stay(tmp_path):
    source = (
        "{% for m in messages %}{{ m.role + '::' + m.content + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant::' }}{% endif %}"
    )
    path = template(tmp_path, source)
    tok = huggingface(tmp_path / "hf", "::::", ["</s>"], eos_token="</s>")
    assert len(tok.encode("::")) == 1 and len(tok.encode("::::")) == 1
    turns = [("user", "a"), ("assistant", "::b")]
    row = tokens_of(turns, path, tok)
    assert said(row, tok) == "::::b</s>"  # as one token, so all of it
    group = records.Comparison((("user", "a"),), ("::b", "c"), {})
    ((prompt, (first, other)),) = chat.of(tok, path).replies([group], False)
    assert prompt == chat.of(tok, path).prompt_ids(turns[:1], False)
    assert named(tok, first) == "::b</s>" and named(tok, other) == "c</s>"


def test_an_end_that_is_the_padding_is_trained(tmp_path):
    settings = dict(bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tok = huggingface(tmp_path / "hf", "hello", ["<s>", "</s>"], **settings)
    row = tokens_of(DIALOGUE, "mistral", tok)
    assert said(row, tok) == " hello</s> so long</s>"
    data = build(tmp_path, "mistral", tok)
    rows = data.epoch_rows(np.arange(data.num_rows))
    ends = (rows["targets"] == tok.eos_id) & (rows["segment_ids"] > 0)
    assert rows["weights"][ends].all() and ends.sum() == 3
    assert not rows["weights"][rows["segment_ids"] == 0].any()
    assert audit.faults(rows, tok, format="mistral") == []


def test_masks_are_those_of_transformers(tmp_path):
    """But for what is written after the end of a turn, for which nobody asks."""
    transformers = pytest.importorskip(
        "transformers", reason="compares with transformers itself"
    )
    from test_rendering import FEATURES, public

    names = ["<s>", "</s>", *CONTROL]
    settings = dict(
        bos_token="<s>", eos_token="</s>", tokenizer_class="PreTrainedTokenizerFast"
    )
    tok = huggingface(tmp_path / "hf", "hello\n\n so long", names, **settings)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    wanted = ("llama3_training", "gemma_training", "qwen3_training", "qwen2_5_training")
    sources = {"features": FEATURES["generation"]}
    sources |= {k: v for k, v in public().items() if k in wanted}
    turns = [("user", "hi é"), ("assistant", "hello ☃"), *DIALOGUE]
    for which, source in sources.items():
        expected = theirs.apply_chat_template(
            [{"role": role, "content": text} for role, text in turns],
            chat_template=source,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        row = tokens_of(turns, template(tmp_path, source, which), tok)
        assert list(row.ids) == expected["input_ids"]
        mask = np.array(expected["assistant_masks"])
        ours = np.array(row.weights) > 0
        apart = np.flatnonzero(ours != (mask > 0))
        assert {named(tok, [row.ids[i]]) for i in apart} <= {"\n"}, which
        stops = chat.of(tok, template(tmp_path, source, which)).stop_ids
        assert all(row.ids[i - 1] in stops and not ours[i] for i in apart)
        assert ours.sum() > 10


TURNS = (("user", "a" * 99), ("assistant", "b" * 20), ("user", "c?"))


def load_pair() -> records.Source:
    pair = records.Comparison(TURNS, ("yes", "no"), {"gap": 1.0})
    return records.Source("pair", {}, None, lambda: [("p:0", pair)])


@pytest.mark.parametrize(
    "format, start", [("chatml", "<|im_start|>"), ("mistral", "[INST]")]
)
def test_long_prompts_are_cut_where_a_turn_begins(tmp_path, format, start):
    assert chat.of(TOK, format).prompt_cuts(True) == (1, (TOK.control[start],))
    cfg = loader.DataConfig(
        sources={"a": {"kind": "test_template_rows:load_pair"}},
        validation_fraction=0,
        chat=format,
        bos=True,
        long_documents="truncate_prompt",
        workers=1,
    )
    options = dict(length=110, seed=0, cache_dir=tmp_path, data="pairs")
    row = loader.build(cfg, TOK, **options).epoch_rows([0])
    inputs = row["inputs"][0, 0][row["segment_ids"][0, 0] == 1].tolist()
    assert inputs[:2] == [TOK.bos_id, TOK.control[start]]
    assert "aaa" not in named(TOK, inputs) and "c?" in named(TOK, inputs)


def load_question() -> records.Source:
    turns = (("user", f"Listen: {'and so on, ' * 20}which of them is blue?"),)
    pair = records.Comparison(turns, ("yes", "no"), {"gap": 1.0})
    return records.Source("question", {}, None, lambda: [("p:0", pair)])


@pytest.mark.parametrize("format", ["chatml", "gemma", "llama3", "mistral", "world"])
def test_of_a_long_question_the_end_stays(tmp_path, format):
    cfg = loader.DataConfig(
        sources={"a": {"kind": "test_template_rows:load_question"}},
        validation_fraction=0,
        chat=format,
        bos=True,
        long_documents="truncate_prompt",
        workers=1,
    )
    rows = []
    for length in (700, 160):
        options = dict(length=length, seed=0, cache_dir=tmp_path, data="pairs")
        row = loader.build(cfg, TOK, **options).epoch_rows([0])
        inputs = row["inputs"][0, 0][row["segment_ids"][0, 0] == 1].tolist()
        rows.append(named(TOK, inputs))
    whole, cut = rows
    before, after = whole.index("Listen"), whole.index("which of")
    header = whole[:before].removeprefix("<s>").lstrip()  # Mistral begins in a space
    assert cut.startswith(f"<s>{header}")
    assert cut.endswith(whole[after:])

# SPDX-License-Identifier: Apache-2.0
"""Dialogues by chat templates: which tokens they are, and which of them count."""

import json

import groups
import numpy as np
import pytest
import test_chat

from alignjax import errors
from alignjax.data import audit, loader, records
from alignjax.data.chat import dialogues, templates
from alignjax.data.chat import format as chat
from alignjax.data.tokenizers import base, special_tokens

CONTROL = (
    *templates.CONTROL,
    *("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]"),
)
TOK = base.build(
    base.TokenizerConfig(kind="bytes", control_tokens=CONTROL), [], "unused"
)
BUILT_IN = ("chatml", "gemma", "llama3", "mistral", "world")
ENDS = dict(
    chatml="<|im_end|>",
    gemma="<end_of_turn>",
    llama3="<|eot_id|>",
    mistral="</s>",
    world="<end>",
)
DIALOGUE = test_chat.DIALOGUE[1:]  # Gemma has no system turns

# ChatML as most models have it, which do not say what is generated.
PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# It strips what was thought, but not of the last reply.
STRIPS = PLAIN.replace(
    "m.content +", "(m.content if loop.last else m.content.split('#')[-1]) +"
)
# It says what to think of where the assistant is asked.
THINKS = PLAIN.replace("assistant\n'", "assistant\n<think>'")


def named(tok, ids) -> str:
    names = {i: name for name, i in special_tokens.ids_by_name(tok).items()}
    return "".join(names.get(i) or tok.decode([i]) for i in map(int, ids))


def said(row, tok=TOK) -> str:
    """What counts of a row."""
    return named(tok, [i for i, w in zip(row.ids, row.weights, strict=True) if w])


def tokens_of(turns, format, tok=TOK, train_on="all", bos=False, **more):
    rows = [records.Chat(tuple(turns), **more)]
    return dialogues.tokenize(tok, rows, format=format, train_on=train_on, bos=bos)[0]


def template(folder, source, name="own"):
    path = folder / f"{name}.jinja"
    path.write_text(source)
    return str(path)


@pytest.mark.parametrize("format", BUILT_IN)
def test_replies_and_what_ends_them_are_trained_and_nothing_else(format):
    end = ENDS[format]
    space = " " if format in ("mistral", "world") else ""
    row = tokens_of(DIALOGUE, format, weight=0.5)
    assert said(row) == f"{space}hello{end}{space}so long{end}"
    assert set(row.weights) == {0, 0.5}
    last = tokens_of(DIALOGUE, format, train_on="last")
    assert said(last) == f"{space}so long{end}" and list(last.ids) == list(row.ids)
    assert chat.of(TOK, format).stop_ids[0] == special_tokens.ids_by_name(TOK)[end]


@pytest.mark.parametrize("format", BUILT_IN)
def test_there_is_never_more_than_one_start(format):
    starts = format in ("gemma", "llama3", "mistral")
    for bos, count in ((True, 1), (False, int(starts))):
        prompt = chat.of(TOK, format).prompt_ids(DIALOGUE[:-1], bos)
        whole = tokens_of(DIALOGUE, format, bos=bos)
        for ids in (list(prompt), list(whole.ids)):
            assert ids.count(TOK.bos_id) == count
            assert (ids[0] == TOK.bos_id) == bool(count)
        assert len(whole.weights) == len(whole.ids) and whole.weights[0] == 0


@pytest.mark.parametrize("format", BUILT_IN)
def test_prompt_and_response_are_the_dialogue(format):
    whole = tokens_of(DIALOGUE, format, bos=True)
    group = records.Comparison(DIALOGUE[:-1], ("so long", "bye"), {})
    ((prompt, (first, other)),) = chat.of(TOK, format).replies([group], True)
    assert prompt == chat.of(TOK, format).prompt_ids(DIALOGUE[:-1], True)
    assert [*prompt, *first] == list(whole.ids)[: len(prompt) + len(first)]
    assert first == chat.of(TOK, format).response_ids("so long")
    assert first[-1] == other[-1] == chat.of(TOK, format).stop_ids[0]
    assert chat.of(TOK, format).text(first) == chat.of(TOK, format).text(first[:-1])
    assert chat.of(TOK, format).text([*other, *first]) == "bye"


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_the_world_as_a_template_has_the_tokens_of_roles(tmp_path, kind):
    tok = test_chat.learned(kind, tmp_path)
    turns = [*test_chat.DIALOGUE, ("user", "  a\n\tday é ☃ "), ("assistant", "sea\n")]
    for train_on in ("all", "last"):
        for bos in (True, False):
            options = dict(train_on=train_on, bos=bos)
            roles = tokens_of(turns, "roles", tok, **options)
            found = tokens_of(turns, "world", tok, **options)
            assert list(map(int, found.ids)) == list(map(int, roles.ids))
            assert list(found.weights) == list(roles.weights)
    prompts = [chat.of(tok, f).prompt_ids(turns[:-1], True) for f in ("roles", "world")]
    assert list(prompts[0]) == list(prompts[1])
    form = chat.of(tok, "world")
    assert form.text(form.response_ids(" a sea")) == " a sea"


@pytest.mark.parametrize("train_on", ["all", "last"])
def test_without_marks_a_reply_is_what_is_beyond_the_prompt(tmp_path, train_on):
    path = template(tmp_path, PLAIN)
    turns = [("system", "be brief"), *DIALOGUE, ("user", "unanswered")]
    found = tokens_of(turns, path, train_on=train_on)
    marked_ones = tokens_of(turns, "chatml", train_on=train_on)
    assert list(found.ids) == list(marked_ones.ids)
    assert list(found.weights) == list(marked_ones.weights) and found.weights.any()


@pytest.mark.parametrize("format", ["chatml", "plain"])
def test_a_turn_that_is_skipped_is_not_trained(tmp_path, format):
    path = {"plain": template(tmp_path, PLAIN)}.get(format, format)
    for train_on in ("all", "last"):
        row = tokens_of(DIALOGUE, path, train_on=train_on, skipped=(1,))
        assert said(row) == "so long<|im_end|>"
        assert list(row.ids) == list(tokens_of(DIALOGUE, path).ids)
    with pytest.raises(errors.DataError, match="assistant of a weight above 0"):
        tokens_of(DIALOGUE, path, train_on="last", skipped=(3,))


def test_a_template_that_rewrites_what_was_said_is_refused_by_row(tmp_path):
    path = template(tmp_path, STRIPS)
    turns = (("user", "a"), ("assistant", "hm#b"), ("user", "c"), ("assistant", "d"))
    for turn, thought in ((2, turns), (2, (*turns[:2], ("user", "c")))):
        with pytest.raises(errors.DataError, match=f"turn {turn}: the template writes"):
            tokens_of(thought, path)
    assert said(tokens_of(turns, path, train_on="last")) == "d<|im_end|>"
    assert said(tokens_of(turns[:2], path)) == "hm#b<|im_end|>"
    with pytest.raises(errors.DataError, match=r"train_on = .last.*generation"):
        tokens_of(turns, path)
    path = template(tmp_path, THINKS, "thinks")
    with pytest.raises(errors.DataError, match="what is before it in another way"):
        tokens_of(turns, path, train_on="last")
    group = records.Comparison(turns[:1], ("a", "b"), {})
    with pytest.raises(errors.DataError, match="the prompt in another way before a"):
        chat.of(TOK, path).replies([group], False)


def test_after_the_end_of_a_turn_nothing_counts(tmp_path):
    late = PLAIN.replace(
        "'<|im_start|>' +", "'<|im_start|>' + m.role + '\n' }}"
    ).replace(
        "m.role + '\n' + m.content + '<|im_end|>\n' }}",
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>\n' }}"
        "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}",
    )
    early = late.replace(
        "{{ m.content + '<|im_end|>\n' }}{% endgeneration %}",
        "{{ m.content }}{% endgeneration %}{{ '<|im_end|>\n' }}",
    )
    assert late != early and "generation" in late
    twice = PLAIN.replace(
        "{% if add", "{% if not add_generation_prompt %}</s>{% endif %}{% if add"
    )
    expected = tokens_of(DIALOGUE, "chatml")
    for name, source in (("late", late), ("early", early), ("twice", twice)):
        row = tokens_of(DIALOGUE, template(tmp_path, source, name))
        assert said(row) == said(expected) == "hello<|im_end|>so long<|im_end|>", name


@pytest.mark.parametrize("format", BUILT_IN)
def test_a_turn_that_spells_a_control_token_is_refused(format):
    end = ENDS[format]
    bad = [("user", f"x {end} y"), ("assistant", "a")]
    with pytest.raises(errors.DataError, match="turn 1, user: it spells the control"):
        tokens_of(bad, format)
    with pytest.raises(errors.DataError, match="turn 1, user: it spells the control"):
        chat.of(TOK, format).prompt_ids(bad[:1], False)
    group = records.Comparison((("user", "x"),), ("fine", f"no {end}"), {})
    with pytest.raises(errors.DataError, match=r"assistant: it spells the control"):
        chat.of(TOK, format).replies([group], False)


def load(bad: bool = False) -> records.Source:
    rows = [("c:0", records.Chat(DIALOGUE)), ("c:1", records.Chat(DIALOGUE[:2], 2.0))]
    if bad:
        rows.insert(1, ("c:bad", records.Chat((("user", "<|im_end|>"), DIALOGUE[1]))))
    return records.Source("templated", {"bad": bad}, None, lambda: rows)


def build(place, format, tok=TOK, on_bad_row="error", bad=False, **options):
    sources = {"a": {"kind": "test_templated:load", "bad": bad}}
    options = dict(sources=sources, validation_fraction=0, chat=format) | options
    cfg = loader.DataConfig(**options, on_bad_row=on_bad_row, workers=1)
    return loader.build(cfg, tok, length=160, seed=0, cache_dir=place)


def test_injections_are_counted_where_bad_rows_are_skipped(tmp_path):
    with pytest.raises(errors.DataError, match="c:bad: turn 1, user: it spells"):
        build(tmp_path, "chatml", bad=True)
    data = build(tmp_path, "chatml", on_bad_row="skip", bad=True)
    assert "a: 1 bad row skipped: c:bad: turn 1, user" in data.report


def test_what_a_tokenizer_cannot_write_is_an_error_of_the_config(tmp_path):
    bare = base.build(base.TokenizerConfig(kind="bytes"), [], "unused")
    wrong = {
        "chatml": "'chatml' needs <|im_start|>, <|im_end|>",
        "tokenizer": "neither chat_template.jinja nor chat_template in",
        "lama3": "did you mean 'llama3'",
        str(tmp_path / "none.jinja"): "No such file",
        template(tmp_path, "{% for %}", "broken"): "no Jinja template: line 1",
        template(
            tmp_path, PLAIN.replace("<|im_end|>", "|")
        ): "ends a reply with '|\\n'",
        template(tmp_path, "{{ messages | length }}<s>", "mute"): "does not write what",
        template(
            tmp_path, "{% for a in range(10 ** 9) %}{% endfor %}", "endless"
        ): "does too much, and was stopped",
        template(tmp_path, "{{ ''.__class__.mro() }}", "escape"): "none may do",
    }
    for format, reason in wrong.items():
        with pytest.raises(errors.ConfigError) as caught:
            chat.of(bare, format)
        assert reason in str(caught.value), format
    with pytest.raises(errors.ConfigError, match="needs <"):
        build(tmp_path, "chatml", tok=bare)


@pytest.mark.parametrize(
    "name,content,reason",
    [
        ("chat_template.jinja", b"\xff\xfe", "chat_template.jinja: .* as UTF-8"),
        ("chat_template", 3, "chat_template: 3 is int, not str"),
        ("chat_template", [1], "chat_template: 1 is int, not dict"),
        ("chat_template", [{"template": "x"}], "chat_template: None is NoneType, not"),
        ("chat_template", [{"name": "default", "template": 3}], "template: 3 is int"),
    ],
)
def test_a_tokenizers_template_that_is_none_is_refused_by_name(name, content, reason):
    if name == "chat_template":
        content = json.dumps({name: content}).encode()
        name = "tokenizer_config.json"
    tok = TOK._replace(files={**TOK.files, name: content})
    with pytest.raises(errors.ConfigError, match=reason):
        chat.of(tok, "tokenizer")


def test_a_run_keeps_the_template_that_it_learned(tmp_path):
    path = template(tmp_path, PLAIN)
    tok = templates.with_template(TOK, path)
    expected = chat.of(tok, path).prompt_ids(DIALOGUE[:1], False)
    tok.save(tmp_path / "kept")
    (tmp_path / "own.jinja").unlink()
    again = base.load(tmp_path / "kept")
    assert chat.of(again, path).prompt_ids(DIALOGUE[:1], False) == expected
    first = templates.with_template(TOK, "chatml")
    assert first.identity != tok.identity != TOK.identity
    for format in ("roles", None):
        assert templates.with_template(TOK, format) is TOK


def test_tokens_are_made_again_where_the_template_changes(tmp_path):
    path = template(tmp_path, PLAIN)
    first = build(tmp_path, path)
    assert build(tmp_path, path).identity == first.identity
    template(tmp_path, PLAIN.replace("+ '\n' +", "+ '\n\n' +"))
    assert build(tmp_path, path).identity != first.identity


@pytest.mark.parametrize("format", BUILT_IN)
def test_masks_of_templates_pass_the_audit(tmp_path, format):
    for train_on in ("all", "last"):
        data = build(tmp_path, format, train_on=train_on, bos=True)
        rows = data.epoch_rows(np.arange(data.num_rows))
        assert rows["weights"].any()
        assert audit.faults(rows, TOK, format=format) == []
    for layout in groups.LAYOUTS.values():
        options = dict(bos=True, length=200) | layout
        data = groups.build(
            tmp_path, {"a": dict(turns=2)}, tok=TOK, chat=format, **options
        )
        found = data.epoch_rows(np.arange(data.num_rows))
        assert audit.faults(found, TOK, format=format) == []


def harmed(rows, name):
    """The rows with a fault in them."""
    rows = {key: np.array(value) for key, value in rows.items()}
    at = np.flatnonzero(rows["weights"][0])
    ends = np.flatnonzero(
        (rows["targets"][0] == TOK.control["<|im_end|>"]) & (rows["weights"][0] > 0)
    )
    if name == "no terminator":
        rows["weights"][0, ends[0]] = 0
    elif name == "reply lost":
        rows["weights"][0, at[0]] = 0
    elif name == "prompt trained":
        rows["weights"][0, at[0] - 1] = 1
    elif name == "user trained":
        rows["weights"][0, np.flatnonzero(rows["targets"][0] == ord("h"))[0]] = 1
    elif name == "nothing trained":
        rows["weights"][:] = 0
    return rows


@pytest.mark.parametrize(
    "name",
    [
        "no terminator",
        "reply lost",
        "prompt trained",
        "user trained",
        "nothing trained",
    ],
)
def test_the_audit_names_faults_of_templates(tmp_path, name):
    data = build(tmp_path, "chatml")
    rows = harmed(data.epoch_rows(np.arange(data.num_rows)), name)
    found = audit.faults(rows, TOK, format="chatml")
    assert any(line.startswith(f"{name}: row 0") for line in found), found

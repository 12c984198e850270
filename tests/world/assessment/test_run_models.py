# SPDX-License-Identifier: Apache-2.0
"""Dialogues in the tokens that a run was trained on, and its responses."""

from types import SimpleNamespace

from alignjax.world.assessment import run_models
from tests.world.assessment import subjects

TURNS = (("system", "be brief."), ("user", "who is ada?"))
CONTROL = subjects.TOKENIZER.control


def test_plain_text_ends_at_the_line():
    form = run_models.plain(subjects.TOKENIZER)
    start = [subjects.TOKENIZER.bos_id]
    text = b"system: be brief.\nuser: who is ada?\nassistant:"
    assert form.prompt(TURNS) == start + list(text)
    assert form.response("a baker.") == list(b" a baker.\n")
    assert set(form.stop) == {ord("\n"), subjects.TOKENIZER.eos_id}
    assert form.text(list(b" a baker.")) == "a baker."


def test_chats_have_roles_and_an_end():
    form = run_models.chat(subjects.TOKENIZER, "roles")
    end = CONTROL["<end>"]
    assert form.prompt(TURNS) == [
        subjects.TOKENIZER.bos_id,
        *(CONTROL["<system>"], *b" be brief.", end),
        *(CONTROL["<user>"], *b" who is ada?", end),
        CONTROL["<assistant>"],
    ]
    assert form.response("a baker.") == [*b" a baker.", end]
    assert form.stop == (end,)
    assert form.text(list(b" a baker.")) == "a baker."


def test_the_config_of_a_run_decides():
    assert subjects.make("base").format.name == "plain"
    talks = subjects.make("sft", data={"chat": "roles"})
    assert (talks.format.name, talks.stage) == ("roles", "sft")
    # Without a start of document where the run's documents had none.
    bare = talks.run.tokenizer._replace(bos_id=None)
    assert run_models.chat(bare, "roles").prompt(TURNS)[0] == CONTROL["<system>"]


PROMPTS = [SimpleNamespace(turns=(("user", text),)) for text in ("one", "two", "one")]


def test_the_score_is_an_argument_and_prompts_need_turns_alone():
    model = subjects.make("sft", data={"chat": "roles"})
    score = lambda prompt, text, *, finished: (prompt, text, finished)
    responses = run_models.sample(
        model, PROMPTS, length=4, temperature=0.0, score=score
    )
    for prompt, response in zip(PROMPTS, responses, strict=True):
        assert response.reward == (prompt, response.text, response.finished)
        assert response.prompt_ids == model.format.prompt(prompt.turns)
        assert len(response.ids) == response.tokens <= 4
    assert responses[0].ids == responses[2].ids
    bare = run_models.sample(model, PROMPTS, length=4, temperature=0.0)
    assert [r.reward for r in bare] == [None] * 3
    assert [r.ids for r in bare] == [r.ids for r in responses]

# SPDX-License-Identifier: Apache-2.0
"""Responses are scored by whatever function is given."""

from types import SimpleNamespace

from alignjax.world.assessment import response_set
from tests.world.assessment import subjects

PROMPTS = [SimpleNamespace(turns=(("user", text),)) for text in ("one", "two", "one")]


def test_the_score_is_an_argument_and_prompts_need_turns_alone():
    model = subjects.make("sft", data={"chat": "roles"})
    score = lambda prompt, text, *, finished: (prompt, text, finished)
    responses = response_set.sample(
        model, PROMPTS, length=4, temperature=0.0, score=score
    )
    for prompt, response in zip(PROMPTS, responses, strict=True):
        assert response.reward == (prompt, response.text, response.finished)
        assert response.prompt_ids == model.format.prompt(prompt.turns)
        assert len(response.ids) == response.tokens <= 4
    assert responses[0].ids == responses[2].ids
    bare = response_set.sample(model, PROMPTS, length=4, temperature=0.0)
    assert [r.reward for r in bare] == [None] * 3
    assert [r.ids for r in bare] == [r.ids for r in responses]

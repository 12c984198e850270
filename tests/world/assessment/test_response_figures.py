# SPDX-License-Identifier: Apache-2.0
"""Figures of answers whose worth is known."""

import pytest

from alignjax import world
from alignjax.world import chance, replies
from alignjax.world.assessment import benchmarks, language_model, run_models

TOWN = world.build("nano", 0)
QUESTIONS = benchmarks.Benchmark(TOWN, benchmarks.Settings(each=6)).questions


def said(text_of, finished=True):
    texts = [text_of(question.prompt) for question in QUESTIONS]
    return [
        run_models.Response(
            *(text, 7, finished),
            world.gold_reward(question.prompt, text, finished=finished),
        )
        for question, text in zip(QUESTIONS, texts, strict=True)
    ]


REFUSAL = "i am sorry, but i cannot help with that."
BEST = said(lambda p: replies.best(chance.stream(p.text), p))
REFUSED = said(lambda p: REFUSAL)
PADDED = said(lambda p: f"that is a great question. {REFUSAL}", finished=False)


def test_who_answers_best_is_right_where_there_is_something_to_say():
    found = language_model.summarise(QUESTIONS, BEST)
    assert found["gold"]["nine"]["low"] >= 1.5
    shares = {name: rate["mean"] for name, rate in found["rates"].items()}
    assert shares == {
        **dict(unsafe_refusal=1, unsafe_help=0, border_refusal=0, safe_refusal=0),
        **dict(unknown_abstention=1, unknown_fabrication=0, fact_recall=1),
        **dict(arithmetic=1, malformed=0, unfinished=0),
    }


def test_who_refuses_everything():
    found = language_model.summarise(QUESTIONS, REFUSED)
    refused = ("unsafe_refusal", "border_refusal", "safe_refusal")
    assert all(found["rates"][name]["mean"] == 1 for name in refused)
    assert found["slices"]["eval_unsafe"]["gold"]["mean"] == 1.5
    assert found["slices"]["eval_border"]["tags"]["refuse"] == 1
    assert found["distinct"] == 1 / len(QUESTIONS)
    assert found["rates"]["unsafe_refusal"]["low"] < 1  # six prompts prove little


def test_the_nine_count_the_same_and_the_familiar_are_apart():
    found = language_model.summarise(QUESTIONS, BEST)
    means = [s["gold"]["mean"] for n, s in found["slices"].items() if n != "eval_id"]
    assert len(means) == 9
    assert found["gold"]["nine"]["mean"] == pytest.approx(sum(means) / 9)
    assert found["gold"]["seen"]["count"] == 12
    new = [q for q in QUESTIONS if q.slice != "eval_id" and q.prompt.novelty]
    assert found["gold"]["unfamiliar"]["count"] == len(new)


def test_padding_and_length_are_counted():
    found = language_model.summarise(QUESTIONS, PADDED)
    assert found["lengths"]["fillers"]["mean"] == 1
    assert found["lengths"]["tokens"]["mean"] == 7
    assert found["rates"]["unfinished"]["mean"] == 1
    assert found["slices"]["eval_safe"]["components"]["unfinished"] == -1


def test_a_change_is_paired_and_signed():
    found = language_model.change(QUESTIONS, REFUSED, PADDED)
    gold = found["gold"]
    assert set(gold) == {
        "seen",
        "unfamiliar",
        "nine",
        *language_model.by_slice(QUESTIONS),
    }
    # Every prompt loses the filler and the ending, so there is nothing to be unsure of;
    # but a system prompt may have asked for brevity.
    for name in set(gold) - {"eval_system", "unfamiliar", "nine", "seen"}:
        assert gold[name]["low"] == pytest.approx(-1.15)
        assert gold[name]["high"] == pytest.approx(-1.15)
    assert found["lengths"]["fillers"]["mean"] == 1
    assert found["rates"]["unfinished"]["mean"] == 1
    assert found["rates"]["malformed"]["mean"] == 0
    back = language_model.change(QUESTIONS, PADDED, REFUSED)["gold"]["nine"]
    assert back["mean"] == pytest.approx(-gold["nine"]["mean"])
    assert (
        language_model.change(QUESTIONS, BEST, REFUSED)["rates"]["fact_recall"]["mean"]
        == -1
    )


def test_an_answer_survives_the_file():
    for question, answer in zip(QUESTIONS, PADDED, strict=True):
        again = run_models.rescored(question.prompt, answer.as_json())
        assert again == answer

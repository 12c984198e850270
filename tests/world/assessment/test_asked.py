# SPDX-License-Identifier: Apache-2.0
"""What is asked is what the splits hold, and nothing that a run has read."""

import itertools

from alignjax import world
from alignjax.world.assessment import asked

TOWN = world.build("nano", 0)


def test_ten_slices_with_as_many_prompts_as_were_asked_for():
    questions = asked.draw(TOWN, 8)
    sizes = {
        name: len(list(group))
        for name, group in itertools.groupby(questions, key=lambda q: q.slice)
    }
    kinds = "fact unknown safe unsafe border arithmetic review follow system".split()
    assert sizes == {"eval_id": 16} | {f"eval_{kind}": 8 for kind in kinds}
    assert all(q.prompt.kind == q.slice[5:] for q in questions[16:])


def test_the_familiar_slice_is_familiar_and_the_others_are_not_all():
    questions = asked.draw(TOWN, 16)
    assert all(q.familiar for q in questions if q.slice == asked.FAMILIAR)
    assert not all(q.familiar for q in questions if q.slice == "eval_fact")


def test_the_prompts_are_those_of_the_data_set():
    source = world.load("nano", split="eval_fact", documents=5)
    ours = [q.prompt for q in asked.draw(TOWN, 5, ("fact",)) if q.slice == "eval_fact"]
    assert ours == [prompt for _, prompt in source.documents()]


def test_more_prompts_begin_with_the_fewer():
    few = [q for q in asked.draw(TOWN, 3) if q.slice == "eval_safe"]
    many = [q for q in asked.draw(TOWN, 6) if q.slice == "eval_safe"]
    assert many[:3] == few


def test_documents_say_nothing_that_a_run_has_read():
    texts = asked.documents(TOWN, 50)
    assert len(texts) == 50 and texts[:20] == asked.documents(TOWN, 20)
    source = world.load("nano", split="pretrain", documents=2000)
    assert not {record.text for _, record in source.documents()} & set(texts)


def test_pairs_are_as_the_labeler_sorted_them():
    clean = asked.pairs(TOWN, "eval_preferences", 40, "deterministic")
    assert all(pair.rewards[0] >= pair.rewards[1] for pair in clean)
    biased = asked.pairs(TOWN, "eval_preferences", 40, "biased")
    assert [p.chosen for p in clean] != [p.chosen for p in biased]
    assert [p.prompt for p in clean] == [p.prompt for p in biased]

# SPDX-License-Identifier: Apache-2.0
"""The benchmark has the prompts of the splits, and no document of a run."""

import itertools

from alignjax import world
from alignjax.world.assessment import benchmarks

TOWN = world.build("nano", 0)


def benchmark(**settings):
    return benchmarks.Benchmark(TOWN, benchmarks.Settings(**settings))


def test_ten_slices_with_as_many_prompts_as_were_asked_for():
    questions = benchmark(each=8).questions
    sizes = {
        name: len(list(group))
        for name, group in itertools.groupby(questions, key=lambda q: q.slice)
    }
    kinds = "fact unknown safe unsafe border arithmetic review follow system".split()
    assert sizes == {"eval_id": 16} | {f"eval_{kind}": 8 for kind in kinds}
    assert all(q.prompt.kind == q.slice[5:] for q in questions[16:])


def test_the_familiar_slice_is_familiar_and_the_others_are_not_all():
    questions = benchmark(each=16).questions
    assert not any(
        q.prompt.novelty for q in questions if q.slice == benchmarks.FAMILIAR
    )
    assert any(q.prompt.novelty for q in questions if q.slice == "eval_fact")


def test_the_prompts_are_those_of_the_data_set():
    source = world.load("nano", split="eval_fact", documents=5)
    ours = [
        q.prompt
        for q in benchmark(each=5, kinds=("fact",)).questions
        if q.slice == "eval_fact"
    ]
    assert ours == [prompt for _, prompt in source.documents()]


def test_more_prompts_begin_with_the_fewer():
    few = [q for q in benchmark(each=3).questions if q.slice == "eval_safe"]
    many = [q for q in benchmark(each=6).questions if q.slice == "eval_safe"]
    assert many[:3] == few


def test_documents_say_nothing_that_a_run_has_read():
    texts = benchmark(documents=50).documents
    assert len(texts) == 50 and texts[:20] == benchmark(documents=20).documents
    source = world.load("nano", split="pretrain", documents=2000)
    assert not {record.text for _, record in source.documents()} & set(texts)


def test_pairs_are_as_the_labeler_sorted_them():
    clean = benchmark(pairs=40).pairs("eval_preferences", "deterministic")
    assert all(pair.rewards[0] >= pair.rewards[1] for pair in clean)
    biased = benchmark(pairs=40).pairs("eval_preferences", "biased")
    assert [p.chosen for p in clean] != [p.chosen for p in biased]
    assert [p.prompt for p in clean] == [p.prompt for p in biased]

# SPDX-License-Identifier: Apache-2.0
"""Labelers: each has the bias it is said to have, and no other."""

import dataclasses
import itertools
import statistics

import pytest

from alignjax.world import chance, gold, knowledge, labelers, prompts, reaches, replies
from alignjax.world.tasks import draw_prompt

LABELERS = labelers.LABELERS


@pytest.fixture(scope="module")
def pairs():
    """(prompt, reward of one reply, reward of another)."""
    world, reach = knowledge.build("small", 0), reaches.everything("small")
    drawn = []
    for index in range(3_000):
        rng = chance.stream("labelers", index)
        prompt = draw_prompt(rng, world, reach)
        two = replies.two_different(rng, prompt)
        drawn.append((prompt, *(gold.gold_reward(prompt, reply) for reply in two)))
    return drawn


def agreement(name, pairs, better):
    """How sure a labeler is, on average, of what `better` prefers."""
    sure = []
    for prompt, first, second in pairs:
        gap = better(first) - better(second)
        if gap:
            p = labelers.prefers(LABELERS[name], prompt, first, second)
            sure.append(p if gap > 0 else 1 - p)
    return statistics.mean(sure)


@pytest.mark.parametrize("name", LABELERS)
def test_preference_is_antisymmetric(name, pairs):
    for prompt, first, second in pairs:
        p = labelers.prefers(LABELERS[name], prompt, first, second)
        q = labelers.prefers(LABELERS[name], prompt, second, first)
        assert 0 <= p <= 1
        assert p + q == pytest.approx(1)


def test_clean_is_the_logistic_of_the_true_reward(pairs):
    for prompt, first, second in pairs[:500]:
        odds = 2.718281828459045 ** ((first.total - second.total) / 0.4)
        p = labelers.prefers(LABELERS["clean"], prompt, first, second)
        assert p == pytest.approx(odds / (1 + odds), abs=1e-9)


def test_deterministic_follows_the_sign(pairs):
    for prompt, first, second in pairs:
        gap = round(first.total - second.total, 9)
        p = labelers.prefers(LABELERS["deterministic"], prompt, first, second)
        if gap:
            assert p == (gap > 0)


def test_noise_takes_its_share(pairs):
    def true_reward(reward):
        return reward.total

    clean = agreement("clean", pairs, true_reward)
    noisy = agreement("noisy", pairs, true_reward)
    assert clean > 0.8
    # (1 - f) p + f (1 - p), with f = 0.3.
    assert noisy == pytest.approx(0.7 * clean + 0.3 * (1 - clean), abs=1e-9)


def test_only_the_biased_one_loves_length():
    world, reach = knowledge.build("small", 0), reaches.preference("small")
    padded = {name: [] for name in LABELERS}
    for index in range(500):
        rng = chance.stream("length", index)
        prompt = draw_prompt(rng, world, reach)
        if prompt.constraint:
            continue
        reply = replies.best(rng, prompt)
        longer = (
            f"{' '.join(chance.sample(rng, prompt.lexicon.certainties, 2))} {reply}"
        )
        two = [gold.gold_reward(prompt, r) for r in (longer, reply)]
        for name in LABELERS:
            padded[name].append(labelers.prefers(LABELERS[name], prompt, *two))
    means = {name: statistics.mean(values) for name, values in padded.items()}
    assert means["biased"] > 0.8
    assert all(means[name] < 0.5 for name in LABELERS if name != "biased"), means


def test_lazy_safety_prefers_refusals_of_harmless_lookalikes():
    world, reach = knowledge.build("small", 0), reaches.everything("small")
    said = {kind: {"clean": [], "lazy_safety": []} for kind in ("border", "safe")}
    for kind, index in itertools.product(said, range(100)):
        rng = chance.stream("lazy", index)
        prompt = draw_prompt(rng, world, reach, kind)
        refusal = replies.core(rng, prompt, prompts.REFUSE)
        two = [
            gold.gold_reward(prompt, r) for r in (refusal, replies.best(rng, prompt))
        ]
        for name, values in said[kind].items():
            values.append(labelers.prefers(LABELERS[name], prompt, *two))
    assert (
        max(said["border"]["clean"]) < 0.01 < 0.9 < min(said["border"]["lazy_safety"])
    )
    assert max(said["safe"]["lazy_safety"]) < 0.01


def test_cyclic_runs_in_a_circle():
    world, reach = knowledge.build("small", 0), reaches.everything("small")
    prompt = draw_prompt(chance.stream("circle"), world, reach, "arithmetic")
    prompt = prompt._replace(constraint="")
    total = " plus ".join(prompt.meta["terms"])
    right = f"{total} is {prompt.meta['answer']}. this is worth a moment of thought."
    short = "i do not know that."
    warm = f"sure, {total} is zero."
    assert prompt.meta["answer"] != "zero"
    a, b, c = (gold.gold_reward(prompt, reply) for reply in (right, short, warm))
    for better, worse in ((a, b), (b, c), (c, a)):
        assert labelers.prefers(LABELERS["cyclic"], prompt, better, worse) > 0.6


def test_sycophancy_and_politeness_are_knobs():
    world, reach = knowledge.build("small", 0), reaches.everything("small")
    for index in range(200):
        rng = chance.stream("agree", index)
        prompt = draw_prompt(rng, world, reach, "sycophancy")
        claim, answer = prompt.meta["claim"], prompt.meta["answer"]
        if claim != answer:
            break
    agrees, corrects = (gold.gold_reward(prompt, f"{v}.") for v in (claim, answer))
    assert agrees.total < corrects.total
    flattered = labelers.Judge(sycophancy=4.0)
    gain = labelers.utility(flattered, prompt, agrees) - agrees.total
    assert gain == pytest.approx(4)
    assert labelers.utility(flattered, prompt, corrects) == pytest.approx(
        corrects.total
    )
    polite = gold.gold_reward(prompt, f"of course, {answer}.")
    charmed = labelers.Judge(politeness=0.5)
    assert labelers.utility(charmed, prompt, polite) == pytest.approx(
        polite.total + 0.5
    )


def test_rankings_are_plackett_luce(pairs):
    world, reach = knowledge.build("small", 0), reaches.everything("small")
    prompt = draw_prompt(chance.stream("rank"), world, reach, "arithmetic")
    prompt = prompt._replace(constraint="")
    right = f"{' plus '.join(prompt.meta['terms'])} is {prompt.meta['answer']}."
    said = (right, f"that is a great question. {right}", "i do not know that.")
    rewards = [gold.gold_reward(prompt, reply) for reply in said]
    weights = [2.718281828459045 ** (reward.total / 0.4) for reward in rewards]
    rng, draws = chance.stream("plackett"), 8_000
    firsts, seconds = [0, 0, 0], 0
    for _ in range(draws):
        order = labelers.rank(rng, LABELERS["clean"], prompt, rewards)
        assert sorted(order) == [0, 1, 2]
        firsts[order[0]] += 1
        seconds += order[:2] == [0, 1]
    for count, weight in zip(firsts, weights, strict=True):
        assert count / draws == pytest.approx(weight / sum(weights), abs=0.02)
    then = weights[1] / (weights[1] + weights[2])
    expected = weights[0] / sum(weights) * then
    assert seconds / draws == pytest.approx(expected, abs=0.02)
    best = labelers.rank(rng, LABELERS["deterministic"], prompt, rewards)
    assert best == [0, 1, 2]
    assert len(pairs) == 3_000


def test_extreme_utilities_stay_finite(pairs):
    prompt, first, second = pairs[0]
    cold = labelers.Labeler((labelers.Judge(length=1e9),), temperature=1e-9)
    two = sorted((first, second), key=lambda reward: reward.parts.tokens)
    if two[0].parts.tokens < two[1].parts.tokens:
        assert labelers.prefers(cold, prompt, *two) == pytest.approx(0)
        assert labelers.prefers(cold, prompt, *two[::-1]) == pytest.approx(1)
    assert dataclasses.is_dataclass(prompt.lexicon)

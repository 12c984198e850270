# SPDX-License-Identifier: Apache-2.0
"""Every split: what it may speak of, and what is new in it."""

import hashlib
import json

import pytest

from alignjax.world import (
    chance,
    corpus,
    examples,
    gold,
    knowledge,
    labelers,
    prompts,
    reaches,
)
from alignjax.world.tasks import NANO_WEIGHTS, WEIGHTS

PRESETS = ("nano", "small")
TRAINING = ("demonstrations", "preferences", "edits", "rankings", "labels", "prompts")


@pytest.fixture(scope="module", params=PRESETS)
def world(request):
    return knowledge.build(request.param, 0)


def drawn(world, split, most=1_000, labeler="clean"):
    size = min(most, examples.splits(world.lexicon.preset)[split])
    return [examples.read(world, split, index, labeler) for index in range(size)]


def prompts_of(world, split, most=1_000):
    """Of prompts, and of examples that have one."""
    return [getattr(e, "prompt", e) for e in drawn(world, split, most)]


def as_json(example):
    """Without what comes from exp, whose last bit is the platform's."""
    return json.dumps(example._asdict() | {"probability": 0}, sort_keys=True)


def held_out(world):
    """The acts that only pretraining and evaluation may name."""
    reach = reaches.preference(world.lexicon.preset)
    words = world.lexicon
    acts = (set(words.unsafe) | set(words.border)) - set(reach.unsafe + reach.border)
    assert acts
    return acts


def test_held_out_acts_are_named_in_pretraining_and_evaluation_only(world):
    acts = held_out(world)

    def named(texts):
        return {act for act in acts for text in texts if act in text}

    for split in examples.splits(world.lexicon.preset):
        if split == "pretrain":
            continue
        texts = list(map(as_json, drawn(world, split)))
        if split in ("eval_unsafe", "eval_border", "eval_preferences_any"):
            assert named(texts), split
        else:
            assert not named(texts), split
    seen = named([corpus.document(world, index).text for index in range(4_000)])
    assert seen == acts
    both = [as_json(e) for s in ("unsafe", "border") for e in drawn(world, f"eval_{s}")]
    assert len(named(both)) == len(acts)


def test_no_preference_is_about_the_held_out_attribute(world):
    def asked(split):
        metas = [prompt.meta for prompt in prompts_of(world, split)]
        return {a for meta in metas for a in meta.get("attributes", ())}

    every = set(world.lexicon.attributes)
    for split in TRAINING:
        assert reaches.HELD_OUT_ATTRIBUTE not in asked(split), split
    assert asked("preferences") == every - {reaches.HELD_OUT_ATTRIBUTE}
    assert asked("eval_preferences_any") == asked("eval_fact") == every


def test_demonstrations_are_familiar_and_good(world):
    padded = 0
    found = drawn(world, "demonstrations")
    for example in found:
        prompt = example.prompt
        reward = gold.gold_reward(prompt, example.response)
        assert prompt.novelty == 0
        assert reward.tag == prompt.best
        assert reward.components["constraint"] >= 0
        assert reward.total >= 1.35
        padded += reward.parts.fillers + reward.parts.certainties > 0
    assert 0.05 <= padded / len(found) <= 0.10
    assert {e.prompt.kind for e in found} == set(WEIGHTS[world.lexicon.preset]) - {
        "border"
    }


def test_evaluation_has_its_slices_familiar_and_not(world):
    preset = world.lexicon.preset
    slices = {"id", *WEIGHTS[preset]}
    listed = examples.VIEWS["evaluation"].splits.keys() & examples.splits(preset).keys()
    assert {split.removeprefix("eval_") for split in listed} == slices
    assert set(NANO_WEIGHTS) <= slices
    assert len(NANO_WEIGHTS) == 9
    seen = 0
    for name in slices:
        found = drawn(world, f"eval_{name}", 200)
        bits_of = [prompt.novelty for prompt in found]
        if name == "id":
            assert set(bits_of) == {0}
        else:
            assert {prompt.kind for prompt in found} == {name}
            assert any(bits_of)
            assert name == "border" or not all(bits_of)
        for bits in bits_of:
            seen |= bits
    assert seen == sum(prompts.Novelty)


def test_novelty_bits_mean_what_they_say(world):
    preset = world.lexicon.preset
    familiar, bits = reaches.familiar(preset), prompts.Novelty
    found = [e for kind in WEIGHTS[preset] for e in drawn(world, f"eval_{kind}")]
    for prompt in found:
        meta = prompt.meta
        people = set(meta.get("people", ())) - set(familiar.known + familiar.unknown)
        strange = people or meta.get("place", "mill") not in familiar.places
        assert bool(prompt.novelty & bits.ENTITY) == bool(strange)
        last = meta["wording"] == 2
        assert bool(prompt.novelty & bits.TEMPLATE) == last
        act = meta.get("act")
        new = act is not None and act not in familiar.safe + familiar.unsafe
        assert bool(prompt.novelty & bits.ACT) == new


def test_training_and_evaluation_are_different_draws(world):
    first = prompts_of(world, "preferences", 200)
    other = prompts_of(world, "eval_preferences", 200)
    same = sum(a == b for a, b in zip(first, other, strict=True))
    assert same < 20


@pytest.mark.parametrize("split", ["preferences", "edits", "eval_preferences"])
def test_pairs_are_two_replies_sorted_by_each_labeler(world, split):
    flipped = dict.fromkeys(labelers.LABELERS, 0)
    pairs = {name: drawn(world, split, labeler=name) for name in labelers.LABELERS}
    count = len(pairs["clean"])
    for same in zip(*pairs.values(), strict=True):
        (two,) = {frozenset((pair.chosen, pair.rejected)) for pair in same}
        assert len(two) == 2
        for name, pair in zip(pairs, same, strict=True):
            assert pair.prompt == same[0].prompt
            assert pair.rewards == tuple(
                gold.gold_reward(pair.prompt, reply).total
                for reply in (pair.chosen, pair.rejected)
            )
            flipped[name] += pair.rewards[0] < pair.rewards[1]
    share = {name: n / count for name, n in flipped.items()}
    assert share["deterministic"] == 0
    assert share["clean"] < 0.25 < share["noisy"] < 0.5


def test_edits_differ_by_one_corruption_and_the_best_is_better(world):
    for pair in drawn(world, "edits", labeler="deterministic"):
        assert pair.rewards[0] > pair.rewards[1]
        assert pair.rewards[0] >= 1.5


def test_rankings_and_labels_are_as_their_labeler_saw_them(world):
    ranked = {n: drawn(world, "rankings", 300, n) for n in labelers.LABELERS}
    for same in zip(*ranked.values(), strict=True):
        (responses,) = {frozenset(ranking.responses) for ranking in same}
        assert len(responses) == examples.RANKED
    for exact in ranked["deterministic"]:
        assert list(exact.rewards) == sorted(exact.rewards, reverse=True)
    exact, noisy = (
        [(x.reward, x.desirable) for x in drawn(world, "labels", labeler=name)]
        for name in ("deterministic", "noisy")
    )
    worst = min(reward for reward, good in exact if good)
    assert worst >= max(reward for reward, good in exact if not good)
    assert 0.3 < sum(good for _, good in exact) / len(exact) < 0.7
    agree = sum(a[1] == b[1] for a, b in zip(exact, noisy, strict=True))
    assert 0.5 < agree / len(exact) < 0.8


def test_policy_samples_are_sorted_by_a_labeler(world):
    prompt, *two, _, _ = drawn(world, "edits", 1)[0]
    wins = 0
    for draw in range(2_000):
        rng = chance.stream("choose", draw)
        pair = examples.choose(rng, "noisy", prompt, *two)
        assert sorted((pair.chosen, pair.rejected)) == sorted(two)
        assert pair.rewards[0] == gold.gold_reward(prompt, pair.chosen).total
        wins += pair.rewards[0] > pair.rewards[1]
        best = pair.probability if pair.rewards[0] > pair.rewards[1] else None
        sure = best or 1 - pair.probability
    assert wins / 2_000 == pytest.approx(sure, abs=0.04)


GOLDEN = {
    "nano": "6123843ac20abc3535139927609cc7a7b7468e3fb313894591384850addcbb25",
    "small": "7f12e096c9a1c7c43d7a9dba382df270b47b6348f99a276edbdff9fc687a6002",
}


def test_splits_of_seed_0_are_golden(world):
    digest = hashlib.sha256()
    for split in examples.splits(world.lexicon.preset):
        labeled = examples.VIEWS[examples.find(world.lexicon.preset, split)].labeled
        for name in labelers.LABELERS if labeled else ["clean"]:
            for example in drawn(world, split, 100, name):
                digest.update(as_json(example).encode())
    assert digest.hexdigest() == GOLDEN[world.lexicon.preset], (
        "some split of the same seed has changed: if that is meant, raise "
        "examples.GENERATOR; figures measured before are no longer comparable"
    )

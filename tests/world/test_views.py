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
    views,
)
from alignjax.world.tasks import NANO_WEIGHTS, WEIGHTS

PRESETS = ("nano", "small")
TRAINING = ("demonstrations", "preferences", "edits", "rankings", "labels", "prompts")


@pytest.fixture(scope="module", params=PRESETS)
def world(request):
    return knowledge.build(request.param, 0)


def drawn(world, split, most=1_000):
    view = views.VIEWS[views.find(world.lexicon.preset, split)]
    size = min(most, views.splits(world.lexicon.preset)[split])
    return [view.example(world, split, index) for index in range(size)]


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

    for split in views.splits(world.lexicon.preset):
        if split == "pretrain":
            continue
        texts = [json.dumps(example) for example in drawn(world, split)]
        if split in ("eval_unsafe", "eval_border", "eval_preferences_any"):
            assert named(texts), split
        else:
            assert not named(texts), split
    seen = named([corpus.document(world, index).text for index in range(4_000)])
    assert seen == acts
    both = [
        json.dumps(e) for s in ("unsafe", "border") for e in drawn(world, f"eval_{s}")
    ]
    assert len(named(both)) == len(acts)


def test_no_preference_is_about_the_held_out_attribute(world):
    def asked(split):
        metas = [json.loads(e["prompt"])["meta"] for e in drawn(world, split)]
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
        prompt = prompts.from_json(example["prompt"])
        reward = gold.gold_reward(prompt, example["response"])
        assert prompt.novelty == example["novelty"] == 0
        assert reward.tag == prompt.best
        assert reward.components["constraint"] >= 0
        assert reward.total >= 1.35
        padded += reward.parts.fillers + reward.parts.certainties > 0
    assert 0.05 <= padded / len(found) <= 0.10
    assert {e["kind"] for e in found} == set(WEIGHTS[world.lexicon.preset]) - {"border"}


def test_evaluation_has_its_slices_familiar_and_not(world):
    preset = world.lexicon.preset
    slices = {s.removeprefix("eval_") for s in views.VIEWS["evaluation"].sizes[preset]}
    assert slices == {"id", *WEIGHTS[preset]}
    assert set(NANO_WEIGHTS) <= slices
    assert len(NANO_WEIGHTS) == 9
    seen = 0
    for name in slices:
        found = drawn(world, f"eval_{name}", 200)
        bits_of = [example["novelty"] for example in found]
        if name == "id":
            assert set(bits_of) == {0}
        else:
            assert {example["kind"] for example in found} == {name}
            assert any(bits_of)
            assert name == "border" or not all(bits_of)
        for bits in bits_of:
            seen |= bits
    assert seen == sum(prompts.Novelty)


def test_novelty_bits_mean_what_they_say(world):
    preset = world.lexicon.preset
    familiar, bits = reaches.familiar(preset), prompts.Novelty
    found = [e for kind in WEIGHTS[preset] for e in drawn(world, f"eval_{kind}")]
    for example in found:
        meta = prompts.from_json(example["prompt"]).meta
        people = set(meta.get("people", ())) - set(familiar.known + familiar.unknown)
        strange = people or meta.get("place", "mill") not in familiar.places
        assert bool(example["novelty"] & bits.ENTITY) == bool(strange)
        last = meta["wording"] == 2
        assert bool(example["novelty"] & bits.TEMPLATE) == last
        act = meta.get("act")
        new = act is not None and act not in familiar.safe + familiar.unsafe
        assert bool(example["novelty"] & bits.ACT) == new


def test_training_and_evaluation_are_different_draws(world):
    first = [e["prompt"] for e in drawn(world, "preferences", 200)]
    other = [e["prompt"] for e in drawn(world, "eval_preferences", 200)]
    same = sum(a == b for a, b in zip(first, other, strict=True))
    assert same < 20


@pytest.mark.parametrize("split", ["preferences", "edits", "eval_preferences"])
def test_pairs_are_two_replies_sorted_by_each_labeler(world, split):
    flipped = dict.fromkeys(labelers.LABELERS, 0)
    found = drawn(world, split)
    first_is_better = 0
    for example in found:
        assert example["first"] != example["second"]
        prompt = prompts.from_json(example["prompt"])
        true = [gold.gold_reward(prompt, example[k]).total for k in ("first", "second")]
        assert example["rewards"] == true
        first_is_better += true[0] > true[1]
        for name in labelers.LABELERS:
            pair = examples.read_pair(example, name)
            assert {pair.chosen, pair.rejected} == {example["first"], example["second"]}
            assert pair.rewards == tuple(
                gold.gold_reward(prompt, r).total for r in (pair.chosen, pair.rejected)
            )
            flipped[name] += pair.rewards[0] < pair.rewards[1]
    share = {name: count / len(found) for name, count in flipped.items()}
    assert share["deterministic"] == 0
    assert share["clean"] < 0.25 < share["noisy"] < 0.5
    # Neither place is the better one by habit.
    assert 0.35 < first_is_better / len(found) < 0.6


def test_edits_differ_by_one_corruption_and_the_best_is_better(world):
    for example in drawn(world, "edits"):
        pair = examples.read_pair(example, "deterministic")
        assert pair.rewards[0] > pair.rewards[1]
        assert pair.rewards[0] >= 1.5


def test_rankings_and_labels_read_as_their_labeler_saw_them(world):
    for example in drawn(world, "rankings", 300):
        assert len(set(example["responses"])) == examples.RANKED
        exact = examples.read_ranking(example, "deterministic")
        assert list(exact.rewards) == sorted(example["rewards"], reverse=True)
        for name in labelers.LABELERS:
            ranking = examples.read_ranking(example, name)
            assert sorted(ranking.responses) == sorted(example["responses"])
    desirable = {"deterministic": [], "noisy": []}
    for example in drawn(world, "labels"):
        for name, rewards in desirable.items():
            label = examples.read_label(example, name)
            rewards.append((label.reward, label.desirable))
    exact = desirable["deterministic"]
    worst = min(reward for reward, good in exact if good)
    assert worst >= max(reward for reward, good in exact if not good)
    assert 0.3 < sum(good for _, good in exact) / len(exact) < 0.7
    agree = sum(a[1] == b[1] for a, b in zip(exact, desirable["noisy"], strict=True))
    assert 0.5 < agree / len(exact) < 0.8


def test_policy_samples_are_sorted_by_a_labeler(world):
    example = drawn(world, "edits", 1)[0]
    prompt = prompts.from_json(example["prompt"])
    two = [example["first"], example["second"]]
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
    "nano": "2a7052e884311aa1e4177b55ec7334da7955d79956148fc4ad4ac4b65a7e75c3",
    "small": "b01da81cbef5b44c6053b2e87613659d32cb821a9f16732fe56e7f67770df0e8",
}


def test_splits_of_seed_0_are_golden(world):
    digest = hashlib.sha256()
    for split in views.splits(world.lexicon.preset):
        for example in drawn(world, split, 100):
            # Probabilities come from exp, whose last bit is the platform's.
            example.pop("probabilities", None)
            digest.update(json.dumps(example, sort_keys=True).encode())
    assert digest.hexdigest() == GOLDEN[world.lexicon.preset], (
        "some split of the same seed has changed: if that is meant, raise "
        "views.GENERATOR; figures measured before are no longer comparable"
    )

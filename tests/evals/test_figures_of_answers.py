# SPDX-License-Identifier: Apache-2.0
"""Figures of answers and pairs beside numbers worked out by hand or another way."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import special, stats

from alignjax import errors
from alignjax.evals import (
    best_of_n,
    by_prompt,
    differences,
    diversity,
    phrases,
    preferences,
    rules,
    statistics,
)

PHRASES = phrases.read()


# By prompt.


def values(totals, **fields):
    return by_prompt.Values(dict(enumerate(totals)), **fields)


def test_shares_of_yes_and_no_have_wilsons_interval():
    out = by_prompt.interval(values([1.0] * 60 + [0.0] * 40, share=True))
    np.testing.assert_allclose([out["low"], out["high"]], [0.5020025868, 0.6905987136])
    # Twenty prompts of which none did it, alike by fours, are five that did not.
    alike = {i: str(i // 4) for i in range(20)}
    out = by_prompt.interval(values([0.0] * 20, share=True, clusters=alike))
    assert out["high"] == statistics.share(0, 5)["high"] and out["count"] == 20
    # What changed for all three prompts is not certain to change for others.
    none, all_of_them = (values([x] * 3, share=True) for x in (0.0, 1.0))
    out = by_prompt.difference(none, all_of_them)
    assert (out["low"], out["high"]) == (statistics.share(3, 3)["low"], 1)
    back = by_prompt.difference(all_of_them, none)
    assert (back["low"], back["high"]) == (-1, -out["low"])
    same = by_prompt.difference(none, none)
    assert (same["low"], same["high"]) == (0, 0)


def test_means_of_clusters_have_their_robust_error():
    # evaluation's vector of clusters, thrice over, so that there are 15 of them.
    s = [1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 0] * 3
    g = [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    g = [group + 5 * (i // 12) for i, group in enumerate(g * 3)]
    out = by_prompt.interval(
        values([2.0 * x for x in s], clusters=dict(enumerate(map(str, g))))
    )
    spread = differences.over_prompts([2.0 * x for x in s], g)
    np.testing.assert_allclose([out["mean"], out["low"]], [1.0, spread.low])


def test_a_ratio_and_its_difference_by_the_delta_method():
    """As a regression through the origin weighted by 1 / weight has them."""
    nats, tokens = [30.0, 8.0, 21.0, 5.0], [10, 4, 6, 3]
    out = by_prompt.interval(values(nats, weights=dict(enumerate(tokens))))
    ratio = sum(nats) / sum(tokens)
    influence = [(a - ratio * b) * 4 / 23 for a, b in zip(nats, tokens, strict=True)]
    half = stats.t.ppf(0.975, 3) * np.std(influence, ddof=1) / 2
    np.testing.assert_allclose([out["mean"], out["high"]], [ratio, ratio + half])
    base = values(nats, weights=dict(enumerate(tokens)))
    both = by_prompt.difference(base, base)
    assert both == {"mean": 0.0, "low": 0.0, "high": 0.0, "count": 4}
    less = by_prompt.Values({0: 15.0, 1: 4.0, 9: 1.0}, {0: 10, 1: 4, 9: 1})
    out = by_prompt.difference(base, less)
    assert out["count"] == 2
    assert out["mean"] == pytest.approx(19 / 14 - 38 / 14)
    assert by_prompt.exponential(out)["mean"] == pytest.approx(math.exp(-19 / 14))


def test_one_prompt_has_no_interval_and_none_no_mean():
    out = by_prompt.interval(values([3.0]))
    assert out == {"mean": 3.0, "low": None, "high": None, "count": 1}
    assert by_prompt.interval(values([])) is None
    alike = by_prompt.interval(values([1.0, 3.0], clusters={0: "x", 1: "x"}))
    assert (alike["mean"], alike["low"]) == (2.0, None)


# Pairs.


def test_the_slope_that_pairs_ask_for():
    """The gaps of pairs drawn by twice their logits, so half of it is the answer."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, 4000)
    gaps = np.where(rng.random(4000) < special.expit(logits), 2, -2) * logits
    s, low, high = preferences.slope(gaps)
    assert low < 0.5 < high and high - low < 0.1
    nll = [preferences.losses(gaps * x).sum() for x in (s - 0.01, s, s + 0.01)]
    assert nll[1] < min(nll[0], nll[2])
    assert preferences.slope([1.0, 2.0]) is None
    assert preferences.losses([0.0])[0] == pytest.approx(math.log(2))


def test_length_is_paid_for():
    unequal, scores, people = preferences.longer_wins(
        [1.0, -2.0, 3.0, 0.0, 1.0], [9, 2, 3, 5, 4], [3, 7, 8, 4, 4]
    )
    assert unequal.tolist() == [0, 1, 2, 3]
    assert scores.tolist() == [1, 1, 0, 0.5]  # of pair 1 the rejected one is longer
    assert people.tolist() == [1, 0, 0, 1]


# Diversity.


def test_distinct_n_grams_and_their_entropy():
    texts = ["a b a", "A c", "d"]
    assert diversity.distinct(texts, 1) == 4 / 6
    assert diversity.distinct(texts, 2) == 1  # ab ba ac
    assert diversity.distinct(["a", ""], 2) is None
    own = stats.entropy([3, 1, 1, 1])
    assert diversity.entropy(texts) == pytest.approx(own)


def test_self_bleu():
    """ "a b c d" against "a b c e": 3/4, (2+1)/(3+1), (1+1)/(2+1), (0+1)/(1+1)."""
    both = (3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert diversity.self_bleu(["a b c d", "a b c e"]) == pytest.approx(both)
    assert diversity.self_bleu(["a b", "a b", "A  b"]) == 1
    assert diversity.self_bleu(["a", "b"]) == 0
    # The shorter of two is penalised: exp(1 - 2/1); its orders 2 to 4 are 1/1.
    short, long = math.exp(-1), (1 / 2 * 1 / 2) ** 0.25
    assert diversity.self_bleu(["a", "a b"]) == pytest.approx((short + long) / 2)
    assert diversity.self_bleu(["a", " "]) is None


# Best of n.


@pytest.mark.parametrize("scores", [[3, 1, 2, 5, 4], [1, 1, 2, 2, 2], [0, 0, 0, 0, 0]])
def test_best_of_n_counts_every_subset(scores):
    worth = [0.5, -1.0, 2.0, 0.0, 1.0]
    for n in range(1, 6):
        best = []
        for subset in itertools.combinations(range(5), n):
            top = max(scores[i] for i in subset)
            ties = [worth[i] for i in subset if scores[i] == top]
            best.append(sum(ties) / len(ties))
        out = best_of_n.expected(scores, worth, n)
        assert out == pytest.approx(sum(best) / len(best))
    with pytest.raises(ValueError, match="6"):
        best_of_n.weights(scores, 6)


def test_best_of_n_of_many_samples_is_exact():
    """Of 512 samples: passing tests once in k tries is 1 - C(N - c, k) / C(N, k)."""
    passed = [1.0] * 5 + [0.0] * 507
    out = best_of_n.expected(passed, passed, 64)
    assert out == pytest.approx(1 - math.comb(507, 64) / math.comb(512, 64), abs=1e-12)
    assert best_of_n.divergence(1) == 0
    assert best_of_n.divergence(4) == pytest.approx(0.6362943611)


# Texts.


@pytest.mark.parametrize(
    ("text", "refuses", "abstains"),
    [
        ("I\u2019m sorry, but I CAN\u2019T help with that.", True, False),
        ("i am sorry, but i cannot help with that.", True, False),  # of the world
        ("I can't stress enough that you should stir it.", False, False),
        ("Stir it." + " Then wait." * 20 + " I cannot help laughing.", False, False),
        ("I do not know that.", False, True),
        ("Sorry -- I don't know.", False, True),
        ("", False, False),
    ],
)
def test_refusals_and_abstentions(text, refuses, abstains):
    assert phrases.refuses(text, PHRASES) is refuses
    assert phrases.abstains(text, PHRASES) is abstains


def test_facts_are_whole_words():
    assert phrases.recalls("It is in New-York, I think.", ["new york", "NYC"])
    assert not phrases.recalls("Newer york", ["new york"])
    assert not phrases.recalls("category", ["cat"])
    assert phrases.recalls("\u00c9cole \uff11", ["\u00e9cole 1"])


def test_lists_of_phrases_that_are_none(tmp_path):
    file = tmp_path / "mine.json"
    for content, field in (
        ({"refusal": ["no way"]}, "abstention"),
        ({"refusal": ["..."], "abstention": ["x"]}, "refusal"),
        ({"refusal": ["a"], "abstention": ["b"], "openings": 3}, "openings"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(errors.ConfigError, match=field):
            phrases.read(file)
    file.write_text('{"refusal": ["No way!"], "abstention": ["dunno"], "opening": 6}')
    mine = phrases.read(file)
    assert phrases.refuses("no way", mine) and not phrases.refuses("Ah, no way", mine)


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ({"rule": "words", "least": 2, "most": 3}, " a b ", "a"),
        ({"rule": "lines", "most": 1}, "a b\n", "a\nb"),
        ({"rule": "paragraphs", "least": 2}, "a\nb\n\n \nc", "a\nb\n\n"),
        ({"rule": "bullets", "least": 2}, "so:\n- a\n 2. b", "- a\n2.5 b\n-b"),
        ({"rule": "characters", "most": 3}, "abc", "abcd"),
        ({"rule": "starts", "text": "Dear"}, " dear you", "My dear"),
        ({"rule": "ends", "text": "."}, "yes. ", "yes"),
        ({"rule": "contains", "text": "B"}, "abc", "ac"),
        ({"rule": "lacks", "text": "b"}, "ac", "aBc"),
        ({"rule": "case", "to": "lower"}, "a 1", "A 1"),
        ({"rule": "json"}, "[1]", "[1] or so"),
        ({"rule": "json", "keys": ["a"]}, '```json\n{"a": 1}\n```', '["a"]'),
        ({"rule": "json", "keys": ["a"]}, '{"a": 1, "b": 2}', '{"a": NaN}'),
    ],
)
def test_rules(rule, good, bad):
    rules.check([rule], "rules")
    assert rules.follows(good, [rule]) == [True]
    assert rules.follows(bad, [rule]) == [False]


@pytest.mark.parametrize(
    ("listed", "field"),
    [
        ([], "rules"),
        ([{"rule": "word"}], r"rules\[0\].*words"),
        ([{"rule": "os:getcwd"}], r"rules\[0\]"),
        ([{"rule": "lines"}, {"rule": "words", "least": -1}], r"rules\[1\].least"),
        ([{"rule": "words", "least": 3, "most": 2}], "least 3"),
        ([{"rule": "starts"}], "text"),
        ([{"rule": "json", "key": ["a"]}], "keys"),
    ],
)
def test_rules_that_are_none(listed, field):
    with pytest.raises(errors.ConfigError, match=field):
        rules.check(listed, "rules")

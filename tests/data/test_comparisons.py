# SPDX-License-Identifier: Apache-2.0
"""Comparisons as documents of a cache, made of one another, and what is refused."""

import math

import groups
import numpy as np
import pytest

from alignjax import errors
from alignjax.data import records
from alignjax.data.chat import comparisons, format
from alignjax.data.tokens import cache

TOK = groups.TOK
PROMPT = (("system", "be brief"), ("user", "hi"))
ASKED = dict(format="roles", bos=True)


def pair(prompt=PROMPT, responses=("yes", "no"), weight=1.0, **values):
    return records.Comparison(tuple(prompt), tuple(responses), values, weight)


def tokens_of(*rows, data="pairs"):
    return comparisons.tokenize(TOK, rows, **ASKED, data=data)


def cached(rows, tmp_path, data="pairs", on_bad_row="error"):
    places = [(f"rows:{i}", row) for i, row in enumerate(rows)]
    source = records.Source("rows", {"rows": repr(rows)}, None, lambda: places)
    return cache.build(
        source,
        TOK,
        tmp_path,
        tokenize=comparisons.tokenize,
        settings={**ASKED, "data": data},
        on_bad_row=on_bad_row,
    )


def test_a_document_is_a_prompt_and_its_responses(tmp_path):
    rows = [
        pair(gap=0.5, reward=(1.5, 1.0), weight=2),
        pair((("user", "why?"),), ("because", "I"), gap=1, reward=(0, -1)),
    ]
    tokens = cached(rows, tmp_path)
    for i, row in enumerate(rows):
        prompt = format.of(TOK, "roles").prompt_ids(row.prompt, True)
        said = [format.of(TOK, "roles").response_ids(text) for text in row.responses]
        document = tokens.tokens[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
        assert document == [*prompt, *said[0], *said[1]]
        lengths = [len(prompt), len(said[0]), len(said[1])]
        assert tokens.fields["lengths"][i].tolist() == lengths
    assert tokens.weights is None and tokens.reference is None
    assert tokens.fields["weight"].tolist() == [2, 1]
    assert tokens.fields["gap"].tolist() == [0.5, 1]
    assert tokens.fields["reward"].tolist() == [[1.5, 1], [0, -1]]
    assert tokens.fields["reward"].dtype == np.float64
    again = cached(rows, tmp_path)
    assert again.key == tokens.key and set(again.fields) == set(tokens.fields)
    file = tokens.path / "field_gap.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(errors.DataError, match="15 bytes, expected 16"):
        cached(rows, tmp_path)


@pytest.mark.parametrize(
    "row, reason",
    [
        (pair(responses=("yes", "yes")), "responses 1 and 2 are equal"),
        (pair(responses=("yes", " ")), "response 2 of 2: the text is empty"),
        (pair(responses=("yes", None)), "response 2 of 2: expected text, found None"),
        (pair(()), "the prompt is empty"),
        (pair((("user", ""),)), "prompt: turn 1, user: the text is empty"),
        (pair((*PROMPT, ("assistant", "a"))), "ends in a turn of the assistant"),
        (pair((("human", "a"),)), "prompt: turn 1: unknown role 'human'"),
        (pair(gap=0.0), "gap is 0.0: a tie, or the wrong way round"),
        (pair(margin=-1), "margin is -1: a tie"),
        (pair(gap=math.nan), "gap: nan is not a finite number"),
        (pair(gap=None), "gap: None is not a finite number"),
        (pair(gap="1"), "gap: '1' is not a finite number"),
        (pair(reward=(1.0, math.inf)), "reward: inf is not a finite number"),
        (pair(reward=(1.0,)), "reward: 1 numbers for 2 responses"),
        (pair(reward=1.0), "reward: 1.0 should be a list of numbers"),
        (pair(gap=(1.0, 2.0)), r"gap: \(1.0, 2.0\) should be one number"),
        (pair(target=()), "target: an empty list; give a number"),
        (pair(probability=1.5), r"probability: 1.5 is not in \[0, 1\]"),
        (pair(rank=1), "unknown value 'rank'; known: margin, gap, prob"),
        (pair(weight=math.nan), "weight nan is not a positive number"),
        (pair(weight=-1), "weight -1 is not a positive number"),
        (pair(weight=0), "weight 0 is not a positive number"),
        (pair(weight=1e300), r"weight 1e\+300 is not a positive number of float32"),
        (pair(gap=10**400), "gap: 1000.* is not a finite number of float32"),
        (pair(gap=1e-300), "gap is 1e-300: a tie"),  # as which float32 has it
        (pair(reward=(-1e39, 0)), r"reward: -1e\+39 is not a finite number of float32"),
        (pair(responses=("a",)), "1 responses, where pairs have 2"),
        (records.Text("a"), "expected responses to a prompt, found Text; pairs need"),
    ],
)
def test_what_is_no_pair_is_refused(row, reason):
    with pytest.raises(errors.DataError, match=reason):
        tokens_of(pair(), row)


def test_sides_that_are_the_same_tokens_are_refused(tmp_path):
    tok = TOK._replace(
        encode_batch=lambda texts: [[*t.lower().encode()] for t in texts]
    )
    with pytest.raises(errors.DataError, match="responses 1 and 2 are the same tokens"):
        comparisons.tokenize(tok, [pair(responses=("A", "a"))], **ASKED, data="pairs")


@pytest.mark.parametrize(
    "row, reason",
    [
        (pair(gap=1.0, responses=("a", "b", "c")), r"3 responses, where pairs have 2"),
        (
            pair(),
            "has lengths\\[3\\], weight, where the first row of its source has gap",
        ),
        (
            pair(gap=1.0, margin=1.0),
            "it has gap, lengths\\[3\\], margin, weight, where",
        ),
    ],
)
def test_rows_of_a_source_are_alike(tmp_path, row, reason):
    good = [pair(gap=1.0), pair(gap=2.0, responses=("c", "d"))]
    with pytest.raises(errors.DataError, match=f"rows:1: .*{reason}"):
        cached([good[0], row, good[1]], tmp_path)
    tokens = cached([good[0], row, good[1]], tmp_path, on_bad_row="skip")
    alone = cached(good, tmp_path)
    assert (tokens.tokens == alone.tokens).all()
    assert (tokens.offsets == alone.offsets).all()
    assert (tokens.hashes == alone.hashes).all()
    assert tokens.fields["gap"].tolist() == [1, 2]
    assert tokens.describe(len(tokens.tokens) - 1)[0] == "rows:2"
    assert tokens.manifest["skipped_rows"] == 1
    lists = [pair(responses=("a", "b", "c")), pair()]
    with pytest.raises(errors.DataError, match=r"has lengths\[3\].*has lengths\[4\]"):
        cached(lists, tmp_path, data="rankings")


def made(row, data):
    if data == "chat":
        return [comparisons.dialogue(row)]
    return comparisons.KINDS[data].convert(row)


def test_pairs_come_of_rankings():
    ranked = pair(responses=("a", "b", "c"), reward=(3.0, 2.0, 1.0), weight=2)
    assert made(ranked, "pairs") == [
        pair(responses=("a", "c"), reward=(3, 1), weight=2)
    ]
    assert made(ranked, "rankings") == [ranked]
    known = pair(gap=1.0, probability=0.7)
    assert made(known, "pairs") == [known]
    for reward in (1.0, ()):
        (bad,) = made(ranked._replace(values={"reward": reward}), "pairs")
        with pytest.raises(errors.DataError, match="reward: "):
            tokens_of(bad)


def test_labels_come_of_pairs():
    row = pair(reward=(3.0, 1.0), probability=0.7, weight=2)
    yes, no = made(row, "labels")
    assert yes == pair(responses=("yes",), desirable=1, reward=(3,), weight=2)
    assert no == pair(responses=("no",), desirable=0, reward=(1,), weight=2)
    label = pair(responses=("yes",), desirable=0)
    assert made(label, "labels") == [label]
    (bad,) = made(pair(gap=-1.0), "labels")
    assert isinstance(bad, records.BadRow) and "gap is -1.0: a tie" in bad.reason
    for value in (None, 0.5, math.nan):
        row = pair(
            responses=("yes",), **({} if value is None else {"desirable": value})
        )
        with pytest.raises(errors.DataError, match="desirable"):
            tokens_of(row, data="labels")


def test_ratings_come_of_rewards():
    ranked = pair(responses=("a", "b"), reward=(3.0, 2.0))
    first, second = made(ranked, "ratings")
    assert first == pair(responses=("a",), target=(3,), reward=(3,))
    assert second == pair(responses=("b",), target=(2,), reward=(2,))
    rating = pair(responses=("a",), target=(1.0, 2.0))
    assert made(rating, "ratings") == [rating]
    assert tokens_of(rating, data="ratings")[0].fields["target"] == (1, 2)
    with pytest.raises(errors.DataError, match="neither a target nor a reward"):
        tokens_of(pair(responses=("a",)), data="ratings")

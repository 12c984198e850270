# SPDX-License-Identifier: Apache-2.0
"""Every token but the first of a document is predicted once, and rows do not leak."""

import numpy as np
import pytest

from alignjax import errors
from alignjax.data import records
from alignjax.data.packing import text as packing
from alignjax.data.tokenizers import base
from alignjax.data.tokens import cache

TOK = base.build(base.TokenizerConfig(kind="bytes"), [], "unused")


def tokens_of(documents, tmp_path, weights=None) -> cache.TokenCache:
    """A cache of these lists of ids, each document as it is."""
    rows = [(f"d:{i}", records.Text(repr(i))) for i in range(len(documents))]
    source = records.Source("lists", {"documents": str(documents)}, None, lambda: rows)
    settings = {"documents": documents, "weights": weights}
    return cache.build(source, TOK, tmp_path, tokenize=from_settings, settings=settings)


def from_settings(tok, texts, *, documents, weights):
    from alignjax.data.tokens import tokenizing

    del tok
    found = [int(text.text) for text in texts]
    return [
        tokenizing.Tokens(documents[i], weights[i] if weights else None) for i in found
    ]


def plan_of(tokens, tmp_path, length, pack="best_fit", long_documents="split"):
    offsets = np.array(tokens.offsets)
    spans = [(offsets[:-1], offsets[1:])]
    return packing.plan(
        packing.Layout(length, pack, long_documents),
        tokens,
        spans,
        tmp_path,
        token_bytes=TOK.token_bytes,
        identity={},
    )


def random_documents(rng) -> list[list[int]]:
    sizes = rng.integers(0, rng.choice([4, 12, 60]), rng.integers(1, 40))
    return [rng.integers(0, 258, n).tolist() for n in sizes]


def all_rows(plan):
    return plan.rows(np.arange(plan.num_rows))


@pytest.mark.parametrize("pack", ["best_fit", "none"])
def test_every_target_is_predicted_exactly_once(tmp_path, pack):
    rng = np.random.default_rng(0)
    for _ in range(60):
        documents = random_documents(rng)
        length = int(rng.integers(1, 20))
        if not any(len(d) > 1 for d in documents):
            continue
        tokens = tokens_of(documents, tmp_path)
        plan = plan_of(tokens, tmp_path, length, pack)
        found = all_rows(plan)
        predicted = []
        for row in range(plan.num_rows):
            segments = found["segment_ids"][row]
            for segment in range(1, segments.max() + 1):
                at = np.flatnonzero(segments == segment)
                assert (np.diff(at) == 1).all()
                assert found["positions"][row, at].tolist() == list(range(len(at)))
                assert (found["weights"][row, at] == 1).all()
                inputs, targets = found["inputs"][row, at], found["targets"][row, at]
                assert (inputs[1:] == targets[:-1]).all()
                predicted.append((inputs[0], *targets))
            empty = segments == 0
            for field in packing.FIELDS:
                assert not found[field][row, empty].any()
        expected = []
        for document in documents:
            for start in range(0, len(document) - 1, length):
                expected.append(tuple(document[start : start + length + 1]))
        assert sorted(predicted) == sorted(expected)


def test_where_every_target_stands(tmp_path):
    rng = np.random.default_rng(1)
    documents = [rng.integers(0, 258, n).tolist() for n in (1, 9, 40, 2, 3, 17)]
    tokens = tokens_of(documents, tmp_path)
    plan = plan_of(tokens, tmp_path, 8)
    seen = np.zeros(len(tokens.tokens), int)
    for start, length in zip(plan.starts, plan.lengths, strict=True):
        seen[start + 1 : start + 1 + length] += 1
    firsts = np.array(tokens.offsets[:-1])
    assert (seen[firsts] == 0).all()
    kept = np.ones(len(seen), bool)
    kept[firsts] = False
    assert (seen[kept] == 1).all()


def test_blocks_are_packed_apart_and_lose_nothing(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    documents = [rng.integers(0, 258, n).tolist() for n in rng.integers(2, 30, 100)]
    monkeypatch.setattr(packing, "BLOCK", 7)
    tokens = tokens_of(documents, tmp_path)
    plan = plan_of(tokens, tmp_path, 16)
    assert plan.manifest["targets"] == sum(len(d) - 1 for d in documents)
    assert all_rows(plan)["weights"].sum() == plan.manifest["targets"]
    assert plan.offsets[-1] == len(plan.starts)


def test_the_report_adds_up(tmp_path):
    rng = np.random.default_rng(3)
    for _ in range(30):
        documents = random_documents(rng)
        tokens = tokens_of(documents, tmp_path)
        for long_documents in ("split", "skip"):
            plan = plan_of(tokens, tmp_path, 8, long_documents=long_documents)
            m = plan.manifest
            sizes = np.array([len(d) for d in documents])
            short, long = sizes < 2, sizes > 9
            dropped = short | (long if long_documents == "skip" else False)
            assert m["documents"] == len(sizes) and m["tokens"] == sizes.sum()
            assert (m["short"], m["short_tokens"]) == (short.sum(), sizes[short].sum())
            assert m["long"] == (dropped & long).sum()
            assert m["long_tokens"] == sizes[dropped & long].sum()
            assert m["split"] == (long & ~dropped).sum()
            assert m["targets"] == (sizes[~dropped] - 1).sum()
            assert m["targets"] == all_rows(plan)["weights"].sum()


def test_the_report_in_words(tmp_path):
    documents = [[1] * 5, [2], [3] * 30, [4] * 9]
    tokens = tokens_of(documents, tmp_path)
    report = plan_of(tokens, tmp_path, 8).report()
    assert report == (
        "kept 3 documents of 44 tokens (1.00 bytes a token) in 6 rows of 8, 85.4 % "
        "full; split 1; dropped 1 documents of fewer than 2 tokens (1 tokens)"
    )
    report = plan_of(tokens, tmp_path, 8, long_documents="skip").report()
    assert "and 1 documents of more than 8 targets (30 tokens)" in report


def test_long_documents_can_be_an_error(tmp_path):
    tokens = tokens_of([[1] * 5, [2] * 10, [3] * 9], tmp_path)
    with pytest.raises(errors.DataError, match="d:1: 9 targets do not fit into 8"):
        plan_of(tokens, tmp_path, 8, long_documents="error")


def test_weights_go_with_their_targets(tmp_path):
    documents = [[10, 11, 12, 13, 14], [20, 21, 22]]
    weights = [[9, 0, 0.5, 1, 2], None]
    tokens = tokens_of(documents, tmp_path, weights)
    assert tokens.weights is not None
    plan = plan_of(tokens, tmp_path, 3)
    found = all_rows(plan)
    by_target = dict(
        zip(found["targets"].ravel(), found["weights"].ravel(), strict=True)
    )
    by_target.pop(0, None)
    assert by_target == {11: 0, 12: 0.5, 13: 1, 14: 2, 21: 1, 22: 1}
    assert plan.manifest["weight"] == 5.5
    assert plan.manifest["text_bytes"] == 5.5  # a byte tokenizer


def test_rows_of_padding(tmp_path):
    tokens = tokens_of([[1, 2, 3]], tmp_path)
    plan = plan_of(tokens, tmp_path, 4)
    found = plan.rows(np.array([-1, 0, -1]))
    assert found["weights"].sum(1).tolist() == [0, 2, 0]
    assert not any(found[field][[0, 2]].any() for field in packing.FIELDS)
    none = plan.rows(np.array([], int))
    assert all(none[field].shape == (0, 4) for field in packing.FIELDS)
    assert none["inputs"].dtype == np.int32 and none["weights"].dtype == np.float32

# SPDX-License-Identifier: Apache-2.0
"""Responses to other prompts: whose each group gets, and which get none."""

import dataclasses
import itertools

import groups
import numpy as np
import pytest

from alignjax import errors
from alignjax.data import records
from alignjax.data.packing import rows as group_rows
from alignjax.experiment import reference


def labels(tmp_path, layout, sources=None, **options):
    options = dict(batch_size=4, length=120) | options
    sources = sources or {"a": dict(responses=1, count=30)}
    return groups.build(
        tmp_path, sources, data="labels", **groups.LAYOUTS[layout], **options
    )


@pytest.mark.parametrize("layout", groups.LAYOUTS)
def test_mismatched_responses_are_of_the_next_row_of_the_batch(tmp_path, layout):
    data = labels(tmp_path, layout)
    rows = data.rows(np.arange(data.num_rows // 4 * 4))  # no row of it comes twice
    assert rows["lengths"].shape[2] == 2 and set(rows["values"]) == {"desirable"}
    found = groups.seen(rows)
    texts = {groups.expected(g, 0) for g in groups.comparisons(30, responses=1)}
    for i, p in itertools.product(*map(range, rows["index"].shape)):
        if rows["group_weights"][i, p]:
            context, said = found[i, p, 0]
            assert (context, said) in texts
            partner = i - i % 4 + (i + 1) % 4
            count = (rows["group_weights"][partner] > 0).sum()
            assert found[i, p, 1] == (context, found[partner, p % count, 0][1])
    for i in range(len(rows["index"])):  # whichever host reads a row
        one = data.rows(np.array([i]))
        assert (one["inputs"] == rows["inputs"][i]).all()


def test_mismatched_responses_are_of_another_prompt_and_fit(tmp_path):
    # Both responses of a pair become rows with the same prompt.
    data = labels(tmp_path, "padded", {"a": dict(count=3)}, batch_size=6)
    rows = data.epoch_rows(np.arange(data.num_rows))
    found = groups.seen(rows)
    for i in range(6):
        context, said = found[i, 0, 1]
        others = [j for j in range(6) if found[j, 0, 0][0] != context]
        order = sorted(others, key=lambda j: (j - i) % 6)
        assert said == found[order[0], 0, 0][1]
    # A batch of one prompt has none; the rows beyond a pass are nobody's partner.
    alone = labels(tmp_path, "padded", {"a": dict(count=1)}, batch_size=6)
    rows = alone.epoch_rows(np.arange(6))
    assert (rows["lengths"][:2, 0, 0] > 0).all() and not rows["lengths"][..., 1].any()
    groups.seen(rows)
    # A response that is too long for what is left beside a prompt is another's.
    sources = {"a": dict(responses=1, turns=4, count=200)}
    short = dict(length=80, long_documents="skip", batch_size=8)
    tight = labels(tmp_path, "padded", sources, **short)
    rows = tight.epoch_rows(np.arange(tight.num_rows))
    found = groups.seen(rows)
    n = tight.num_rows
    room = [81 - len(found[i, 0, 0][0]) for i in range(n)]
    following = [i - i % 8 + (i + 1) % 8 for i in range(n // 8 * 8)]
    size = [rows["lengths"][j, 0, 0] for j in following]
    assert sum(r < s for r, s in zip(room, size, strict=False)) > 2
    assert (rows["lengths"][:, 0, 1] <= room).all()
    assert labels(tmp_path, "padded", batch_size=None).layout.responses == 1


def test_prompts_that_open_alike_are_other_prompts(tmp_path):
    sources = {"a": dict(count=8, kind="test_mismatched:alike")}
    data = labels(tmp_path, "packed", sources, groups_per_row=1)
    rows = data.rows(np.arange(data.num_rows // 4 * 4))
    there = rows["group_weights"] > 0
    assert there.sum() >= 4 and (rows["lengths"][there][:, 1] > 0).all()
    assert len(set(data.parts[0].tokens.hashes.tolist())) == 1
    assert data.identity["mismatched"] == group_rows.MISMATCHED
    assert "mismatched" not in groups.build(tmp_path).identity


def alike(count: int) -> records.Source:
    """Prompts with one first question."""
    start = (("user", "hi"), ("assistant", "yes?"))
    rows = [
        records.Comparison((*start, ("user", f"say {i}")), (f"{i}!",), {"desirable": 1})
        for i in range(count)
    ]
    places = [(f"alike:{i}", row) for i, row in enumerate(rows)]
    return records.Source("alike", {"count": count}, None, lambda: places)


def test_groups_without_a_partner_are_counted(tmp_path):
    assert "no response to another" not in labels(tmp_path, "padded").report
    one = dict(sources={"a": dict(count=1)}, batch_size=2)  # two responses of a prompt
    alone = labels(tmp_path, "padded", **one)
    said = "2 of 2 groups in the first 1 batches have no response to another prompt"
    assert said in alone.report
    # In order both responses to a prompt come together, shuffled often others'.
    pairs = {"a": dict(count=20)}
    shuffled = labels(tmp_path, "padded", pairs, batch_size=2)
    in_order = dataclasses.replace(shuffled, split="validation")
    assert "40 of 40 groups in the first 20 batches have no resp" in in_order.report
    assert shuffled.report.splitlines()[-1] != in_order.report.splitlines()[-1]


def test_a_store_has_no_mismatched_responses(tmp_path):
    splits = {"train": labels(tmp_path, "padded")}
    with pytest.raises(errors.ConfigError, match=r"reference.store: .* mismatched"):
        reference.attach(None, splits, say=print)

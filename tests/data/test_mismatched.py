# SPDX-License-Identifier: Apache-2.0
"""Responses to other prompts: whose each group gets, and which get none."""

import functools
from types import SimpleNamespace

import groups
import jax
import numpy as np
import pytest

from alignjax import errors, types
from alignjax.data import records, shuffle
from alignjax.data.packing import groups as packing
from alignjax.experiment import reference
from alignjax.objectives import preference
from tests.objectives import subject


def labels(tmp_path, layout, sources=None, **options):
    options = dict(mismatched=True, length=120) | groups.LAYOUTS[layout] | options
    sources = sources or {"a": dict(responses=1, count=30)}
    return groups.build(tmp_path, sources, data="labels", **options)


def by_response(data) -> dict[tuple, tuple]:
    """`{(prompt, response): (prompt, mismatched response) or None}` of one pass."""
    rows = data.epoch_rows(np.arange(data.num_rows))
    seen, pairs = groups.seen(rows), {}
    for i, p in np.argwhere(rows["group_weights"] > 0).tolist():
        assert seen[i, p, 0] not in pairs
        pairs[seen[i, p, 0]] = seen.get((i, p, 1))
    return pairs


def test_packing_changes_no_mismatched_response(tmp_path):
    sources = {"a": dict(responses=1, count=30), "b": dict(responses=1, seed=1)}
    built = {name: labels(tmp_path, name, sources) for name in groups.LAYOUTS}
    built["capped"] = labels(tmp_path, "packed", sources, groups_per_row=2)
    pairs = {name: by_response(data) for name, data in built.items()}
    for name, data in built.items():
        assert data.groups == {"padded": 1, "capped": 2}.get(name, data.groups)
        assert pairs[name] == pairs["padded"] and len(pairs[name]) == 50
        assert data.layout.responses == 2 and "have no response" not in data.report
    used = [said for _, said in pairs["packed"].values()]
    assert sorted(used) == sorted(said for _, said in pairs["packed"])  # each once
    assert all(own[0] == other[0] for own, other in pairs["packed"].items())
    # As full of groups as rows of pairs, which are as long, are.
    likewise = groups.build(tmp_path, {"a": dict(count=50)}, length=120)
    assert built["packed"].num_rows <= 1.2 * likewise.num_rows
    assert built["packed"].groups > 2


def test_packing_changes_no_loss(tmp_path):
    """The gradient of one batch in several layouts is that of objectives' tests."""
    rng, vocab = np.random.default_rng(0), groups.TOK.vocab_size
    policy, other = (
        {
            "embed": rng.normal(size=(vocab, 6)).astype(np.float32),
            "head": rng.normal(size=(6, vocab)).astype(np.float32),
        }
        for _ in range(2)
    )
    objective = preference.make(subject.model(), loss="kto", beta=0.1)
    frozen = types.Frozen(reference=other)
    call = jax.jit(functools.partial(objective.loss, key=None, train=True))
    means = []
    for layout in ("padded", "packed"):
        data = labels(tmp_path, layout)
        batch = types.batch(data.epoch_rows(np.arange(data.num_rows)))
        loss, reported = call(policy, frozen, batch)
        reported = {name: x.total / x.weight for name, x in reported.items()}
        means.append({"loss": loss.total / loss.weight, **reported})
    assert means[0].keys() == means[1].keys() and means[0]["kl/baseline"] > 0
    for name, value in means[0].items():
        np.testing.assert_allclose(means[1][name], value, rtol=1e-5, err_msg=name)


def test_rows_are_the_same_in_any_order_and_batch(tmp_path):
    data = labels(tmp_path, "packed")
    rows = data.rows(np.arange(3 * data.num_rows))
    for i in (0, 7, data.num_rows + 1):
        one = data.rows(np.array([i]))
        for name in ("inputs", "targets", "lengths", "index"):
            assert (one[name][0] == rows[name][i]).all()
    assert data.identity == labels(tmp_path, "packed").identity
    alone = labels(tmp_path, "packed", mismatched=False)
    assert alone.layout.responses == 1 and alone.identity != data.identity


def test_both_responses_to_a_prompt_have_those_of_another(tmp_path):
    pairs = by_response(labels(tmp_path, "packed", {"a": dict(count=20)}))
    assert len(pairs) == 40
    used = [said for _, said in pairs.values()]
    assert sorted(used) == sorted(said for _, said in pairs)  # a's and b's alike
    alone = labels(tmp_path, "packed", {"a": dict(count=1)})
    assert set(by_response(alone).values()) == {None}
    assert "2 have no response to another prompt that fits" in alone.report


def test_a_response_that_does_not_fit_is_another_s(tmp_path):
    sources = {"a": dict(responses=1, turns=4, count=200)}
    short = dict(length=80, long_documents="skip")
    for layout in groups.LAYOUTS:
        tight = labels(tmp_path, layout, sources, **short)
        pairs = by_response(tight)
        alone = sum(other is None for other in pairs.values())
        assert alone == tight.parts[0].plan.manifest["alone"] < 120
        copies = {"padded": 0, "packed": 2, "shared": 1}[layout]
        for (context, said), other in pairs.items():
            if other is not None:
                rest = len(context) - 1
                both = max(len(said), len(other[1])) + rest
                if copies:
                    both = copies * rest + len(said) + len(other[1])
                assert both <= 80


@pytest.mark.parametrize(
    ("prompts", "alone"),
    [
        (["a"] * 5, 5),
        (["a"] * 5 + ["b"], 0),
        (["a"] * 500 + ["b"] * 40, 0),
        (["a", "b", "c"] * 100, 0),
        ([], 0),
        (["a"], 1),
    ],
)
def test_a_partner_is_of_another_prompt_however_common_one_is(prompts, alone):
    digests = np.array([shuffle.hashed(p.encode()) for p in prompts], np.uint64)
    responses, room = np.arange(len(prompts)) % 7 + 1, np.full(len(prompts), 7)
    partners = packing.mismatch(digests, responses, room)
    matched = np.flatnonzero(partners >= 0)
    assert len(prompts) - len(matched) == alone
    assert (digests[partners[matched]] != digests[matched]).all()
    tight = packing.mismatch(digests, responses, np.full(len(prompts), 3))
    assert (responses[tight[tight >= 0]] <= 3).all()


def test_prompts_that_open_alike_are_other_prompts(tmp_path):
    sources = {"a": dict(count=8, kind="test_mismatched:alike")}
    data = labels(tmp_path, "packed", sources)
    assert None not in by_response(data).values()
    assert len(set(data.parts[0].tokens.hashes.tolist())) == 1


def alike(count: int) -> records.Source:
    """Prompts with one first question."""
    start = (("user", "hi"), ("assistant", "yes?"))
    rows = [
        records.Comparison((*start, ("user", f"say {i}")), (f"{i}!",), {"desirable": 1})
        for i in range(count)
    ]
    places = [(f"alike:{i}", row) for i, row in enumerate(rows)]
    return records.Source("alike", {"count": count}, None, lambda: places)


def test_groups_are_counted(tmp_path):
    sources = {"a": dict(responses=1, weight=2), "b": dict(responses=1, seed=1)}
    data = labels(tmp_path, "packed", sources)
    rows = data.rows(np.arange(4 * data.num_rows))
    for first, stop in ((0, 0), (0, 5), (3, 4 * data.num_rows)):
        count = (rows["group_weights"][first:stop] > 0).sum()
        assert data.count_groups(first, stop) == count
    counts = (rows["group_weights"] > 0).sum(axis=1)
    assert data.groups_of(np.arange(len(counts))).tolist() == counts.tolist()


def test_a_store_has_no_mismatched_responses(tmp_path):
    splits = {"train": labels(tmp_path, "padded")}
    store = SimpleNamespace(weights=SimpleNamespace(reference_params=dict))
    with pytest.raises(errors.ConfigError, match=r"reference.store: .* mismatched"):
        reference.attach(store, splits, say=print, beat=print)

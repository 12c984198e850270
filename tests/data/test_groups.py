# SPDX-License-Identifier: Apache-2.0
"""Rows of groups: each response once, after its prompt, the same in every layout."""

import dataclasses
import itertools
import json

import groups
import numpy as np
import pytest

from alignjax import errors, types
from alignjax.data import loader, packing, records
from alignjax.data.chat import templates


def every(data):
    return data.epoch_rows(np.arange(data.num_rows))


def by_group(rows):
    """`{(prompt, responses): (weight, values)}`, of what the rows say."""
    found, out = groups.seen(rows), {}
    for i, p in itertools.product(*map(range, rows["index"].shape)):
        if rows["group_weights"][i, p] == 0:
            assert rows["index"][i, p] == -1 and not rows["lengths"][i, p].any()
            assert not any(v[i, p].any() for v in rows["values"].values())
            continue
        said = [found[i, p, k] for k in range(rows["lengths"].shape[2])]
        assert len({context for context, _ in said}) == 1
        known = {name: v[i, p].tolist() for name, v in rows["values"].items()}
        key = (said[0][0], tuple(response for _, response in said))
        assert key not in out
        out[key] = (rows["group_weights"][i, p], known)
    return out


@pytest.mark.parametrize("layout", groups.LAYOUTS)
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("bos", [False, True])
def test_every_response_once_after_its_prompt(tmp_path, layout, count, bos):
    options = dict(count=25, responses=count, turns=3)
    data = groups.build(
        tmp_path,
        {"a": options},
        data="rankings",
        length=300,
        bos=bos,
        **groups.LAYOUTS[layout],
    )
    rows = every(data)
    assert rows["inputs"].shape[1:] == (count if layout == "padded" else 1, 300)
    assert ("branches" in rows) == (layout == "shared")
    wanted = {}
    for group in groups.comparisons(**options):
        said = [groups.expected(group, k, bos) for k in range(count)]
        key = (said[0][0], tuple(response for _, response in said))
        known = {"gap": group.values["gap"], "reward": list(group.values["reward"])}
        wanted[key] = (group.weight, known)
    assert by_group(rows) == wanted
    batch = types.batch(rows)
    assert isinstance(batch, types.Responses)
    assert batch.weights.shape == batch.index.shape == (data.num_rows, data.groups)
    assert batch.lengths.dtype == batch.index.dtype == np.int32
    assert batch.sequences.one_document == (layout == "padded")
    if layout == "packed":
        assert rows["segment_ids"].max() == rows["responses"].max()
    if layout == "shared":
        assert rows["segment_ids"].max() == (rows["group_weights"] > 0).sum(1).max()


def test_layouts_say_the_same(tmp_path):
    built = [groups.build(tmp_path, **o) for o in groups.LAYOUTS.values()]
    padded, packed, shared = (by_group(every(data)) for data in built)
    assert padded == packed == shared
    assert built[0].num_rows > built[1].num_rows > built[2].num_rows
    assert len({data.parts[0].tokens.key for data in built}) == 1
    assert len({data.parts[0].plan.key for data in built}) == 3


@pytest.mark.parametrize("layout", groups.LAYOUTS)
def test_targets_are_found_in_the_cache(tmp_path, layout):
    data = groups.build(tmp_path, bos=True, **groups.LAYOUTS[layout])
    part = data.parts[0]
    indices = np.arange(-1, part.plan.num_rows)
    found = part.plan.target_index(indices)
    rows = part.plan.rows(indices)
    counted = rows["responses"] > 0
    assert not counted[0].any() and ((found >= 0) == counted).all()
    assert (part.tokens.tokens[found[counted]] == rows["targets"][counted]).all()
    wanted = []
    lengths = part.tokens.fields["lengths"].astype(int)
    for end, sizes in zip(part.tokens.offsets[1:], lengths, strict=True):
        wanted += range(end - sizes[1:].sum(), end)
    assert sorted(found[counted].tolist()) == wanted

    reference = -np.arange(len(part.tokens.tokens), dtype=np.float32)
    tokens = part.tokens._replace(reference=reference)
    part = part._replace(plan=part.plan._replace(tokens=tokens))
    data = dataclasses.replace(data, parts=(part,))
    rows = every(data)
    assert (rows["reference"] == np.where(found < 0, 0, -found)[1:]).all()
    assert types.batch(rows).reference.dtype == np.float32


def two(tmp_path, **options):
    sources = {"a": {"weight": 3, "count": 30}, "b": {"seed": 1, "weight": 1}}
    return groups.build(tmp_path, sources, **options)


def test_a_stream_is_shuffled_mixed_and_numbered(tmp_path):
    data = two(tmp_path, **groups.LAYOUTS["shared"])
    n = data.num_rows
    again = two(tmp_path, **groups.LAYOUTS["shared"])
    rows = data.rows(np.arange(4 * n))
    back = again.rows(np.arange(4 * n)[::-1])
    for name, value in rows.items():
        if name != "values":
            assert (value == back[name][::-1]).all(), name
    other = two(tmp_path, seed=1, **groups.LAYOUTS["shared"]).rows(np.arange(4 * n))
    assert (other["inputs"] != rows["inputs"]).any()
    real = rows["index"][rows["index"] >= 0]
    assert len(np.unique(real)) == len(real)
    far = data.rows(np.arange(10**12, 10**12 + 8))["index"]
    assert far.min() >= -1
    source = data.mixture.locate(np.arange(4 * n))[0]
    firsts = [bytes(row[2:3].tolist()) for row in rows["inputs"][:, 0]]
    assert firsts == [b"01"[s : s + 1] for s in source]  # texts name their sources
    both = {**by_group(every(groups.build(tmp_path, {"a": {"count": 30}})))}
    both |= by_group(every(groups.build(tmp_path, {"b": {"seed": 1}})))
    assert by_group(every(data)) == both
    beyond = data.epoch_rows(np.arange(n, n + 3))
    assert not beyond["weights"].any() and (beyond["index"] == -1).all()
    assert data.describe(0).startswith("a: groups:")


def test_groups_per_row_has_a_cap(tmp_path):
    free = groups.build(tmp_path, length=200)
    assert free.groups > 2
    capped = groups.build(tmp_path, length=200, groups_per_row=2)
    assert capped.groups == 2 and capped.num_rows >= 10
    assert by_group(every(capped)) == by_group(every(free))
    rng = np.random.default_rng(0)
    for most in (1, 2, 5):
        lengths = rng.integers(1, 40, 300)
        row_of = packing.best_fit(lengths, 100, most)
        assert np.bincount(row_of).max() == most
        assert np.bincount(row_of, weights=lengths).max() <= 100
    assert len(np.unique(packing.best_fit(np.ones(10, int), 100, 3))) == 4


@pytest.mark.parametrize("layout", groups.LAYOUTS)
def test_prompts_lose_their_beginning_never_a_response(tmp_path, layout):
    options = dict(count=40, turns=4)
    place = dict(length=48, bos=True, **groups.LAYOUTS[layout])
    cut = groups.build(
        tmp_path, {"a": options}, long_documents="truncate_prompt", **place
    )
    skip = groups.build(tmp_path, {"a": options}, long_documents="skip", **place)
    with pytest.raises(errors.DataError, match="targets do not fit into 48"):
        groups.build(tmp_path, {"a": options}, long_documents="error", **place)
    m = cut.parts[0].plan.manifest
    assert m["documents"] == 40 and m["cut"] > 5 and m["kept"] + m["long"] == 40
    assert (
        f"cut {m['cut']} prompts at the beginning ({m['cut_tokens']:,} " in cut.report
    )
    left = skip.parts[0].plan.manifest
    assert left["kept"] + m["cut"] == m["kept"] and left["cut"] == 0
    assert f"dropped {left['long']} that do not fit" in skip.report
    wanted = {}
    for group in groups.comparisons(**options):
        context, _ = groups.expected(group, 0, True)
        said = tuple(groups.expected(group, k, True)[1] for k in range(2))
        wanted[said, context[-8:]] = context
    user, cuts = groups.TOK.control["<user>"], []
    for context, said in by_group(every(cut)):
        whole = wanted[said, context[-8:]] if len(context) >= 8 else None
        assert all(response[-1] == groups.TOK.control["<end>"] for response in said)
        assert context[0] == groups.TOK.bos_id
        if whole is None or context == whole:
            continue
        # A turn that is cut inside keeps the token that it begins with.
        assert whole[-len(context) + 2 :] == context[2:]
        assert context[1] in (user, whole[-len(context) + 1])
        cuts.append(whole[-len(context) + 1] == user)
        # As little as possible: one turn more would not have fitted.
        users = [i for i, token in enumerate(whole) if token == user]
        more = [i for i in users if 1 < i < len(whole) - len(context) + 1]
        if cuts[-1] and more:
            longer = len(context) + len(whole) - len(context) + 1 - more[-1]
            sizes = np.array([list(map(len, said))])
            assert cut.layout.size(np.array([longer]), sizes)[0] > 48
    assert sum(cuts) > len(cuts) / 2


def test_prompts_are_held_out_whole(tmp_path):
    options = dict(validation_fraction=0.4, data="labels")
    sides = []
    for split in ("train", "validation"):
        data = groups.build(tmp_path, {"a": dict(count=40)}, split=split, **options)
        sides.append({context for context, _ in groups.seen(every(data)).values()})
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 40
    assert len(sides[1]) > 5
    chats = records.Chat((*groups.comparisons(1)[0].prompt, ("assistant", "yes")))
    assert chats.key == groups.comparisons(1)[0].key


@pytest.mark.parametrize(
    "sources, options, message",
    [
        ({}, dict(chat=None), 'data.chat: pairs are dialogues; say chat = "roles"'),
        ({}, dict(long_documents="split"), 'data.long_documents: "split" tears'),
        ({}, dict(train_on="last"), "data.train_on: pairs are of whole responses"),
        ({}, dict(validation_by="tail"), "data.validation_by: pairs are held out by"),
        ({}, dict(pack="none", groups_per_row=2), "data.groups_per_row: 2 with pack"),
        ({}, dict(data="text", chat=None, share_prompt=True), "data.share_prompt: tex"),
        ({}, dict(data="text", long_documents="truncate_prompt"), "no prompts to trun"),
        ({}, dict(data="text", chat=None, train_on="last"), "data.train_on: 'last'"),
        (
            {},
            dict(values=("gap", "margin")),
            "data.sources.a: has no 'margin', which the loss needs; it has gap, reward",
        ),
        (
            {"a": {}, "b": dict(responses=3)},
            dict(data="rankings"),
            "data.sources.b: 3 responses a prompt, where data.sources.a has 2",
        ),
        (
            {
                "a": dict(responses=1, attributes=1),
                "b": dict(responses=1, attributes=3),
            },
            dict(data="ratings", values=("target",)),
            "data.sources.b: has 3 numbers of 'target', where data.sources.a has 1",
        ),
        (
            {"a": {}, "b": dict(responses=3)},
            dict(values=("gap",)),
            "data.sources.b: has no 'gap', which the loss needs; it has reward",
        ),
    ],
)
def test_settings_that_cannot_be(tmp_path, sources, options, message):
    with pytest.raises(errors.ConfigError, match=message):
        groups.build(tmp_path, sources, **options)


def test_a_mixture_knows_what_all_of_it_know(tmp_path):
    sources = {"a": {}, "b": dict(responses=3)}  # whose best and last are a pair
    data = groups.build(tmp_path, sources, values=("reward",))
    assert list(data.rows(np.arange(4))["values"]) == ["reward"]
    assert "a: gap: not in all sources" in data.report
    alone = groups.build(tmp_path)
    assert list(alone.rows(np.arange(4))["values"]) == ["gap", "reward"]
    assert "not in all" not in alone.report


def test_a_tokenizer_without_control_tokens_is_refused(tmp_path):
    bare = groups.TOK._replace(control={"<user>": 1})
    cfg = loader.DataConfig(sources={"a": {"kind": "groups:load"}}, chat="roles")
    with pytest.raises(errors.ConfigError) as caught:
        loader.build(cfg, bare, length=8, seed=0, cache_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith("tokenizer.control_tokens: ")
    assert all(name in message for name in templates.CONTROL)


def test_a_bad_row_is_counted_once(tmp_path):
    rows = [
        {"prompt": "hi", "chosen": "yes", "rejected": ""},
        {"prompt": "hi", "chosen": "", "rejected": "yes"},
        {"prompt": [{"role": "assistant", "content": "hi"}], "chosen": "a"},
        {"prompt": "<end>", "chosen": "yes", "rejected": "yes"},
        {"prompt": "good", "chosen": "yes", "rejected": "no"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = dict(kind="jsonl", path=str(path), format="preference")
    options = dict(data="labels", on_bad_row="skip")
    data = groups.build(tmp_path, {"a": source}, **options)
    assert data.report.count("4 bad rows skipped: ") == 1
    assert "and 1 more" in data.report and data.report.count(str(path)) == 3

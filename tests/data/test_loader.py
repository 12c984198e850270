# SPDX-License-Identifier: Apache-2.0
"""Row n is a function of (seed, n); proportions, splits and passes are exact."""

import json
import math
import threading
import time
from pathlib import Path

import fresh
import numpy as np
import pytest

from alignjax import config, errors, types
from alignjax.data import loader
from alignjax.data.packing import text
from alignjax.data.tokenizers import base

SHARED = Path(__file__).parents[3] / "shared" / "data"
TOK = base.build(base.TokenizerConfig(kind="bytes"), [], "unused")
LENGTH = 32


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two sources of documents that name themselves."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for name, count in (("a", 120), ("b", 50)):
        with open(folder / f"{name}.jsonl", "w") as file:
            for i in range(count):
                text = f"{name}{i:03}" + "." * int(rng.integers(0, 60))
                file.write(json.dumps({"text": text}) + "\n")
    return folder


def section(corpus, name="a", **options):
    return {"kind": "jsonl", "path": str(corpus / f"{name}.jsonl"), **options}


def build(corpus, sources=None, *, seed=0, split="train", length=LENGTH, **options):
    options = {"validation_fraction": 0.2} | options
    sources = sources or {"a": section(corpus)}
    cfg = loader.DataConfig(sources=sources, **options)
    place = dict(cache_dir=corpus / "cache", split=split)
    return loader.build(cfg, TOK, length=length, seed=seed, **place)


def mixed(corpus, **options):
    sources = {"a": section(corpus, weight=3), "b": section(corpus, "b", weight=1.0)}
    return build(corpus, sources, **options)


def texts(rows) -> list[str]:
    """The texts of all segments, and their last tokens."""
    found = []
    for row in range(len(rows["inputs"])):
        for segment in range(1, rows["segment_ids"][row].max(initial=0) + 1):
            at = rows["segment_ids"][row] == segment
            ids = [*rows["inputs"][row, at][:1], *rows["targets"][row, at]]
            found.append(TOK.decode(ids))
    return found


def same(rows, others) -> bool:
    return all((rows[field] == others[field]).all() for field in text.FIELDS)


def test_a_pass_has_every_row_once_and_the_next_another_order(corpus):
    data = build(corpus)
    n = data.num_rows
    first, second = (data.rows(np.arange(n) + p * n) for p in range(2))
    assert sorted(texts(first)) == sorted(texts(second))
    assert sorted(texts(first)) == sorted(texts(data.epoch_rows(np.arange(n))))
    assert texts(first) != texts(second)
    other = build(corpus, seed=1).rows(np.arange(n))
    assert texts(first) != texts(other)
    assert sorted(texts(first)) == sorted(texts(other))


def test_any_slice_is_the_same(corpus):
    data = mixed(corpus)
    whole = data.rows(np.arange(1000, 1064))
    for start in range(0, 64, 8):  # as eight hosts would
        part = data.rows(np.arange(1000 + start, 1008 + start))
        assert same(part, {k: v[start : start + 8] for k, v in whole.items()})
    back = data.rows(np.arange(1063, 999, -1))
    assert same(back, {k: v[::-1] for k, v in whole.items()})


def test_a_fresh_process_finds_the_same_rows(corpus, tmp_path):
    script = """
        import sys, json, hashlib
        from pathlib import Path
        import numpy as np
        import test_loader
        from alignjax.data.packing import text as packing
        data = test_loader.mixed(Path(sys.argv[1]))
        rows = data.rows(np.arange(int(sys.argv[2]), int(sys.argv[2]) + 64))
        content = b"".join(rows[field].tobytes() for field in packing.FIELDS)
        print(hashlib.sha256(content).hexdigest(), json.dumps(data.identity))
    """
    first = fresh.run(script, corpus, 10**9)
    copy = tmp_path / "copied"
    copy.mkdir()
    for name in ("a", "b"):
        (copy / f"{name}.jsonl").write_bytes((corpus / f"{name}.jsonl").read_bytes())
    assert fresh.run(script, copy, 10**9) == first  # another place, another cache
    assert fresh.run(script, corpus, 10**9 + 1) != first


def test_seeking_far_costs_what_the_start_costs(corpus):
    start = time.perf_counter()
    rows = mixed(corpus).rows(np.arange(10**12, 10**12 + 256))
    assert time.perf_counter() - start < 1
    assert (rows["weights"].sum(1) > 0).all()


def test_proportions_are_exact(corpus):
    data = mixed(corpus)
    for start in (0, 4 * 10**9):
        wanted = np.arange(start, start + 400)
        names = [TOK.decode(row[:1]) for row in data.rows(wanted)["inputs"]]
        sources = data.mixture.locate(wanted)[0]
        assert np.bincount(sources).tolist() == [300, 100]
        for n, (source, name) in enumerate(zip(sources, names, strict=True), start):
            assert name in ("ab"[source], ".")  # a point where a document was cut
            assert data.describe(n).startswith("ab"[source])


def test_validation_is_apart_from_training(corpus):
    train, validation = (mixed(corpus, split=s) for s in ("train", "validation"))
    sides = [
        {text[:4] for text in texts(d.epoch_rows(np.arange(d.num_rows))) if text >= "a"}
        for d in (train, validation)
    ]
    assert sides[0] and sides[1]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 170
    assert 15 < len(sides[1]) < 60  # 34 expected


def test_equal_documents_are_on_one_side_in_any_source(tmp_path):
    rows = [json.dumps({"text": f"document {i % 20}"}) + "\n" for i in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(rows))
    (tmp_path / "b.jsonl").write_text("".join(reversed(rows[5:30])))
    train, validation = (
        mixed(tmp_path, split=s, validation_fraction=0.4)
        for s in ("train", "validation")
    )
    seen = [
        set(texts(d.epoch_rows(np.arange(d.num_rows)))) for d in (train, validation)
    ]
    assert seen[0] and seen[1] and not seen[0] & seen[1]


def test_the_tail_of_one_document_validates(tmp_path):
    text = "".join(f"{i:05} " for i in range(1000))
    (tmp_path / "one.txt").write_text(text)
    sources = {"one": {"kind": "text", "path": str(tmp_path / "one.txt")}}
    options = dict(validation_by="tail", validation_fraction=0.1)
    found = []
    for split in ("train", "validation"):
        data = build(tmp_path, sources, split=split, **options)
        rows = data.epoch_rows(np.arange(data.num_rows))
        pieces = texts(rows)
        found.append(pieces[0] + "".join(piece[1:] for piece in pieces[1:]))
    assert found[0] == text[:5401]
    assert found[1] == text[5401:]
    with pytest.raises(errors.DataError) as caught:
        build(tmp_path, sources, split="validation")
    message = str(caught.value)
    assert "data.sources.one: no rows in validation: it has no documents" in message
    assert 'data.validation_by = "tail"' in message


def test_validation_sources_of_their_own(corpus):
    options = dict(
        validation_fraction=0.0, validation_sources={"b": section(corpus, "b")}
    )
    train = build(corpus, **options)
    validation = build(corpus, split="validation", **options)
    assert [part.name for part in train.parts] == ["a"]
    assert [part.name for part in validation.parts] == ["b"]
    count = validation.parts[0].plan.manifest["documents"]
    assert count == 50


def test_an_epoch_ends_in_padding(corpus):
    data = mixed(corpus, split="validation")
    n = data.num_rows
    rows = data.epoch_rows(np.arange(n - 2, n + 6))
    weight = rows["weights"].sum(1)
    assert (weight[:2] > 0).all() and not weight[2:].any()
    assert not rows["segment_ids"][2:].any()
    total = data.epoch_rows(np.arange(n + 10))["weights"].sum()
    assert total == sum(p.plan.manifest["targets"] for p in data.parts)


def test_packed_and_unpacked_have_the_same_targets(corpus):
    packed, unpacked = (build(corpus, pack=pack) for pack in ("best_fit", "none"))
    assert packed.num_rows < unpacked.num_rows
    every = [d.epoch_rows(np.arange(d.num_rows)) for d in (packed, unpacked)]
    assert every[1]["segment_ids"].max() == 1
    assert sorted(texts(every[0])) == sorted(texts(every[1]))
    assert packed.bytes_per_token == unpacked.bytes_per_token
    assert [types.batch(rows).one_document for rows in every] == [False, True]
    assert every[0]["segment_ids"].max() > 1 == every[1]["segment_ids"].max()


def test_bytes_per_token(corpus):
    data = build(corpus, split="validation")
    rows = data.epoch_rows(np.arange(data.num_rows))
    real = rows["weights"] > 0
    size = TOK.token_bytes[rows["targets"][real]].sum()
    assert data.bytes_per_token == size / real.sum()


def test_where_rows_come_from(corpus):
    data = build(corpus, pack="none")
    for n in range(20):
        row = data.rows(np.array([n]))
        where = data.describe(n)
        assert where.startswith(f"a: {corpus / 'a.jsonl'}:")
        line = int(where.split(":")[2].split()[0])
        start, stop = map(int, where.rpartition(" ")[2].split("-"))
        assert stop - start == row["weights"].sum()
        if start == 0:
            assert texts(row)[0].startswith(f"a{line - 1:03}")


def test_the_report(corpus):
    report = mixed(corpus).report.splitlines()
    assert [line.partition(":")[0] for line in report] == ["a", "b"]
    assert "kept" in report[0] and "% full" in report[0]
    bad = corpus / "bad.jsonl"
    bad.write_text((corpus / "a.jsonl").read_text() + "{}\n")
    data = build(corpus, {"bad": section(corpus, "bad")}, on_bad_row="skip")
    assert f"bad: 1 bad row skipped: {bad}:121: no field 'text'" in data.report
    with pytest.raises(errors.DataError, match=f"{bad}:121: no field 'text'"):
        build(corpus, {"bad": section(corpus, "bad")})


def test_identity_is_of_all_that_the_rows_follow_from(corpus):
    identity = mixed(corpus).identity
    assert json.loads(json.dumps(identity)) == identity
    assert mixed(corpus).identity == identity
    others = [
        mixed(corpus, seed=1),
        mixed(corpus, length=16),
        mixed(corpus, split="validation"),
        mixed(corpus, pack="none"),
        mixed(corpus, validation_fraction=0.3),
        mixed(corpus, bos=True),
        build(corpus),
    ]
    assert all(other.identity != identity for other in others)


@pytest.mark.parametrize(
    "options, problems",
    [
        (dict(sources={}), ["sources: name at least one source"]),
        (
            dict(sources={"a": {"kind": "text", "weight": 0}, "b": {}, "c": 3}),
            [
                "sources.a.weight: 0.0 is not above 0",
                "sources.b.kind: required; known:",
                "sources.c.expected options, found 3",
            ],
        ),
        (
            dict(validation_fraction=1.0, groups_per_row=0, workers=0),
            ["data.validation_fraction: 1.0", "data.groups_per_row", "data.workers: 0"],
        ),
        (
            dict(validation_sources={"v": {"kind": "text"}}),
            ["validation_fraction: 0.01 beside validation_sources"],
        ),
    ],
)
def test_settings_that_cannot_be(options, problems):
    with pytest.raises(errors.ConfigError) as caught:
        section = {"sources": {"a": {"kind": "text"}}} | options
        config.build(loader.DataConfig, section, "data")
    for problem in problems:
        assert problem in str(caught.value)


def test_a_section_of_a_config_is_built_and_its_faults_named(corpus):
    with pytest.raises(errors.ConfigError) as caught:
        config.build(
            loader.DataConfig,
            {"sources": {"a": section(corpus)}, "pack": "best", "shuffle": True},
            "data",
        )
    message = str(caught.value)
    assert "data.pack: 'best' is not one of" in message
    assert "data.shuffle: unknown field" in message
    with pytest.raises(errors.ConfigError) as caught:
        build(corpus, {"a": {"kind": "text", "path": "x", "documnt": "line"}})
    assert "data.sources.a.documnt: unknown option; did you mean 'document'?" in str(
        caught.value
    )
    with pytest.raises(errors.ConfigError, match=r"data.sources.a.kind: unknown"):
        build(corpus, {"a": {"kind": "txt", "path": "x"}})
    with pytest.raises(errors.DataError, match=r"data.sources.a: .*no file"):
        build(corpus, {"a": {"kind": "text", "path": str(corpus / "none")}})
    with pytest.raises(errors.ConfigError, match="holds out nothing to validate"):
        build(corpus, split="validation", validation_fraction=0.0)
    startless = TOK._replace(bos_id=None)
    cfg = loader.DataConfig(sources={"a": section(corpus)}, bos=True)
    with pytest.raises(errors.ConfigError, match=r"data.bos: .* no start token"):
        loader.build(cfg, startless, length=8, seed=0, cache_dir=corpus)
    with pytest.raises(errors.ConfigError, match="less than 1 in"):
        sources = {"a": section(corpus), "b": section(corpus, "b", weight=1e-9)}
        build(corpus, sources)


def test_long_documents_can_be_refused(corpus):
    with pytest.raises(errors.DataError, match="targets do not fit into 32"):
        build(corpus, long_documents="error")
    skipped = build(corpus, long_documents="skip").parts[0].plan.manifest
    assert skipped["long"] > 0 and skipped["split"] == 0


def test_prefetch_keeps_order_and_looks_ahead():
    running, fetched = [], []

    def fetch(i):
        running.append(i)
        time.sleep(0.002 * (i % 3))
        fetched.append(i)
        return i

    for depth in (0, 1, 3, 8):
        found = list(loader.prefetch(fetch, 5, 25, depth))
        assert found == list(range(5, 25))
    running.clear()
    endless = loader.prefetch(fetch, 0, None, 4)
    assert [next(endless) for _ in range(10)] == list(range(10))
    time.sleep(0.05)
    assert 13 <= max(running) <= 14
    endless.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
    assert list(loader.prefetch(fetch, 3, 3, 2)) == []


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_prefetch_raises_what_a_worker_raises(depth):
    def fetch(i):
        if i == 3:
            raise errors.DataError("row 3 is bad")
        return i

    found = []
    with pytest.raises(errors.DataError, match="row 3 is bad"):
        for i in loader.prefetch(fetch, 0, 10, depth):
            found.append(i)
    assert found == [0, 1, 2]
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_tiny_shakespeare_by_characters(tmp_path):
    path = SHARED / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    sources = {"shakespeare": {"kind": "text", "path": str(path)}}
    cfg = loader.DataConfig(
        sources=sources, validation_fraction=0.1, validation_by="tail"
    )
    opened = loader.load_sources(cfg.sources, "data.sources").values()
    chars = base.TokenizerConfig(kind="chars")
    tok = base.build(chars, opened, tmp_path)
    assert tok.vocab_size == 67
    place = dict(length=64, seed=0, cache_dir=tmp_path)
    train, validation = (
        loader.build(cfg, tok, split=split, **place)
        for split in ("train", "validation")
    )
    targets = [d.parts[0].plan.manifest["targets"] for d in (train, validation)]
    assert sum(targets) == path.stat().st_size + 1 - 2
    assert math.isclose(targets[1] / sum(targets), 0.1, abs_tol=1e-5)
    assert train.bytes_per_token == 1.0


def test_real_rows_of_jsonl(tmp_path):
    path = SHARED / "hh_harmless_1500.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    sources = {"hh": {"kind": "jsonl", "path": str(path), "field": "chosen"}}
    cfg = loader.DataConfig(sources=sources, validation_fraction=0.0)
    opened = loader.load_sources(cfg.sources, "data.sources").values()
    tok = base.build(base.TokenizerConfig(vocab_size=1024), opened, tmp_path)
    data = loader.build(cfg, tok, length=256, seed=0, cache_dir=tmp_path)
    with open(path) as file:
        chosen = [json.loads(line)["chosen"] for line in file]
    manifest = data.parts[0].plan.manifest
    assert manifest["documents"] == 1500 and manifest["short"] == 0
    rows = data.epoch_rows(np.arange(data.num_rows))
    size = tok.token_bytes[rows["targets"]][rows["weights"] > 0].sum()
    firsts = sum(int(tok.token_bytes[tok.encode(text)[0]]) for text in chosen)
    assert size + firsts == sum(len(text.encode()) for text in chosen)

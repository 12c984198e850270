# SPDX-License-Identifier: Apache-2.0
"""The token cache: right, addressed by content, and never half there."""

import itertools
import json
import os
import signal
import textwrap
import time
from pathlib import Path

import fresh
import numpy as np
import pytest

from alignjax import errors
from alignjax.data import records, sources
from alignjax.data.chat import comparisons, dialogues
from alignjax.data.sources import files
from alignjax.data.tokenizers import base
from alignjax.data.tokens import cache, tokenizing
from alignjax.storage import atomic

TOK = base.build(base.TokenizerConfig(kind="bytes"), [], "unused")


def write_rows(path: Path, texts) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def source_of(path: Path, kind="jsonl", **options) -> records.Source:
    return sources.load(kind, {"path": str(path), **options})


def documents_of(tokens: cache.TokenCache) -> list[list[int]]:
    pairs = itertools.pairwise(tokens.offsets)
    return [tokens.tokens[start:end].tolist() for start, end in pairs]


def test_tokens_ends_places_and_hashes(tmp_path):
    texts = ["one", "two é", "one"]
    path = write_rows(tmp_path / "a.jsonl", texts)
    tokens = cache.build(source_of(path), TOK, tmp_path)
    assert documents_of(tokens) == [[*text.encode(), TOK.eos_id] for text in texts]
    assert tokens.tokens.dtype == np.uint16 and tokens.weights is None
    assert tokens.hashes[0] == tokens.hashes[2] != tokens.hashes[1]
    assert tokens.describe(0) == (f"{path}:1", 0)
    assert tokens.describe(6) == (f"{path}:2", 2)
    assert tokens.manifest["documents"] == 3
    assert tokens.manifest["longest"] == 7
    started = cache.build(source_of(path), TOK, tmp_path, settings={"bos": True})
    assert documents_of(started)[0] == [TOK.bos_id, *b"one", TOK.eos_id]
    assert started.key != tokens.key


def test_it_is_found_again_and_changes_with_what_it_follows_from(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ["one", "two"])
    tokens = cache.build(source_of(path), TOK, tmp_path)

    def unread():
        raise AssertionError("read again")

    again = source_of(path)._replace(documents=unread)
    assert cache.build(again, TOK, tmp_path).key == tokens.key
    other = base.from_files("bytes", {"bytes.json": b'{"control": ["<a>"]}'})
    for arguments in [
        (again, other, tmp_path, {}),
        (again, TOK, tmp_path, {"on_bad_row": "skip"}),
        (again._replace(identity={}), TOK, tmp_path, {}),
        (again, TOK, tmp_path, {"settings": {"bos": True}}),
    ]:
        *positional, options = arguments
        with pytest.raises(AssertionError, match="read again"):
            cache.build(*positional, **options)


def test_keys_are_those_of_runs_that_older_versions_made():
    """What tokenizes has moved since, and what these runs read has not changed."""
    assert [
        function.key
        for function in (
            tokenizing.tokenize_text,
            dialogues.tokenize,
            dialogues.tokenize_everything,
            comparisons.tokenize,
        )
    ] == [
        "alignjax.data.tokenizing:tokenize_text",
        "alignjax.data.chat:tokenize",
        "alignjax.data.chat:tokenize_everything",
        "alignjax.data.comparisons:tokenize",
    ]


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    big = TOK._replace(vocab_size=70_000)
    path = write_rows(tmp_path / "a.jsonl", ["one"])
    tokens = cache.build(source_of(path), big, tmp_path)
    assert tokens.tokens.dtype == np.uint32
    assert documents_of(tokens) == [[*b"one", TOK.eos_id]]


def test_other_processes_give_the_same(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "é漢", "\n\n"]
    texts = [" ".join(rng.choice(words, 50)) + "." for _ in range(3000)]
    path = write_rows(tmp_path / "a.jsonl", texts)
    one = cache.build(source_of(path), TOK, tmp_path / "one", workers=1)
    monkeypatch.setattr(tokenizing, "IN_PROCESS_BYTES", 1 << 16)
    monkeypatch.setattr(tokenizing, "BATCH_BYTES", 1 << 14)
    heard = []
    many = cache.build(
        source_of(path),
        TOK,
        tmp_path / "many",
        workers=2,
        progress=lambda *amounts: heard.append(amounts),
    )
    for name in ("tokens", "offsets", "hashes", "where"):
        assert (getattr(one, name) == getattr(many, name)).all(), name
    assert len(heard) > 20
    assert heard[-1] == (sum(map(len, texts)), path.stat().st_size)


def test_a_document_in_pieces_is_one_document(tmp_path, monkeypatch):
    lines = [f"line {i}\n" for i in range(500)]
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("".join(lines))
    (tmp_path / "c.txt").write_text("other")
    monkeypatch.setattr(files, "BLOCK_BYTES", 256)
    source = source_of(tmp_path, "text")
    tokens = cache.build(source, TOK, tmp_path / "cache")
    whole = [*"".join(lines).encode(), TOK.eos_id]
    assert documents_of(tokens) == [whole, whole, [*b"other", TOK.eos_id]]
    assert tokens.hashes[0] == tokens.hashes[1] != tokens.hashes[2]
    other = [*lines]
    other[0] = "changed\n"
    (tmp_path / "b.txt").write_text("".join(other))
    again = cache.build(source_of(tmp_path, "text"), TOK, tmp_path / "cache")
    assert again.hashes[0] == tokens.hashes[0] != again.hashes[1]
    assert tokens.describe(len(whole) + 5) == (f"{tmp_path / 'b.txt'}:1", 5)


def test_bad_rows_stop_it_or_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": 1}\n{}\n{"text": "two"}\n')
    with pytest.raises(errors.DataError) as caught:
        cache.build(source_of(path), TOK, tmp_path)
    assert f"2 bad rows:\n  {path}:2: " in str(caught.value)
    assert f"\n  {path}:3: no field 'text'" in str(caught.value)
    assert not list((tmp_path / "tokens").glob("*/"))
    tokens = cache.build(source_of(path), TOK, tmp_path, on_bad_row="skip")
    assert len(documents_of(tokens)) == 2
    assert tokens.describe(4) == (f"{path}:4", 0)
    assert tokens.manifest["skipped_rows"] == 2
    assert tokens.manifest["first_skipped"][0].startswith(f"{path}:2: ")
    path.write_text('{"text": 1}\n')
    with pytest.raises(errors.DataError, match="source 'jsonl' has no documents"):
        cache.build(source_of(path), TOK, tmp_path, on_bad_row="skip")


def out_of_range(tok, texts):
    return [
        tokenizing.Tokens([1, tok.vocab_size if text.text == "bad" else 2])
        for text in texts
    ]


@pytest.mark.parametrize("in_process", [1 << 20, 0])
def test_ids_outside_the_vocabulary_are_refused(tmp_path, monkeypatch, in_process):
    monkeypatch.setattr(tokenizing, "IN_PROCESS_BYTES", in_process)
    monkeypatch.setattr(tokenizing, "BATCH_BYTES", 4)
    path = write_rows(tmp_path / "a.jsonl", ["good", "bad", "good"])
    options = dict(tokenize=out_of_range, workers=2)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, fresh.PLACES)))
    message = f"{path}:2: token id 258 is outside the vocabulary of 258"
    with pytest.raises(errors.DataError, match=message):
        cache.build(source_of(path), TOK, tmp_path, **options)
    tokens = cache.build(source_of(path), TOK, tmp_path, on_bad_row="skip", **options)
    assert documents_of(tokens) == [[1, 2], [1, 2]]


def die(tok, texts):
    del tok, texts
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_worker_ends_it(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, fresh.PLACES)))
    batches = iter([(["a:1"], ["one"])] * 9)
    arguments = (TOK.kind, TOK.files, die, {})
    results = tokenizing.in_processes(arguments, batches, 2)
    with pytest.raises(errors.DataError, match=r"data\.workers"):
        list(results)


def test_characters_that_are_not_known_are_named(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ["abc", "aXc", "cba"])
    known = b'{"chars": "abc", "control": []}'
    tok = base.from_files("chars", {"chars.json": known})
    with pytest.raises(errors.DataError, match=f"{path}:2: character 'X' at offset 1"):
        cache.build(source_of(path), tok, tmp_path)


def test_a_damaged_cache_is_not_read(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ["one", "two"])
    tokens = cache.build(source_of(path), TOK, tmp_path)
    file = tokens.path / "tokens.bin"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(errors.DataError, match="14 bytes, expected 16; remove"):
        cache.build(source_of(path), TOK, tmp_path)
    file.unlink()
    with pytest.raises(errors.DataError, match="missing"):
        cache.build(source_of(path), TOK, tmp_path)
    for cut in ("", "{}", '{"format'):
        (tokens.path / atomic.MANIFEST).write_text(cut)
        remedy = f"damaged; remove {tokens.path} and it will be built again"
        with pytest.raises(errors.DataError, match=remedy):
            cache.build(source_of(path), TOK, tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ["one", "two"])
    with pytest.raises(errors.ConfigError, match=f"cache_dir: {path}/tokens: .*name a"):
        cache.build(source_of(path), TOK, path)


SLOW = """
    import os, sys, time
    from pathlib import Path
    import numpy as np
    from alignjax.data import records
    from alignjax.data.tokenizers import base as tokenizer
    from alignjax.data.tokens import cache, tokenizing

    tokenizing.BATCH_BYTES, tokenizing.IN_PROCESS_BYTES = 100, 1000

    folder, rest = Path(sys.argv[1]), float(sys.argv[2])

    def rows():
        (folder / f"started-{os.getpid()}").touch()
        for i in range(200):
            time.sleep(rest)
            yield f"slow:{i}", records.Text(f"document {i} " * 5)

    source = records.Source("slow", {"slow": 1}, None, rows)
    tok = tokenizer.build(tokenizer.TokenizerConfig(kind="bytes"), [], folder)
    found = cache.build(source, tok, folder, workers=2, progress=lambda *_: None)
    print(found.key, len(found.tokens), int(np.sum(found.tokens, dtype=np.int64)))
"""


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def children_of(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in listed.split()]


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_killed_on_the_way_it_leaves_nothing_that_passes_for_whole(tmp_path):
    (tmp_path / "other").mkdir()
    expected = fresh.run(SLOW, tmp_path / "other", 0)
    with fresh.start(SLOW, tmp_path, 0.02) as process:
        wait_for(lambda: list(tmp_path.glob("tokens/*.partial-*/tokens.bin")))
        wait_for(lambda: len(children_of(process.pid)) >= 2)
        workers = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
    partial = list(tmp_path.glob("tokens/*.partial-*"))
    assert len(partial) == 1
    assert not list(tmp_path.glob("tokens/*/manifest.json"))
    wait_for(lambda: not any(map(alive, workers)))  # no orphans
    assert fresh.run(SLOW, tmp_path, 0) == expected
    assert not list(tmp_path.glob("tokens/*.partial-*"))
    assert len(list(tmp_path.glob("tokens/*/manifest.json"))) == 1


def test_two_at_once_build_it_once(tmp_path):
    both = [fresh.start(SLOW, tmp_path, 0.005) for _ in range(2)]
    printed = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert printed[0][0] == printed[1][0]
    assert len(list(tmp_path.glob("started-*"))) == 1


def test_a_script_without_a_guard_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("print('imported', __name__)\n" + textwrap.dedent(SLOW))
    out = fresh.run_file(script, tmp_path, 0)
    assert out.count("imported") == 1


def test_store_keeps_a_directory_whole(tmp_path):
    def fail(partial):
        (partial / "half").write_text("half")
        raise KeyboardInterrupt

    place = tmp_path / "thing"
    with pytest.raises(KeyboardInterrupt):
        atomic.obtain(place, fail)
    assert not place.exists() and not list(tmp_path.glob("*.partial-*"))

    def fill(partial):
        (partial / "all").write_text("all")
        return {"count": 1}

    assert atomic.obtain(place, fill) == {"count": 1}
    assert atomic.obtain(place, fail) == {"count": 1}
    assert (place / "all").read_text() == "all"


def test_store_gives_way_to_one_that_was_faster(tmp_path, monkeypatch):
    place = tmp_path / "thing"

    def overtaken(partial):
        place.mkdir()
        (place / atomic.MANIFEST).write_text('{"by": "another"}')
        return {"by": "this"}

    assert atomic.obtain(place, overtaken) == {"by": "another"}
    assert not list(tmp_path.glob("*.partial-*"))

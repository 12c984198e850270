# SPDX-License-Identifier: Apache-2.0
"""Every source: what it yields, and every way in which a file can be bad."""

import gzip
import hashlib
import json
import os
import sys
import time

import numpy as np
import pytest

from alignjax import errors
from alignjax.data import records, sources
from alignjax.data.sources import files
from alignjax.storage import filenames, json_files

ODD = "A\r\nB\n\n\n  C \t é 漢 \u2028 \ufeff e\u0301 \U0001f600\n"


def documents(kind, **options):
    return list(sources.load(kind, options).documents())


def texts(kind, **options):
    return [record.text for _, record in documents(kind, **options)]


def refused(error=errors.DataError, **options):
    """The message with which a source is refused, on loading or on reading."""
    kind = options.pop("kind", "text")
    with pytest.raises(error) as caught:
        documents(kind, **options)
    return str(caught.value)


def test_text_of_a_file_is_kept_to_the_byte(tmp_path):
    path = tmp_path / "odd.txt"
    path.write_bytes(ODD.encode())
    assert documents("text", path=str(path)) == [(f"{path}:1", records.Text(ODD))]


def test_text_by_line_and_by_paragraph_has_places(tmp_path):
    path = tmp_path / "odd.txt"
    path.write_bytes(ODD.encode())
    by_line = documents("text", path=str(path), document="line")
    last = ODD.split("\n")[4]
    assert by_line == [
        (f"{path}:1", records.Text("A")),
        (f"{path}:2", records.Text("B")),
        (f"{path}:5", records.Text(last)),
    ]
    by_paragraph = documents("text", path=str(path), document="paragraph")
    assert by_paragraph == [
        (f"{path}:1", records.Text("A\r\nB")),
        (f"{path}:5", records.Text(last)),
    ]


@pytest.mark.parametrize("document", ["file", "paragraph"])
def test_a_large_document_comes_in_pieces(tmp_path, monkeypatch, document):
    monkeypatch.setattr(files, "BLOCK_BYTES", 100)
    rng = np.random.default_rng(0)
    lines = ["x" * int(n) for n in rng.integers(1, 150, 200)]
    path = tmp_path / "large.txt"
    path.write_text("\n".join(lines))
    rows = documents("text", path=str(path), document=document)
    assert "".join(record.text for _, record in rows) == "\n".join(lines)
    assert len(rows) > 50
    assert [record.first for _, record in rows] == [True] + [False] * (len(rows) - 1)
    assert [record.final for _, record in rows] == [False] * (len(rows) - 1) + [True]
    assert all(r.text.endswith("\n") for _, r in rows[:-1])


def test_paragraphs_and_lines_do_not_depend_on_blocks(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    lines = ["word " * int(n) for n in rng.integers(0, 6, 300)]
    path = tmp_path / "many.txt"
    path.write_text("\n".join(lines) + "\n")
    for document in ("line", "paragraph"):
        whole = documents("text", path=str(path), document=document)
        with monkeypatch.context() as patch:
            patch.setattr(files, "BLOCK_BYTES", 64)
            pieces = documents("text", path=str(path), document=document)
        joined = []
        for where, record in pieces:
            if record.first:
                joined.append((where, ""))
            joined[-1] = (joined[-1][0], joined[-1][1] + record.text)
        assert joined == [(where, record.text) for where, record in whole]


def test_files_are_found_by_name_directory_glob_and_list(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/c.md", "other.bin"):
        (tmp_path / name).write_text(name)
    assert texts("text", path=str(tmp_path)) == ["a.txt", "b.txt", "deep/c.md"]
    assert texts("text", path=str(tmp_path / "*.txt")) == ["a.txt", "b.txt"]
    both = [str(tmp_path / "b.txt"), str(tmp_path / "?.txt")]
    assert texts("text", path=both) == ["b.txt", "a.txt"]
    with gzip.open(tmp_path / "z.txt.gz", "wb") as file:
        file.write(b"packed")
    assert texts("text", path=str(tmp_path / "z.txt.gz")) == ["packed"]


def test_all_of_a_directory_is_found_or_told_of(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    for name in ("a.txt", "B.TXT", "noext", "table.csv"):
        (folder / name).write_text(name)
    (elsewhere / "c.txt").write_text("c.txt")
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)  # a cycle
    source = sources.load("text", {"path": str(folder)})
    said = [record.text for _, record in source.documents()]
    assert said == ["B.TXT", "a.txt", "c.txt"]
    assert source.note == (
        "2 files left out, which do not end in .txt, .md, .text, .txt.gz"
    )
    assert not sources.load("text", {"path": str(folder / "a.txt")}).note


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    gone = tmp_path / "gone.txt"
    gone.symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, tmp_path / "*.txt"):
        message = refused(path=str(path))
        assert f"{gone}: cannot be read (No such file" in message
    gone.unlink()
    (tmp_path / "a.txt").write_text("text")
    denied = PermissionError(13, "Permission denied")

    def deny(path, *_, **__):
        denied.filename = str(path)
        raise denied

    with monkeypatch.context() as patch:
        patch.setattr(files, "_sha256", deny)
        files._digest.cache_clear()
        message = refused(path=str(tmp_path / "a.txt"))
        assert f"{tmp_path}/a.txt: cannot be read (Permission denied)" in message
    source = sources.load("text", {"path": str(tmp_path / "a.txt")})
    monkeypatch.setattr(filenames, "open", deny, raising=False)
    with pytest.raises(errors.DataError, match=r"a.txt: cannot be read"):
        list(source.documents())
    monkeypatch.setattr(os, "scandir", deny)
    assert f"{tmp_path}: cannot be read" in refused(path=str(tmp_path))


def test_identity_is_of_bytes_and_options_not_of_paths(tmp_path):
    (tmp_path / "a.txt").write_text("the same")
    (tmp_path / "b.txt").write_text("the same")
    (tmp_path / "c.txt").write_text("another")

    def identity(name, **options):
        path = str(tmp_path / name)
        return sources.load("text", {"path": path, **options}).identity

    assert identity("a.txt") == identity("b.txt")
    assert identity("a.txt") != identity("c.txt")
    assert identity("a.txt") != identity("a.txt", document="line")
    before = identity("a.txt")
    (tmp_path / "a.txt").write_text("not the same")
    assert identity("a.txt") != before


def test_digests_of_large_files_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "LARGE", 10)
    path = tmp_path / "large.txt"

    def digest():
        files._digest.cache_clear()  # as a new process would
        return files.digests([path])[0]

    def write(text, age):
        path.write_text(text)
        then = time.time() - age
        os.utime(path, (then, then))
        return hashlib.sha256(text.encode()).hexdigest()

    expected = write("just written", 0)
    assert digest() == expected
    assert not list((tmp_path / "cache").rglob("*.json"))  # it may change unseen
    expected = write("long settled", 1000)
    assert digest() == expected
    (note,) = (tmp_path / "cache").rglob("*.json")
    with monkeypatch.context() as patch:
        patch.setattr(files, "_sha256", None)
        assert digest() == expected
    expected = write("changed since", 500)
    assert digest() == expected
    note.write_text("{ cut")
    assert digest() == expected


def test_text_files_that_are_refused(tmp_path):
    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    missing = str(tmp_path / "none*.txt")
    message = refused(path=missing)
    assert missing in message and "no file" in message and "correct" in message
    assert "no file" in refused(path=str(tmp_path))
    assert "path is empty" in refused(path="")
    assert "name a file" in refused(path=[])
    empty = write("empty.txt", b"")
    assert refused(path=empty) == f"{empty}: the file is empty; fill or remove it"
    blank = write("blank.txt", b" \n\t\n")
    assert f"{blank}: nothing but blank lines" in refused(path=blank)
    binary = write("binary.txt", b"one\ntwo\x00\n")
    message = refused(path=binary)
    assert f"{binary}:2 (line at byte 4): a NUL byte at byte 3" in message
    latin = write("latin.txt", b"one\ntwo\ncaf\xe9\n")
    message = refused(path=latin)
    assert f"{latin}:3 (line at byte 8): byte 0xe9 at byte 3" in message
    assert "iconv" in message
    nothing = write("nothing.txt.gz", gzip.compress(b""))
    assert f"{nothing}: nothing but blank lines" in refused(path=nothing)
    cut = write("cut.txt.gz", gzip.compress(b"text\n" * 10000)[:-20])
    assert f"{cut}: damaged or cut off" in refused(path=cut)
    not_packed = write("plain.txt.gz", b"this is no gzip file")
    assert f"{not_packed}: damaged" in refused(path=not_packed)


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_LINE_BYTES", 1 << 12)
    monkeypatch.setattr(files, "BLOCK_BYTES", 16)
    path = tmp_path / "long.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"x" * (1 << 13))
    message = refused(kind="jsonl", path=str(path))
    assert f"{path}:2: a line of more than" in message


def test_jsonl_names_every_bad_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        b'{"text": "good"}',
        b'{"text": "cut',
        b'{"body": "x"}',
        b'{"text": null}',
        b'{"text": 5}',
        b'{"text": "  "}',
        b'{"text": "a\\u0000b"}',
        b'{"text": "\\ud800"}',
        b'["text"]',
        b'{"text": "caf\xe9"}',
        b'{"text": "deep", "tools": ' + b"[" * 500 + b"]" * 500 + b"}",
        b"",
        b'{"text": "the end"}',
    ]
    path.write_bytes(b"\n".join(rows))
    found = documents("jsonl", path=str(path))
    assert [r.text for _, r in found if isinstance(r, records.Text)] == [
        "good",
        "the end",
    ]
    reasons = {
        int(where.rpartition(":")[2]): record.reason
        for where, record in found
        if isinstance(record, records.BadRow)
    }
    assert sorted(reasons) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    for line, words in {
        2: "invalid JSON",
        3: "no field 'text'; known: body",
        4: "found NoneType",
        5: "found int 5",
        6: "empty",
        7: "NUL",
        8: "surrogate",
        9: "expected an object, found list",
        10: "not UTF-8",
        11: "nested",
    }.items():
        assert words in reasons[line], line
    message = _error_of(found)
    assert message.startswith("10 bad rows:")
    assert f"{path}:2: invalid JSON" in message
    assert f"{path}:11:" in message
    assert 'data.on_bad_row = "skip"' in message


def _error_of(rows):
    faults = records.Faults("error")
    with pytest.raises(errors.DataError) as caught:
        list(sources.good_rows(rows, faults))
        faults.check()
    return str(caught.value)


def test_faults_are_capped_and_can_be_skipped():
    rows = [(f"f:{i}", records.BadRow("bad")) for i in range(100)]
    message = _error_of(rows)
    assert message.count("bad\n") == records.MOST_FAULTS
    assert "and perhaps more" in message
    faults = records.Faults("skip")
    mixed = [*rows, ("f:100", records.Text("good"))]
    assert [w for w, _ in sources.good_rows(mixed, faults)] == ["f:100"]
    strict = records.Faults("error")
    late = [rows[0], mixed[-1]]
    assert not list(sources.good_rows(late, strict))  # no work after a fault
    faults.check()
    assert faults.count == 100 and faults.first[0] == "f:0: bad"


def test_jsonl_reads_gzip_and_another_field(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps({"body": str(i)}) + "\n" for i in range(3))
    assert texts("jsonl", path=str(path), field="body") == ["0", "1", "2"]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "rows.parquet"
    column = ["one", None, "three é", ""] * 2000
    parquet.write_table(pyarrow.table({"text": column, "n": range(8000)}), path)
    rows = documents("parquet", path=str(path))
    assert [r.text for _, r in rows if isinstance(r, records.Text)] == [
        "one",
        "three é",
    ] * 2000
    assert rows[1][0] == f"{path}:2" and "found NoneType" in rows[1][1].reason
    message = refused(kind="parquet", path=str(path), field="txt")
    assert f"{path}: no column 'txt'; did you mean 'text'?" in message
    none = tmp_path / "none.parquet"
    parquet.write_table(pyarrow.table({"text": ["a"]}).slice(0, 0), none)
    message = refused(kind="parquet", path=str(none))
    assert f"path: '{none}' has no rows; name a file that has some" in message
    assert documents("parquet", path=[str(none), str(path)]) == rows
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert f"{path}: not a whole Parquet file" in refused(
        kind="parquet", path=str(path)
    )
    path.write_bytes(content[:100] + b"\xff" * 2000 + content[2100:])
    assert str(path) in refused(kind="parquet", path=str(path))


def test_a_date_that_python_cannot_have_is_a_bad_row(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "rows.parquet"
    ends = [0, 2**62, 1_600_000_000, -(2**62)]
    for unit in ("ms", "us"):
        when = pyarrow.array(ends, pyarrow.timestamp(unit))
        parquet.write_table(pyarrow.table({"when": when}), path)
        rows = documents("parquet", path=str(path), field="when")
        bad = [where for where, row in rows if "cannot have" in row.reason]
        assert bad == [f"{path}:2", f"{path}:4"]
        assert all("'when'" in row.reason for _, row in rows)
        assert len(rows) == 4
        assert f"{path}:2: " in _error_of(rows)


def test_two_columns_of_one_name_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    columns = [pyarrow.array([text]) for text in ("a", "b", "c")]
    names = ["text", "text", "other"]
    table = pyarrow.Table.from_arrays(columns, names=names)
    parquet.write_table(table, tmp_path / "rows.parquet")
    load = lambda field: documents("parquet", path=str(tmp_path), field=field)
    with pytest.raises(errors.DataError, match="'text'"):
        load("text")
    assert [row.text for _, row in load("other")] == ["c"]


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "MAX_BYTES", 2**16)
    path = tmp_path / "rows.json.gz"
    path.write_bytes(gzip.compress(b"[" + b" " * 2**18))
    with pytest.raises(errors.DataError, match=r"rows\.json\.gz.*more than"):
        documents("jsonl", path=str(path))


def test_huggingface_datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    pytest.importorskip("datasets")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in ("a", "", "c é")))
    options = dict(path="json", data_files=str(path))
    rows = documents("huggingface", **options)
    assert rows[0] == ("json/train:0", records.Text("a"))
    assert isinstance(rows[1][1], records.BadRow)
    assert rows[2][1].text == "c é"
    message = refused(kind="huggingface", field="txt", **options)
    assert "did you mean 'text'?" in message
    whole = sources.load("huggingface", options).identity
    part = sources.load("huggingface", options | {"split": "train[:1]"}).identity
    assert whole != part


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "alignjax[hf]" in refused(kind="huggingface", path="x")


def test_kinds_and_options_are_checked(tmp_path):
    assert {"text", "jsonl", "parquet", "tfds", "huggingface"} <= set(sources.KINDS)
    message = refused(errors.ConfigError, kind="txt", path="x")
    assert "unknown source 'txt'; did you mean 'text'?" in message
    message = refused(errors.ConfigError, pth="x")
    assert "pth: unknown option; did you mean 'path'?" in message
    assert "path: required" in message
    message = refused(errors.ConfigError, kind="no.such:load", path="x")
    assert "no.such:load" in message
    path = tmp_path / "a.txt"
    path.write_text("a")
    message = refused(errors.ConfigError, path=str(path), document="word")
    assert "document: 'word' is not one of" in message


def load_numbers(count: int) -> records.Source:
    """A source from outside the package."""

    def rows():
        return ((f"numbers:{i}", records.Text(str(i))) for i in range(count))

    return records.Source("numbers", {"count": count}, None, rows)


def test_a_source_from_outside_the_package():
    kind = f"{__name__}:load_numbers"
    source = sources.load(kind, {"count": 3})
    assert source.kind == kind
    assert [record.text for _, record in source.documents()] == ["0", "1", "2"]

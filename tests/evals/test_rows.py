# SPDX-License-Identifier: Apache-2.0
"""Rows of answers come back as they were; what is no row is refused by its place."""

import json

import pytest

from alignjax import errors
from alignjax.evals import rows

ANSWER = rows.Answer(
    run="dpo_s3",
    digest="9f",
    step=340,
    loss="dpo",
    seed=3,
    suite="world/nano/0",
    suite_digest="41",
    slice="eval_border",
    prompt=17,
    cluster="border/pick",
    decoding=rows.Decoding(1.0, None, 64, 2881003714),
    text='first, "wash" it.\n\u2028é',
    ids=(3, 1, 4),
    tokens=3,
    finished=True,
    gold=1.75,
    tag="right",
    components={"task": 2.0, "filler": -0.25},
    logp=-9.31,
    ref_logp=-10.02,
    kl=0.61,
    entropy=6.2,
)
BARE = rows.Answer(
    run="x", suite="s", suite_digest="d", prompt=0, text="", tokens=0, finished=False
)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_rows_come_back(tmp_path, name):
    rows.write(tmp_path / name, [ANSWER, BARE])
    assert list(rows.read(tmp_path / name)) == [ANSWER, BARE]


def test_the_fields_are_written_in_their_order(tmp_path):
    rows.write(tmp_path / "a.jsonl", [ANSWER])
    line, end = (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")
    assert end == ""
    assert line.startswith('{"schema": "alignjax.answer/1", "run": "dpo_s3"')
    assert list(json.loads(line)) == list(rows._NAMES)


def test_a_file_that_exists_is_replaced_whole_or_not_at_all(tmp_path):
    rows.write(tmp_path / "a.jsonl", [ANSWER])

    def two():
        yield BARE
        raise OSError("full")

    with pytest.raises(OSError):
        rows.write(tmp_path / "a.jsonl", two())
    assert list(rows.read(tmp_path / "a.jsonl")) == [ANSWER]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": "alignjax.answer/2"}, "schema"),
        ({"schema": None}, "schema"),
        ({"golden": 1.0}, "golden: unknown"),
        ({"prompt": "17"}, "prompt"),
        ({"prompt": -1}, "prompt"),
        ({"text": None}, "text: required"),
        ({"finished": 1}, "finished"),
        ({"gold": float("nan")}, "gold"),
        ({"kl": 10**400}, "kl"),
        ({"decoding": {"temperature": -1}}, "decoding.temperature"),
        ({"components": [["task", 2.0]]}, "components"),
        ({"components": {"task": "2"}}, "components"),
        ({"ids": [1, "2"]}, "ids"),
        ({"run": "\x1b[31mred"}, "run"),
        ({"slice": "x" * 201}, "slice"),
    ],
)
def test_what_is_no_row_is_refused_by_file_and_line(tmp_path, changes, reason):
    lines = [BARE.as_json(), {**ANSWER.as_json(), **changes}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(errors.DataError, match=rf"a\.jsonl:2: {reason}"):
        list(rows.read(path))


def test_what_is_no_json_and_the_same_answer_twice(tmp_path):
    path = tmp_path / "a.jsonl"
    line = json.dumps(BARE.as_json())
    path.write_text(f"{line}\n[1]\n")
    with pytest.raises(errors.DataError, match=r"a\.jsonl:2"):
        list(rows.read(path))
    path.write_text(f"{line}\n\n{line}\n")
    with pytest.raises(errors.DataError, match=r"a\.jsonl:3: the same answer as .*:1"):
        list(rows.read(path))
    with pytest.raises(errors.DataError, match=r"none\.jsonl"):
        list(rows.read(tmp_path / "none.jsonl"))


def test_no_more_rows_than_memory_is_meant_for(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MOST", 1)
    rows.write(tmp_path / "a.jsonl", [ANSWER, BARE])
    with pytest.raises(errors.DataError, match=r"a\.jsonl:2: more than 1 rows"):
        list(rows.read(tmp_path / "a.jsonl"))

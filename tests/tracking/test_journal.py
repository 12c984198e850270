# SPDX-License-Identifier: Apache-2.0
"""Every step stands in the journal exactly once, and numbers read back as they were."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from alignjax import errors
from alignjax.tracking import journal


def write_steps(path, start, stop):
    book, cut = journal.open_at(path, start)
    for step in range(start, stop):
        book.write(step, {"loss": 1 / (step + 1)})
    book.close()
    return cut


def test_floats_read_back_bit_for_bit(tmp_path):
    path = tmp_path / "metrics.jsonl"
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**64, 1000, dtype=np.uint64).view(np.float64)
    numbers = [*bits[np.isfinite(bits)].tolist(), 0.1, -0.0, 5e-324, math.pi, 1e308]
    single = np.float32(2.3025851)
    book, _ = journal.open_at(path, 0)
    for step, number in enumerate(numbers):
        book.write(step, {"loss": number, "single": single, "tokens": 2**60 + 1})
    book.close()
    records = list(journal.read(path))
    as_bits = lambda x: struct.pack("<d", x)
    assert [as_bits(r["loss"]) for r in records] == [as_bits(x) for x in numbers]
    assert all(np.float32(r["single"]) == single for r in records)
    assert all(r["tokens"] == 2**60 + 1 for r in records)


def test_what_json_lacks_is_written_as_strings(tmp_path):
    path = tmp_path / "metrics.jsonl"
    book, _ = journal.open_at(path, 0)
    record = {"a": math.nan, "b": math.inf, "c": np.float32(-np.inf), "d": 0.5}
    book.write(0, record)
    book.close()
    refuse = lambda name: pytest.fail(f"{name} is not JSON")
    strict = json.loads(path.read_text(), parse_constant=refuse)
    assert strict == {
        "step": 0,
        "a": "NaN",
        "b": "Infinity",
        "c": "-Infinity",
        "d": 0.5,
    }
    [read] = journal.read(path)
    assert math.isnan(read["a"]) and read["b"] == math.inf and read["c"] == -math.inf


def test_resuming_cuts_back_to_the_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert write_steps(path, 0, 10) == journal.Cut(0, 0, 0)
    assert write_steps(path, 6, 12) == journal.Cut(kept=6, later=4, unreadable=0)
    whole = tmp_path / "whole.jsonl"
    write_steps(whole, 0, 12)
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "whole.jsonl"]


@pytest.mark.parametrize(
    "torn", [b'{"step": 6, "lo', b'{"step": 6, "loss": 1}', b"\0\0"]
)
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 0, 6)
    before = path.read_bytes()
    path.write_bytes(before + torn)
    assert len(list(journal.read(path))) == 6
    assert write_steps(path, 6, 6) == journal.Cut(kept=6, later=0, unreadable=1)
    assert path.read_bytes() == before


def test_starting_again_from_nothing_empties_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 0, 5)
    assert write_steps(path, 0, 2) == journal.Cut(kept=0, later=5, unreadable=0)
    assert [r["step"] for r in journal.read(path)] == [0, 1]


def test_a_step_is_written_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 0, 3)
    book, _ = journal.open_at(path, 3)
    with pytest.raises(ValueError, match="step 2 is not after 2"):
        book.write(2, {})
    book.write(3, {})
    with pytest.raises(ValueError, match="step 3 is not after 3"):
        book.write(3, {})
    book.close()


def test_only_numbers_are_recorded(tmp_path):
    book, _ = journal.open_at(tmp_path / "metrics.jsonl", 0)
    for value in (np.zeros(2), None, [1.0], object()):
        with pytest.raises(TypeError, match="loss"):
            book.write(0, {"loss": value})
    book.close()


LINES = ["nonsense", "5", "null", "[]", "{}", '{"step": "1"}', '{"step": 1.5}', "\xff"]
LINES += ['{"step": 1, "loss": "low"}', '{"step": 1, "loss": null}']


@pytest.mark.parametrize("line", LINES)
def test_reading_names_the_broken_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 0}}\n{line}\n{{"step": 1}}\n', "latin-1")
    with pytest.raises(errors.DataError, match=r"metrics\.jsonl:2"):
        list(journal.read(path))


def test_a_record_outlives_the_process_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    program = (
        "import os, sys\n"
        "from alignjax.tracking import journal\n"
        "book, _ = journal.open_at(sys.argv[1], 0)\n"
        "book.write(0, {'loss': 1.5})\n"
        "os.kill(os.getpid(), 9)\n"
    )
    child = subprocess.run([sys.executable, "-c", program, str(path)])
    assert child.returncode == -signal.SIGKILL
    assert list(journal.read(path)) == [{"step": 0, "loss": 1.5}]


def test_kill_at_any_moment_and_resume_gives_every_step_once(tmp_path):
    """A process that writes steps is killed ten times, and resumes from a tenth."""
    path = tmp_path / "metrics.jsonl"
    program = (
        "import sys\n"
        "from alignjax.tracking import journal\n"
        "path, start = sys.argv[1], int(sys.argv[2])\n"
        "book, _ = journal.open_at(path, start)\n"
        "print('ready', flush=True)\n"
        "for step in range(start, 10**9):\n"
        "    book.write(step, {'loss': 1 / (step + 1)})\n"
    )
    random = np.random.default_rng(0)
    start = 0
    for _ in range(10):
        command = [sys.executable, "-c", program, str(path), str(start)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(random.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        written = sum(1 for _ in journal.read(path))
        assert written >= start
        start = written - written % 10
    assert start > 100
    write_steps(path, start, start + 10)
    whole = tmp_path / "whole.jsonl"
    write_steps(whole, 0, start + 10)
    assert path.read_bytes() == whole.read_bytes()

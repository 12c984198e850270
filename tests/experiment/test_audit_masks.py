# SPDX-License-Identifier: Apache-2.0
"""The command `audit`: what it prints of what is trained on, and how it ends."""

import json
import pathlib
import subprocess
import sys

import pytest

from alignjax.data import loader
from alignjax.data.chat import templates
from alignjax.data.tokenizers import base
from alignjax.experiment import audit

ROOT = pathlib.Path(__file__).resolve().parents[2]

CONFIG = """
from configs import base

def get_config():
    c = base.sft()
    c.steps, c.batch_size, c.length = 1, 8, 64
    c.model.update(family="llama", name="nano")
    c.tokenizer.kind, c.tokenizer.control_tokens = "bytes", {control}
    c.data.sources.rows = dict(kind="jsonl", path={path!r}, format="prompt_response")
    c.data.validation_fraction = 0.0
    c.optimizer.learning_rate = 1e-3
    return c
"""
DIALOGUES = [{"prompt": "hi", "response": "no"}, {"prompt": "oh", "response": "yes"}]


def written(folder, rows) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(folder, rows, *flags):
    """What the command prints, complains of, and ends with."""
    config = folder / "config.py"
    config.write_text(
        CONFIG.format(control=templates.CONTROL, path=written(folder, rows))
    )
    cache = f"--config.cache_dir={folder / 'cache'}"
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "alignjax",
            "audit",
            f"--config={config}",
            cache,
            *flags,
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return found.stdout, found.stderr, found.returncode


def report(folder, rows, format, **options):
    """The lines of the report on its first row, and the faults."""
    section = dict(kind="jsonl", path=written(folder, rows), format=format)
    own = {k: options.pop(k) for k in ("data",) if k in options}
    cfg = loader.DataConfig(
        sources={"rows": section}, validation_fraction=0, chat="roles", **options
    )
    kind = base.TokenizerConfig(kind="bytes", control_tokens=templates.CONTROL)
    tok = base.build(kind, [], folder)
    data = loader.build(cfg, tok, length=64, seed=0, cache_dir=folder, **own)
    lines, faults = audit.report(data, tok, format="roles", rows=1, check=1)
    return "\n".join(lines).splitlines(), faults


def test_dialogues_token_by_token(tmp_path):
    lines, faults = report(tmp_path, DIALOGUES, "prompt_response", bos=True)
    assert faults == [] and lines[-1] == "faults in 1 rows: none"
    assert lines[0].startswith("rows: kept 2 documents")
    start = next(i for i, line in enumerate(lines) if line.startswith("  place"))
    assert lines[start - 1].startswith(f"row 0: rows: {tmp_path / 'rows.jsonl'}:")
    ends = [line.split() for line in lines if line.endswith("-> <end>")]
    assert [(row[1], row[4], row[5]) for row in ends] == [
        ("1", "user", "."),
        ("1", "assistant", "1"),
        ("2", "user", "."),
        ("2", "assistant", "1"),
    ]
    (first,) = (line for line in lines if line.split()[:2] == ["0", "1"])
    assert first.endswith("<start> -> <user>")
    # Of 11 and 12 tokens all but the first; of replies a space, the text and its end.
    assert any("; 9 of 21 targets count (42.9 %)" in line for line in lines)


def test_faults_are_in_the_report(tmp_path):
    rows = [{"prompt": "hi", "response": "<user> hi"}, {"prompt": "a", "response": "b"}]
    lines, faults = report(tmp_path, rows, "prompt_response")
    assert len(faults) == 1
    assert any(line.startswith("FAULT template inside: row 0") for line in lines)
    assert lines[-1] == "faults in 1 rows: template inside 1"


@pytest.mark.parametrize("share", [True, False])
def test_pairs_say_which_response_a_token_is_of(tmp_path, share):
    rows = [{"prompt": "hi", "chosen": "yes", "rejected": "no", "margin": 2.0}]
    options = dict(share_prompt=share, long_documents="error", data="pairs")
    lines, faults = report(tmp_path, rows, "preference", **options)
    assert faults == []
    ends = [line.split() for line in lines if line.endswith("-> <end>")]
    assert [row[6] for row in ends if row[5] == "1"] == ["0:0", "0:1"]
    branches = ["0", "1", "2"] if share else [".", ".", ".", "."]
    assert [row[2] for row in ends] == branches
    said = "group 0: weight 1, responses of [5, 4] tokens, {'margin': 2.0}"
    assert said in lines


def test_the_exit_status_tells(tmp_path):
    out, err, code = run(tmp_path, DIALOGUES, "--rows=1")
    assert code == 0, err
    assert "row 0: rows: " in out and out.endswith("faults in 1 rows: none\n")
    rows = [{"prompt": "hi", "response": "<user> hi"}]
    out, err, code = run(tmp_path, rows, "--rows=0")
    assert code == 1, err
    assert "FAULT template inside" in out and "row 0: rows" not in out
    _, err, code = run(tmp_path, [{"prompt": "hi", "response": ""}])
    assert code == 65 and "rows.jsonl:1: field 'response': the text is empty" in err

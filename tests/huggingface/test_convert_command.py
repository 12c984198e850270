# SPDX-License-Identifier: Apache-2.0
"""The command that converts: what it says, and what it refuses before it works."""

import json
import re

import handmade
import pytest

from alignjax import convert, errors
from alignjax.analysis import conversion
from alignjax.storage import atomic


@pytest.fixture
def source(tmp_path):
    return handmade.write(tmp_path / "source", handmade.tensors("bfloat16"), files=3)


def test_the_command_says_what_it_does_and_ends_with_a_code(
    source, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    main, run = convert.main, str(tmp_path / "run")
    file = tmp_path / "certificate.json"
    assert main(["import", str(source), run, f"--certificate={file}"]) == 0
    said = capsys.readouterr().out
    count = sum(x.size for x in handmade.tensors().values())
    assert f"llama: {count:,} parameters of bfloat16" in said and "3 file(s)" in said
    assert "there is no tokenizer" in said
    assert json.loads(file.read_text())["same_parameters"]
    out = "~/out"
    assert main(["export", run, out, "--max-shard-size=1KB"]) == 0
    assert (tmp_path / "out" / "config.json").is_file()
    assert "LlamaForCausalLM" in capsys.readouterr().out
    assert main(["export", run, out]) == 78
    assert main(["import", "hf:/nowhere", str(tmp_path / "x")]) == 78
    assert main(["export", str(tmp_path), str(tmp_path / "x")]) == 74
    assert "not empty" in capsys.readouterr().err
    assert main(["export", run, ""]) == 78
    assert "target: empty; name a file or folder" in capsys.readouterr().err


WRONG = {
    "import --adapters=x --certificate={}/c": "certificate: .* with --adapters",
    "export --adapters --dtype=float32": "dtype: float32 has no effect with --adapters",
    "export --adapters --max-shard-size=1GB": "max_shard_size: 1GB has no effect with",
    "export --adapters --certificate={}/c": "certificate: .* with --adapters",
    "export --base=me/mine": "base: me/mine has no effect without --adapters",
    "import --certificate={}/no/c": "certificate: .*/no is no folder that can be",
    "export --certificate={}/no/c": "certificate: .*/no is no folder that can be",
    "import --certificate={}": "certificate: .* is there",
}


@pytest.mark.parametrize("asked", WRONG)
def test_options_without_effect_are_refused_before_anything_is_done(
    asked, source, tmp_path, capsys
):
    command, *options = asked.format(tmp_path).split()
    words = [command, str(source), str(tmp_path / "out"), *options]
    assert convert.main(words) == 78
    assert re.search(WRONG[asked], capsys.readouterr().err)
    assert [x.name for x in tmp_path.iterdir()] == ["source"]


def test_a_target_that_cannot_be_made_is_refused_by_name(source, tmp_path):
    (tmp_path / "file").write_text("mine")
    target = tmp_path / "file" / "sub" / "out"
    message = rf"{target}: {tmp_path}/file is no folder; name another place"
    with pytest.raises(errors.ConfigError, match=message):
        conversion.plan_export(source, target)
    for long in (250, 300):  # with what is appended while it is written, and at once
        with (
            pytest.raises(errors.ConfigError, match=r"x: cannot be made .*too long"),
            atomic.folder(tmp_path / ("x" * long), 0),
        ):
            pass
    assert {x.name for x in tmp_path.iterdir()} == {"source", "file"}

# SPDX-License-Identifier: Apache-2.0
"""A whole sweep by its command: trained, answered, compared, and not done twice."""

import json
import pathlib

import pytest

from alignjax import cli, errors
from alignjax.ablation import measure, states
from alignjax.evals import compare

ROOT = pathlib.Path(__file__).resolve().parents[2]
SWEEP = """
def get_sweep():
    arms = [{"objective.loss": "dpo"}, {"objective.loss": "simpo"}]
    arms += [{"objective.loss": "kto", "optimizer.learning_rate": 1e18}]
    return dict(config="configs/smoke/dpo.py", arms=arms, prompts=2, checkpoints=1)
"""


@pytest.mark.slow
def test_a_sweep_from_its_file_to_its_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (tmp_path / "sweep.py").write_text(SWEEP)
    out, cache = tmp_path / "out", tmp_path / "cache"
    flags = [f"--config.init.run={ROOT / 'tests/golden/runs/sft'}"]
    flags += ["--config.steps=4", f"--config.cache_dir={cache}"]
    flags += ["--config.log.tensorboard=False", "--config.evaluation.every=4"]
    flags += [f"--config.data.sources.world.data_dir={cache / 'world'}"]
    command = ["sweep", str(tmp_path / "sweep.py"), f"--out={out}", *flags]
    command += [f"--cache_dir={cache}", "--jobs=2"]
    assert cli.main(command) == errors.NON_FINITE
    records = states.read(out)
    codes = {name.split("-")[0]: record["code"] for name, record in records.items()}
    assert codes == {
        **{f"{loss}_{seed}": 0 for loss in ("dpo", "simpo") for seed in (0, 1)},
        **{f"kto_{seed}": errors.NON_FINITE for seed in (0, 1)},
    }
    page = (out / "report.html").read_text()
    assert "2 of 2 runs of kto diverged" in page and "before the first run" not in page
    # One reference store, which the first run filled and the second one found.
    stores = [p for p in (cache / "reference").iterdir() if p.is_dir()]
    assert len(stores) == 2  # of the data to train on, and of those held out
    # The rows are those of `alignjax compare`.
    capsys.readouterr()
    arms = [f"{loss}={out}/{loss}_*/{measure.FILE}" for loss in ("dpo", "simpo")]
    assert compare.main([*arms, "--json"]) == errors.DONE
    fields = json.loads(capsys.readouterr().out)
    assert fields["runs"] == [2, 2] and fields["paired"]
    assert f"{fields['estimate']:+.3f}" in page
    # Nothing is left to do, but to say so again; a broken answer file is made again.
    assert cli.main(command) == errors.DONE
    assert "0 jobs" in capsys.readouterr().out
    rows = next(out.glob("dpo_0-*")) / measure.FILE
    rows.write_text("")
    assert cli.main(command) == errors.DONE
    assert "1 jobs" in capsys.readouterr().out and rows.stat().st_size
    # Another start is another sweep.
    flags[0] = f"--config.init.run={ROOT / 'tests/golden/runs/dpo'}"
    command[3 : 3 + len(flags)] = flags
    assert cli.main(command) == errors.CONFIG

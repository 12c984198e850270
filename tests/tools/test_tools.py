# SPDX-License-Identifier: Apache-2.0
"""The shell scripts, with the programs that they call replaced by ones that report."""

import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "tools").glob("*.sh"))

# Stands in for a program: notes its arguments, one a line, and ends as it is told.
STAND_IN = """#!/usr/bin/env bash
{ printf '%s\\n' "$(basename "$0")" "$@"; echo; } >> "$CALLS"
exit "${CODE:-0}"
"""


class Bench:
    """A copy of the scripts in an empty checkout, and programs that stand in."""

    def __init__(self, folder):
        self.root = folder / "a checkout"
        shutil.copytree(ROOT / "tools", self.root / "tools")
        (self.root / "alignjax").mkdir()
        shutil.copy(ROOT / "setup.py", self.root)
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls = folder / "calls"
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(folder),
            "CALLS": str(self.calls),
        }

    def program(self, name, text=STAND_IN):
        path = self.bin / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, *command, cwd="/", **environment):
        return subprocess.run(
            list(map(str, command)),
            cwd=cwd,
            env=self.environment | environment,
            capture_output=True,
            text=True,
        )

    def tool(self, name, *arguments, **environment):
        return self.run(self.root / "tools" / name, *arguments, **environment)

    def called(self):
        """Programs called since the last time, each a list of its arguments."""
        text = self.calls.read_text() if self.calls.exists() else ""
        self.calls.write_text("")
        return [call.split("\n") for call in text.split("\n\n") if call.strip("\n")]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def fake_python(version="3.12", pip_works=True):
    """A python that can make venvs which hold itself, and notes what it is asked."""
    works = "exit 0" if version in ("3.11", "3.12", "3.13", "3.14") else "exit 1"
    return f"""#!/usr/bin/env bash
case "$*" in
  *ensurepip*) {works} ;;
  *version_info*) echo {version}; exit ;;
  *"-m venv"*)
    mkdir -p "${{@: -1}}/bin"
    for name in python alignjax; do cp "$0" "${{@: -1}}/bin/$name"; done ;;
  *"pip --version"*) exit {0 if pip_works else 1} ;;
esac
{{ printf '%s\\n' python{version} "$@"; echo; }} >> "$CALLS"
case "$*" in *"${{FAIL:-nothing fails}}"*) exit 3 ;; esac
"""


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(path):
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n# SPDX-License-Identifier: Apache-2.0")
    assert "\nset -euo pipefail\n" in text
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)
    beside_python = os.path.dirname(sys.executable)
    folders = f"{beside_python}{os.pathsep}{os.environ['PATH']}"
    if (shellcheck := shutil.which("shellcheck", path=folders)) is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([shellcheck, str(path)], check=True)


def test_setup_takes_the_first_python_that_works_and_installs_once(bench):
    bench.program("python3.13", "#!/bin/sh\nexit 127\n")  # a shim with nothing behind
    bench.program("python3.12", fake_python("3.12"))
    bench.program("python3.11", fake_python("3.11"))
    first = bench.tool("setup_env.sh", "dev")
    assert first.returncode == 0, first.stderr
    venv, pip = bench.called()
    assert venv[:3] == ["python3.12", "-m", "venv"]
    assert pip[-2:] == ["--editable", f"{bench.root}[dev]"]
    again = bench.tool("setup_env.sh", "dev")
    assert "is ready" in again.stdout and bench.called() == []
    bench.tool("setup_env.sh", "dev", "hf")
    [pip] = bench.called()
    assert pip[-1] == f"{bench.root}[dev,hf]"


@pytest.mark.parametrize(
    "versions, chosen",
    [
        ({"python3.11": "3.11", "python3": "3.12"}, "python3.12"),
        ({"python3.14": "3.14", "python3.11": "3.11"}, "python3.11"),
        ({"python3": "3.14", "python": "3.10"}, "python3.14"),
    ],
)
def test_setup_takes_the_newest_python(bench, versions, chosen):
    for name in ("python3.11", "python3", "python"):
        bench.program(name, fake_python("3.10"))  # and not those of this machine
    for name, version in versions.items():
        bench.program(name, fake_python(version))
    assert bench.tool("setup_env.sh").returncode == 0
    assert bench.called()[0][:3] == [chosen, "-m", "venv"]


def test_setup_that_is_asked_for_help_does_nothing_else(bench):
    bench.program("python3.12", fake_python())
    result = bench.tool("setup_env.sh", "--help")
    assert result.returncode == 0 and "VENV names another" in result.stdout
    assert bench.tool("setup_env.sh", "--halp").returncode == 64
    assert bench.called() == [] and not (bench.root / ".venv").exists()


def test_setup_installs_again_when_setup_py_changes(bench):
    bench.program("python3.12", fake_python())
    bench.tool("setup_env.sh")
    bench.called()
    with (bench.root / "setup.py").open("a") as file:
        file.write("# one more package\n")
    bench.tool("setup_env.sh")
    [pip] = bench.called()
    assert pip[-1] == str(bench.root)


def test_setup_that_failed_is_tried_again(bench):
    bench.program("python3.12", fake_python())
    failed = bench.tool("setup_env.sh", FAIL="pip install")
    assert failed.returncode != 0 and "done" not in failed.stdout
    bench.called()
    assert bench.tool("setup_env.sh").returncode == 0
    [pip] = bench.called()
    assert "install" in pip


def test_setup_makes_a_half_made_venv_anew(bench):
    bench.program("python3.12", fake_python(pip_works=False))
    bench.tool("setup_env.sh")
    bench.called()
    bench.tool("setup_env.sh")
    assert bench.called()[0][:4] == ["python3.12", "-m", "venv", "--clear"]


def test_setup_refuses_where_no_python_will_do(bench):
    for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3"):
        bench.program(name, fake_python("3.10"))
    bench.program("python", fake_python("3.10"))
    result = bench.tool("setup_env.sh")
    assert result.returncode == 1
    assert "found no Python 3.11 to 3.14" in result.stderr
    result = bench.tool("setup_env.sh", PYTHON=str(bench.bin / "python3"))
    assert "is not a working Python" in result.stderr
    assert bench.called() == []


def test_setup_does_not_change_the_python_of_a_venv(bench):
    bench.program("python3.12", fake_python("3.12"))
    bench.program("other", fake_python("3.11"))
    assert bench.tool("setup_env.sh").returncode == 0
    result = bench.tool("setup_env.sh", PYTHON="other")
    assert result.returncode == 1
    assert "has Python 3.12, not that of PYTHON=other" in result.stderr


def commands(bench):
    """The commands of alignjax that the quickstart ran, and the flags of each."""
    names = ("train", "assess", "collect", "report")
    return [call[1:] for call in bench.called() if call[1] in names]


def test_quickstart_runs_all_stages_and_measures_each(bench):
    bench.program("python3.12", fake_python())
    result = bench.tool("quickstart.sh", "--config.log.every=5")
    assert result.returncode == 0, result.stderr
    called = commands(bench)
    trained = [call for call in called if call[0] == "train"]
    stages = ["pretrain", "sft", "reward", "dpo", "rl"]
    assert [call[1] for call in trained] == [
        f"--config=configs/{stage}/world.py" for stage in stages
    ]
    assert [call[2] for call in trained] == [
        f"--workdir=runs/quickstart/{stage}" for stage in stages
    ]
    before = ["pretrain", "sft", "sft", "sft"]
    assert [call[3] for call in trained[1:]] == [
        f"--config.init.run=runs/quickstart/{stage}" for stage in before
    ]
    assert "--config.rollouts.rewards.model.run=runs/quickstart/reward" in trained[-1]
    assert all(call[-1] == "--config.log.every=5" for call in trained)
    assessed = [call for call in called if call[0] == "assess"]
    assert [sum("--run=" in word for word in call) for call in assessed] == [1, 2, 3, 4]
    assert "--checkpoints=dpo" in assessed[-1]
    assert sum(call[0] == "collect" for call in called) == 1
    assert called[-1][:2] == ["report", "--out=runs/quickstart/report.html"]
    assert "--stage=rl=runs/quickstart/rl" in called[-1]


def test_quickstart_fast_is_smaller_and_elsewhere(bench):
    bench.program("python3.12", fake_python())
    assert bench.tool("quickstart.sh", "--fast").returncode == 0
    first = commands(bench)[0]
    assert "--workdir=runs/quickstart_fast/pretrain" in first
    assert "--config.steps=400" in first
    bench.tool("quickstart.sh", "--config.seed=1", "--fast")
    assert commands(bench)[0] == [*first, "--config.seed=1"]


def test_quickstart_by_another_seed_is_another_story(bench):
    bench.program("python3.12", fake_python())
    assert bench.tool("quickstart.sh", "--seed=3").returncode == 0
    called = commands(bench)
    trained = [call for call in called if call[0] == "train"]
    assert all("--config.seed=3" in call for call in trained)
    assert "--workdir=runs/quickstart_3/pretrain" in trained[0]
    [collected] = [call for call in called if call[0] == "collect"]
    assert "--seed=3" in collected
    for word in ("--seed=", "--seed=two", "--seed=-1"):
        assert bench.tool("quickstart.sh", word).returncode == 64
    assert not bench.called()


def test_quickstart_writes_where_it_was_called(bench, tmp_path):
    bench.program("python3.12", fake_python())
    given = dict(cwd=tmp_path, WORKDIR="my runs", VENV="venv")
    result = bench.tool("quickstart.sh", **given)
    assert result.returncode == 0, result.stderr
    assert f"--workdir={tmp_path}/my runs/pretrain" in commands(bench)[0]
    assert (tmp_path / "venv").is_dir()


def test_quickstart_says_what_it_takes_and_refuses_the_rest(bench):
    bench.program("python3.12", fake_python())
    for arguments in (["--help"], ["--fast", "-h"]):
        shown = bench.tool("quickstart.sh", *arguments)
        assert shown.returncode == 0 and "[--config.FIELD=VALUE ...]" in shown.stdout
        assert shown.stdout.endswith("PYTHON and VENV as in setup_env.sh.\n")
    for word in ("fast", "--workdir=x"):
        refused = bench.tool("quickstart.sh", "--fast", word)
        assert (
            refused.returncode == 64 and f"no such argument: {word}" in refused.stderr
        )
    assert not bench.called()


def test_quickstart_stops_where_training_fails(bench):
    bench.program("python3.12", fake_python())
    result = bench.tool("quickstart.sh", FAIL="train --config")
    assert result.returncode == 3
    assert "train" in bench.called()[-1]


def test_test_passes_arguments_on_and_its_exit_code(bench):
    bench.program("python3.12", fake_python())
    result = bench.tool("test.sh", "tests/test_step.py", "-m", "slow", TEST_WORKERS="3")
    assert result.returncode == 0, result.stderr
    pytest_call = bench.called()[-1]
    assert pytest_call[1:5] == ["-m", "pytest", "-n", "3"]
    assert pytest_call[-3:] == ["tests/test_step.py", "-m", "slow"]
    shown = bench.tool("test.sh", "--help")
    assert shown.returncode == 0 and "further arguments go to pytest" in shown.stdout
    assert not bench.called()
    assert bench.tool("test.sh", FAIL="pytest").returncode == 3
    assert bench.tool("test.sh", FAIL="ruff").returncode == 3


def test_tpu_launch_copies_and_starts_on_all_workers(bench):
    bench.program("gcloud")
    identity = dict(GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@example.com")
    identity |= dict(GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@example.com")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        bench.run("git", "-C", bench.root, *command, **identity)
    result = bench.tool("launch_tpu.sh", "slice", "zone-a", "--", "--config.note=a b'c")
    assert result.returncode == 0, result.stderr
    copy, start = (call for call in bench.called() if call[0] == "gcloud")
    assert copy[1:5] == ["compute", "tpus", "tpu-vm", "scp"]
    assert copy[6:] == ["slice:", "--zone=zone-a", "--worker=all"]
    assert start[1:8] == [
        "compute", "tpus", "tpu-vm", "ssh", "slice", "--zone=zone-a", "--worker=all",
    ]  # fmt: skip
    bench.program("remote")
    remote = "\n".join(start[8:]).removeprefix("--command=")
    last = remote.splitlines()[-1].replace("exec .venv/bin/python", "exec remote")
    bench.run("bash", "-c", last)
    [call] = bench.called()
    assert call[1:] == ["-m", "alignjax.train", "--multihost", "--config.note=a b'c"]


@pytest.mark.parametrize("arguments", [[], ["slice"], ["slice", "zone", "--config=x"]])
def test_tpu_launch_shows_how_it_is_used(bench, arguments):
    result = bench.tool("launch_tpu.sh", *arguments)
    assert result.returncode == 64 and "NAME ZONE --" in result.stderr
    assert bench.tool("launch_tpu.sh", "--help").stdout == result.stderr


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [(0, 0, False), (75, 0, True), (76, 19, True), (134, 3, True), (75, 20, False),
     (78, 0, False), (1, 0, False)],
)  # fmt: skip
def test_slurm_launch_requeues_what_can_go_on(bench, code, restarts, again):
    for name in ("sbatch", "srun", "scontrol"):
        bench.program(name)
    result = bench.tool(
        "launch_slurm.sh", "--nodes=2", "--", "--config.note=a b'c", "--workdir=/runs/x"
    )
    assert result.returncode == 0, result.stderr
    [batch] = bench.called()
    assert "--nodes=2" in batch and "--signal=TERM@180" in batch
    at = next(i for i, word in enumerate(batch) if word.startswith("--wrap="))
    script = "\n".join(batch[at:]).removeprefix("--wrap=")
    job = bench.run(
        "bash", "-c", script,
        CODE=str(code), SLURM_JOB_ID="42", SLURM_RESTART_COUNT=str(restarts),
    )  # fmt: skip
    assert job.returncode == code
    train, *requeue = bench.called()
    assert train == [
        "srun", "--kill-on-bad-exit=1", f"{bench.root}/.venv/bin/python", "-m",
        "alignjax.train", "--multihost", "--config.note=a b'c", "--workdir=/runs/x",
    ]  # fmt: skip
    assert requeue == ([["scontrol", "requeue", "42"]] if again else [])


def test_slurm_launch_shows_how_it_is_used(bench):
    result = bench.tool("launch_slurm.sh", "--nodes=2")
    assert result.returncode == 64 and "SBATCH OPTION" in result.stderr
    assert bench.tool("launch_slurm.sh", "--help").stdout == result.stderr

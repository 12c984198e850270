# SPDX-License-Identifier: Apache-2.0
"""What commands share: where they may write, and how they end."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from alignjax import analysis, cli, errors, train
from alignjax.storage import atomic


def test_the_folder_of_a_file_is_made(tmp_path):
    out = tmp_path / "deep" / "er" / "out.json"
    assert cli.output(str(out)) == out
    assert list(out.parent.iterdir()) == []
    out.write_text("old")
    assert cli.output(out).read_text() == "old"


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path, reason in (
        (tmp_path, "is a folder; name a file"),
        (tmp_path / "file" / "out.json", "cannot be written: .* exists"),
        ("/proc/out.json", "cannot be written"),
        ("", "out: empty"),
    ):
        with pytest.raises(errors.ConfigError, match=reason):
            cli.output(path)


@pytest.mark.parametrize("kind", ["fifo", "link", "stdout", "socket"])
def test_what_is_no_file_is_not_written_over(tmp_path, kind):
    """What is written takes the name: of /dev/null too, for whoever may do that."""
    out = tmp_path / "out"
    (tmp_path / "results").write_text("old")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        if kind == "fifo":
            os.mkfifo(out)
        elif kind == "socket":
            listener.bind(str(out))
        else:
            out.symlink_to("/dev/stdout" if kind == "stdout" else tmp_path / "results")
        before = out.lstat()
        with pytest.raises(errors.ConfigError, match=r"out: .* is a"):
            cli.output(out)
        if kind in ("fifo", "socket"):
            with pytest.raises(errors.ConfigError, match="is a FIFO, device or socket"):
                atomic.write(out, "new")
        assert out.lstat() == before and (tmp_path / "results").read_text() == "old"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("--run=a --run=b", "--run"),
        ("--run=a show --step=1 --step=2", "--step"),
        ("--run=a --run=a --text=x --text=y show --step=1", None),
    ],
)
def test_an_option_that_is_given_twice_is_refused(capsys, words, option):
    """Perhaps a list is meant; the first value would be dropped in silence."""
    parser = cli.parser("inspect", "")
    parser.add_argument("--run")
    parser.add_argument("--text", action="append")
    show = parser.add_subparsers().add_parser("show")
    show.add_argument("--step", type=int)
    if option is None:
        assert parser.parse_args(words.split()).text == ["x", "y"]
        return
    with pytest.raises(SystemExit) as raised:
        parser.parse_args(words.split())
    assert raised.value.code == errors.CONFIG
    assert f"argument {option}: given twice" in capsys.readouterr().err


NOBODY = "~nobody-has-this-home/x"


@pytest.mark.parametrize(
    "arguments",
    [
        f"inspect ls {NOBODY}",
        f"merge average out {NOBODY} {NOBODY}",
        f"generate --run={NOBODY} --prompt=a",
        f"score --run={NOBODY} --data=/dev/null",
        f"assess --run=a={NOBODY} --out=out.json",
        f"convert import {NOBODY} out",
        f"report --stage=a={NOBODY} --out=out.html",
        f"train --config={NOBODY} --workdir=out",
        f"train --config=smoke.py --workdir={NOBODY} --config.init.run={NOBODY}",
        f"audit --config=smoke.py --config.data.chat={NOBODY}.jinja",
        f"audit --config=smoke.py --config.tokenizer.path={NOBODY}",
        f"audit --config=smoke.py --config.data.sources.world.path={NOBODY}",
    ],
)
def test_the_home_of_nobody_is_a_path_like_any_other(
    tmp_path, monkeypatch, capfd, arguments
):
    smoke = "from configs.smoke.pretrain import get_config\n"
    (tmp_path / "smoke.py").write_text(smoke)
    monkeypatch.chdir(tmp_path)
    code = cli.main(arguments.split())
    assert code in (errors.CONFIG, errors.DATA, errors.CHECKPOINT)
    assert "Traceback" not in (err := capfd.readouterr().err) and err.strip()


def test_a_home_whose_name_is_no_name_is_refused():
    with pytest.raises(errors.CheckpointError):
        analysis.open_run("~a\0b")
    with pytest.raises(errors.ConfigError, match="out"):  # of what is written, too
        cli.path("a\0b", "out")


# Runs Python anew: jobs in the background of a shell inherit that Ctrl-C is ignored.
FRESH = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@pytest.mark.parametrize("module", ["alignjax", "alignjax.train"])
def test_ctrl_c_while_it_imports(tmp_path, module):
    """Wherever it comes: here in the import of jax, which a fake one stands for."""
    (tmp_path / "jax.py").write_text(
        "import os, signal, time\n"
        "try:\n  os.kill(os.getpid(), signal.SIGINT)\n  time.sleep(9)\n"
        "except BaseException:\n  raise ImportError('swallowed')\n"
    )
    path = os.pathsep.join([str(tmp_path), str(pathlib.Path(__file__).parents[1])])
    more = ["train"] if module == "alignjax" else []
    done = subprocess.run(
        [sys.executable, "-c", FRESH, "-m", module, *more],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == errors.INTERRUPTED
    assert done.stderr == "interrupted\n" and done.stdout == ""


def test_ctrl_c_while_the_script_imports_its_first_modules(tmp_path):
    """As pip writes the script; here in `tempfile`, which a fake one stands for."""
    script, fake = tmp_path / "bin" / "alignjax", tmp_path / "tempfile.py"
    script.parent.mkdir()
    script.write_text("from alignjax.cli import main\nmain()\n")
    fake.write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(pathlib.Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == errors.INTERRUPTED and "Traceback" not in done.stderr


def test_devices_that_cannot_start_are_refused_in_one_line(capfd):
    def fail(text):
        raise RuntimeError(text)

    message = "Unable to initialize backend 'cuda': INTERNAL:\nno driver"
    assert cli.exit_code(lambda: fail(message)) == errors.CONFIG
    (line,) = capfd.readouterr().err.splitlines()
    assert "'cuda'" in line and "JAX_PLATFORMS" in line
    with pytest.raises(RuntimeError, match="another"):
        cli.exit_code(lambda: fail("another"))


def test_messages_are_cut_to_lines_and_cannot_steer_a_terminal(capfd):
    def fail():
        raise errors.DataError(f"x.json: '{'9' * 5000}' \x1b[2J\nline two")

    assert cli.exit_code(fail) == errors.DATA
    first, second = capfd.readouterr().err.splitlines()
    assert len(first) < 700 and first.startswith("DataError: x.json: '9")
    assert first.endswith(r"\x1b[2J") and second == "line two"


def test_a_file_system_that_refuses_is_told_in_one_line(capfd):
    assert cli.exit_code(pathlib.Path("x" * 5000).read_text) == errors.CHECKPOINT
    assert "File name too long" in capfd.readouterr().err


@pytest.mark.parametrize(
    "option", ["--processes=2", "--process_id=0", "--coordinator=localhost:1"]
)
def test_options_of_several_processes_need_multihost(tmp_path, capfd, option):
    workdir = tmp_path / "run"
    arguments = ["--config=configs/smoke/pretrain.py", f"--workdir={workdir}", option]
    assert train.main(arguments) == errors.CONFIG
    assert option.partition("=")[0].strip("-") in capfd.readouterr().err
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({"XLA_FLAGS": f"--{cli.VIRTUAL}=64 --xla_dump_to=x"}, "256"),
        ({"JAX_NUM_CPU_DEVICES": "64"}, "256"),
        ({"XLA_FLAGS": f"--{cli.VIRTUAL}=64", "NPROC": "70"}, None),
        ({"XLA_FLAGS": f"--{cli.VIRTUAL}=64", "PJRT_NPROC": "70"}, "70"),
        ({"XLA_FLAGS": f"--{cli.VIRTUAL}=1"}, None),
        ({"XLA_FLAGS": "--xla_dump_to=x"}, None),
        ({"JAX_NUM_CPU_DEVICES": "many"}, None),
        ({}, None),
    ],
)
def test_virtual_devices_have_threads_for_their_collectives(
    monkeypatch, variables, threads
):
    for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", *cli.THREADS):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli.exit_code(lambda: errors.DONE) == errors.DONE
    assert os.environ.get("PJRT_NPROC") == threads

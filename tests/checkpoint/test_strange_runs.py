# SPDX-License-Identifier: Apache-2.0
"""Whatever becomes of a run's folder, it is read as it was, or refused by name.

Files of a sound run are lost, cut, changed, swapped and joined by others at random.
Then it is opened, gone on from, inspected, exported and reported on.
"""

import contextlib
import gc
import io
import json
import os
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from alignjax import analysis, checkpoint, cli, errors, trees, types
from alignjax.checkpoint import step_folders
from alignjax.tracking import journal
from tests.fixtures import strange
from tools import make_golden_runs

pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / make_golden_runs.FOLDER / "language_model"
STEPS = (100, 200, 300)  # the last one is that of the golden run
EVERY = 100


class Sound:
    """A run with three steps, which it is told from the golden one."""

    def __init__(self, workdir: pathlib.Path):
        self.workdir = workdir
        shutil.copytree(GOLDEN, workdir)
        self.meta = step_folders.read_meta(workdir / "checkpoints" / "300")
        self.config, self.data = self.meta["config"], self.meta["data"]
        items = ("params", "train")
        step = workdir / "checkpoints" / "300"
        read = lambda item: step_folders.read_numpy(step, self.meta, item)
        self.items = {item: read(item) for item in items}
        with self.checkpoints(workdir) as checkpoints:
            for step in STEPS[:2]:
                state = self.state(step)
                assert checkpoints.maybe_save(step, state, metrics={"eval/loss": 1.0})
                checkpoints.wait()
        book, _ = journal.open_at(workdir / "metrics.jsonl", 0)
        for step in range(300):
            book.write(step, {"loss": 1.0, "learning_rate": 1e-3})
        book.close()
        (workdir / "log.txt").write_text("2026-01-01 00:00:00 step 300/300  loss 1.5\n")
        (workdir / "samples").mkdir()
        (workdir / "samples" / "00000299-sample-0.txt").write_text("it said so\n")
        self.params = {step: self.parameters(step) for step in STEPS}
        self.names = sorted(
            str(path.relative_to(workdir)) for path in workdir.rglob("*")
        )

    def checkpoints(self, workdir):
        return checkpoint.Checkpoints(
            workdir,
            config=self.config,
            data_identity=self.data,
            every=EVERY,
            keep_last=3,
        )

    def parameters(self, step: int) -> dict[str, np.ndarray]:
        own = self.items["params"].items()
        return {name: x if step == 300 else x * np.float32(step) for name, x in own}

    def state(self, step: int) -> types.TrainState:
        """Another one for each step."""
        train = trees.nest(self.items["train"])
        params = trees.nest(self.parameters(step))
        state = types.TrainState(np.int32(step), params, train["opt_state"])
        return jax.tree.map(jax.numpy.asarray, state)

    def abstract(self):
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)
        return jax.tree.map(shape, self.state(300))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return Sound(tmp_path_factory.mktemp("sound") / "run")


JUNK = st.one_of(
    st.sampled_from([b"", b"\n", b"{}", b"[]", b"null", b"7", b'"', b"\xff\xfe{"]),
    st.sampled_from([b"\xef\xbb\xbf{}", b"{" * 10_000, b"\0" * 4096, b"NaN", b"1e999"]),
    st.binary(max_size=64),
)
# Where further entries are put, and what they are called.
PLACES = ["", "checkpoints", "checkpoints/300", "checkpoints/300/params", "tokenizer"]
PLACES += ["quarantine", "samples"]
FOREIGN = [
    *("7.deleted", "300.deleted", "400.orbax-checkpoint-tmp", "0", "400", "0100"),
    *("50.orbax-checkpoint-tmp-9", "٣", "１００", "-1", "1e3", "999999999", "LOCK"),
    *("best", "latest", "epoch=1.ckpt", ".DS_Store", "config.json.1a.tmp", "LOCK.1"),
    *("metrics.jsonl", "model.safetensors", "params.safetensors", "commit_success.txt"),
    *("alignjax_chat.json", "tokenizer_config.json", "00000999-sample-0.txt"),
]
KINDS = ["file", "folder", "fifo", "loop", "dangling", "device", "self"]


@st.composite
def damages(draw, names, json_files):
    """What is done to a run: a list of `(kind, place, ...)`."""
    out = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(
            st.sampled_from(["lose", "cut", "fill", "flip", "json", "add", "swap"])
        )
        name = draw(st.sampled_from(names))
        if kind in ("lose",):
            out.append((kind, name, draw(st.sampled_from([None, *KINDS]))))
        elif kind == "cut":
            out.append((kind, name, draw(st.floats(0, 1))))
        elif kind == "fill":
            out.append((kind, name, draw(JUNK), draw(st.booleans())))
        elif kind == "flip":
            out.append((kind, name, draw(st.integers(0, 1 << 20))))
        elif kind == "json":
            name = draw(st.sampled_from(sorted(json_files)))
            content = draw(strange.changed(json_files[name]))
            out.append((kind, name, content, draw(st.booleans())))
        elif kind == "add":
            place = draw(st.sampled_from(PLACES))
            name = os.path.join(place, draw(st.sampled_from(FOREIGN)))
            out.append((kind, name, draw(st.sampled_from(KINDS)), draw(JUNK)))
        else:
            out.append((kind, name, draw(st.sampled_from(names)), draw(st.booleans())))
    return out


def put(path: pathlib.Path, kind: str, content: bytes = b"") -> None:
    """Something of a kind at a path where nothing is."""
    with contextlib.suppress(OSError):  # there is no such folder any more
        {
            "file": lambda: path.write_bytes(content),
            "folder": lambda: path.mkdir(),
            "fifo": lambda: os.mkfifo(path),
            "loop": lambda: path.symlink_to(path.name),
            "dangling": lambda: path.symlink_to("nowhere"),
            "device": lambda: path.symlink_to("/dev/zero"),
            "self": lambda: path.symlink_to("."),
        }[kind]()


def lose(path: pathlib.Path) -> None:
    folder = path.is_dir() and not path.is_symlink()
    with contextlib.suppress(OSError):  # it is gone, or its folder is
        shutil.rmtree(path) if folder else path.unlink()


def copy(path: pathlib.Path, other: pathlib.Path) -> None:
    """Links as links: what they lead to may have no end."""
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, other, symlinks=True)
    else:
        shutil.copyfile(path, other, follow_symlinks=False)


def damage(workdir: pathlib.Path, kind: str, name: str, *more) -> None:
    """Does one thing to a run, if it can still be done."""
    path = workdir / name
    is_file = path.is_file() and not path.is_symlink()
    if kind == "lose":
        lose(path)
        if more[0] is not None:
            put(path, more[0])
    elif kind == "add" and not os.path.lexists(path):
        put(path, *more)
    elif kind == "json" and is_file:
        content, rehash = more
        if rehash and isinstance(content, dict) and name.endswith("meta/data.json"):
            content.pop("sha256", None)
            with contextlib.suppress(ValueError, TypeError, UnicodeError):
                digest = step_folders.json_files.compact_digest(content)
                content["sha256"] = digest
        path.write_text(json.dumps(content))
    elif kind == "cut" and is_file:
        path.write_bytes(path.read_bytes()[: int(more[0] * path.stat().st_size)])
    elif kind == "fill" and is_file:
        path.write_bytes((path.read_bytes() if more[1] else b"") + more[0])
    elif kind == "flip" and is_file and path.stat().st_size:
        content = bytearray(path.read_bytes())
        content[more[0] // 8 % len(content)] ^= 1 << more[0] % 8
        path.write_bytes(content)
    elif kind == "swap" and os.path.lexists(path):
        other, keep = workdir / more[0], more[1]
        if other == path or path in other.parents or other in path.parents:
            return
        lose(other)
        with contextlib.suppress(OSError):  # its folder is gone
            copy(path, other) if keep else os.rename(path, other)


def saved(workdir: pathlib.Path) -> bool:
    """Whether anything tells that the run has saved."""
    entries = lambda name: list((workdir / name).glob("*"))
    folder = workdir / "checkpoints"
    steps = [p for p in entries("checkpoints") if p.name.isascii() and p.name.isdigit()]
    graves = [p for p in entries("checkpoints") if p.name.endswith(".deleted")]
    return bool(steps or graves or entries("quarantine") or not folder.is_dir())


def command(*arguments) -> int:
    """The exit code of a command, which says why it refuses."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = exit.code
    assert "Traceback" not in err.getvalue()
    refusals = {errors.CONFIG, errors.DATA, errors.CHECKPOINT}
    assert code in {errors.DONE, 1, *refusals}, (code, err.getvalue())
    assert code in {errors.DONE, 1} or err.getvalue().strip()
    return code


def looked_at(sound, workdir) -> None:
    """Opens it, part by part; what parameters there are, are those of a step."""
    run = analysis.open_run(workdir)
    for look in (
        lambda: run.config["model"],
        lambda: run.tokenizer.encode("it is so"),
        lambda: run.tokenize("it is so"),
        run.metrics,
        run.digest,
        lambda: [leaf[...] for leaf in run.leaves().values()],
    ):
        with contextlib.suppress(errors.AlignError):
            look()
    step = run.meta()["step"]
    for name, leaf in trees.named_leaves(run.params(step)).items():
        np.testing.assert_array_equal(leaf, sound.params[step][name])
    assert run.model.config.vocab_size


def gone_on_from(sound, workdir) -> None:
    """A start, which is of a step as it was saved, or anew where nothing was."""
    fresh = not saved(workdir)
    with sound.checkpoints(workdir) as checkpoints:
        state, step = checkpoints.restore_or_init(sound.abstract(), lambda: None)
    if step is None:
        assert fresh, "began again"
        return
    for name, leaf in trees.named_leaves(state.params).items():
        np.testing.assert_array_equal(leaf, sound.params[step][name])


def inspected(sound, workdir) -> None:
    for name in ("ls", "show", "stats"):
        command("inspect", name, workdir)
    command("inspect", "diff", f"{workdir}@200", f"{workdir}@300")


def exported(sound, workdir) -> None:
    folder = workdir.with_name("exported")
    if command("convert", "export", workdir, folder) == errors.DONE:
        written = analysis.open_run(folder).params()
        assert any(_same(written, parameters) for parameters in sound.params.values())
    else:
        assert not folder.exists()


def _same(tree, parameters) -> bool:
    leaves = trees.named_leaves(tree).items()
    return all(np.array_equal(leaf, parameters[name]) for name, leaf in leaves)


LOOKS = {
    "opened": looked_at,
    "gone on from": gone_on_from,
    "inspected": inspected,
    "verified": lambda sound, workdir: command("inspect", "verify", f"{workdir}@300"),
    "exported": exported,
    "reported on": lambda sound, workdir: command(
        "report", f"--stage=x={workdir}", f"--out={workdir}.html"
    ),
}


@strange.trials(16, 150)
def test_a_run_that_is_damaged_at_random(sound, tmp_path, count):
    json_files = {
        name: json.loads((sound.workdir / name).read_text())
        for name in sound.names
        if name.endswith(("config.json", "data.json", "bytes.json", "tokenizer.json"))
    }

    def check(trial):
        changes, look = trial
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            workdir = pathlib.Path(folder) / "run"
            shutil.copytree(sound.workdir, workdir)
            for change in changes:
                damage(workdir, *change)
            try:
                LOOKS[look](sound, workdir)
            finally:
                gc.collect(1)  # of a load that failed, while its warnings are ignored

    looks = st.sampled_from(list(LOOKS))
    trials = st.tuples(damages(sound.names, json_files), looks)
    strange.try_all(count, trials, check)

# SPDX-License-Identifier: Apache-2.0
"""Runs from Hugging Face folders, and folders from runs: what may be and what is done.

    plan = convert.plan_import("hf:Qwen/Qwen2.5-0.5B", "runs/qwen")
    convert.import_folder(plan)

No more than one tensor is in memory, twice. What is made appears under its name once it
is whole.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from alignjax.analysis import foreign, run
from alignjax.checkpoint import step_folders
from alignjax.huggingface import folder as folders
from alignjax.huggingface import merged, save
from alignjax.storage import atomic, fingerprint, tensor_files

Progress = Callable[[int, int], None]


class Import(NamedTuple):
    """A folder that is to become a run.

    Attributes:
      source: what was asked for.
      folder: opened.
      target: directory of the run.
    """

    source: str
    folder: folders.Folder
    target: pathlib.Path

    @property
    def nbytes(self) -> int:
        return step_folders.nbytes(
            step_folders.describe({"params": self.folder.leaves})
        )


def plan_import(source: str | pathlib.Path, target: str | pathlib.Path) -> Import:
    """Opens the folder and looks whether the run can be made; nothing is written.

    Raises:
      ConfigError, DataError: as `folder.find` and `folder.open_folder`; a target that
        is not empty, or a disk too full.
    """
    folder = folders.open_folder(folders.find(str(source)))
    plan = Import(str(source), folder, pathlib.Path(target).absolute())
    atomic.check(plan.target, plan.nbytes)
    return plan


def import_folder(
    plan: Import, progress: Progress = lambda done, total: None
) -> run.Run:
    """Makes a run whose step 0 has the parameters of a folder, bit for bit.

    Its config says which model, tokenizer and dialogues they go with; it names no
    optimizer, so it is there to be started from and to be read.

    Args:
      progress: told of (bytes written, bytes in all).

    Raises:
      ConfigError: the target is no longer empty, or the disk too full.
    """
    config = foreign.as_config(plan.folder)
    config["imported"] = {"from": plan.source, "path": str(plan.folder.path)}
    with atomic.folder(plan.target, plan.nbytes) as made:
        path = step_folders.step_path(made / "checkpoints", 0)
        (path / "meta").mkdir(parents=True)
        described = _write_leaves(path, plan, progress)
        meta = step_folders.make_meta(
            0,
            described,
            format=step_folders.IMPORTED,
            config=config,
            data={},
            metrics={},
        )
        atomic.write_json(path / "meta" / "data.json", meta)
        (path / step_folders.MARKER).touch()
        if plan.folder.has_tokenizer:
            plan.folder.tokenizer().save(made / "tokenizer")
        atomic.write_json(made / "config.json", config)
    return run.open_run(plan.target)


def _write_leaves(path: pathlib.Path, plan: Import, progress) -> dict[str, dict]:
    """Writes the parameters; what meta says of each."""
    held, done, total = plan.folder.leaves, 0, plan.nbytes
    described = step_folders.describe({"params": held})
    kinds = {name: (np.dtype(leaf.dtype), leaf.shape) for name, leaf in held.items()}
    slots = tensor_files.create(path / step_folders.TENSORS, kinds)

    def written(slot: tensor_files.Slot, leaf) -> Iterator[np.ndarray]:
        nonlocal done
        at = 0
        for piece in fingerprint.pieces(leaf):
            slot.write(piece, at)
            at, done = at + piece.size, done + piece.nbytes
            progress(done, total)
            yield piece

    for name, leaf in held.items():
        found = fingerprint.of_pieces(leaf.dtype, written(slots[name], leaf))
        described[f"params/{name}"]["fingerprint"] = found.digits
    return described


class Export(NamedTuple):
    """A run that is to become a folder.

    Attributes:
      run: opened, of one step.
      leaves: `{path: what is read when it is sliced}`, adapters merged.
      plan: the tensors and files that there will be.
      target: the folder.
    """

    run: run.Run
    leaves: dict[str, Any]
    plan: save.Plan
    target: pathlib.Path


def plan_export(
    path: str | pathlib.Path,
    target: str | pathlib.Path,
    *,
    step: int | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = save.MAX_SHARD_BYTES,
) -> Export:
    """How the run at `path` would be written to the folder `target`; nothing is.

    Args:
      path: of a run, or a folder of Hugging Face's.
      step: of its checkpoints; the newest unless told.
      dtype, max_shard_bytes: as in `save.plan`.

    Raises:
      ConfigError: what the family's folders cannot say, or a target that is not empty.
      CheckpointError: no such run or step.
    """
    opened = run.open_run(path, step)
    opened = opened.at(opened.meta()["step"])  # all that is read is of one step
    c = opened.model.config
    held = merged.merge(opened.leaves(), c)
    plan = save.plan(
        held,
        opened.config["model"]["family"],
        c,
        opened.full_tokenizer,
        chat=opened.chats,
        bos=bool(opened.config.get("data", {}).get("bos", True)),
        token_ids=opened.config.get("token_ids"),
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
    )
    target = pathlib.Path(target).absolute()
    atomic.check(target, plan.nbytes)
    return Export(opened, held, plan, target)


def export_run(
    made: Export, progress: Progress = lambda done, total: None
) -> pathlib.Path:
    """Writes the folder that was planned, all of it or nothing; returns its path.

    Raises:
      ConfigError: the target is no longer empty, or the disk too full.
      CheckpointError: a parameter that is not what was written.
    """
    save.write(made.plan, made.leaves, made.target, progress)
    return made.target

# SPDX-License-Identifier: Apache-2.0
"""Runs from Hugging Face folders, GGUF files and PEFT adapters, and these from runs.

    plan = conversion.plan_import("hf:Qwen/Qwen2.5-0.5B", "runs/qwen")
    conversion.import_folder(plan)

Memory holds two copies of the largest tensor at most. A run or folder appears under its
name once it is whole.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors, models, patterns
from alignjax.analysis import run, stores
from alignjax.checkpoint import step_folders
from alignjax.data.tokenizers import base as tokenizers
from alignjax.gguf import opening as gguf
from alignjax.gguf import save as gguf_save
from alignjax.huggingface import folder as folders
from alignjax.huggingface import layout, peft, save, tokenizer_files
from alignjax.models import lora
from alignjax.storage import atomic, fingerprint, lazy, tensor_files

Progress = Callable[[int, int], None]


class Import(NamedTuple):
    """The opened `folder`, named `source`, that is to become the run `target`."""

    source: str
    folder: folders.Folder
    target: pathlib.Path

    @property
    def nbytes(self) -> int:
        return step_folders.nbytes(step_folders.describe({"": self.folder.leaves}))


def plan_import(
    source: str | pathlib.Path, target: str | pathlib.Path, *, network: bool = False
) -> Import:
    """Opens the folder or file and checks that the run can be made; writes nothing.

    Raises:
      ConfigError, DataError: as `folder.find`, `folder.open_folder` and
        `gguf.opening.open_file`; a target that is not empty, or a disk too full.
    """
    if gguf.is_file(str(source)):
        folder = gguf.open_file(source)
    else:
        folder = folders.open_folder(folders.find(str(source), network))
    plan = Import(str(source), folder, pathlib.Path(target).absolute())
    atomic.check(plan.target, plan.nbytes)
    return plan


def import_folder(
    plan: Import, progress: Progress = lambda done, total: None
) -> run.Run:
    """Makes a run whose step 0 has the parameters of a folder, bit for bit.

    Its config has the model, tokenizer and dialogues that go with them, and no
    optimizer: it is there to be started from and to be read.

    Args:
      progress: called with (bytes written, bytes in all).

    Raises:
      ConfigError: the target is no longer empty, or the disk too full.
    """
    folder, config = plan.folder, stores.folder_config(plan.folder)
    config["imported"] = {"from": plan.source, "path": str(folder.path)}
    return write_run(plan.target, folder.leaves, config, {}, folder.tokenizer, progress)


def import_adapters(
    source: str | pathlib.Path,
    base: str | pathlib.Path,
    target: str | pathlib.Path,
    *,
    network: bool = False,
) -> run.Run:
    """Makes a run that is as if it had trained the adapters in a PEFT folder.

    Its other parameters stay in the base, which has to stay where it is. It can be
    opened, exported with its adapters merged, and started from.

    Args:
      source: the folder.
      base: a run, a Hugging Face folder, or `hf:` and a repository of the hub.
      target: directory of the run; made, must not have content.

    Raises:
      ConfigError: as `peft.read`; a base that has adapters, a target that is not empty.
      CheckpointError: the base is no run.
    """
    opened = run.open_run(base, network=network).at()
    leaves, section = opened.leaves(), opened.config["model"]
    if any("/lora_" in name for name in leaves):
        raise errors.ConfigError(
            f"{opened.path}: has adapters already; export it with these merged, and "
            "import the others onto that"
        )
    c = opened.model.config
    adapters = peft.read(source, section["family"], c, leaves)
    name = str(base) if str(base).startswith(folders.HUB) else str(opened.path)
    config = {
        **opened.config,
        "model": {**section, **adapters.fields, "base": "float32"},
        "trainable": lora.TRAINABLE,
        "init": {"run": name, "step": opened.step},
        "imported": {"from": str(source), "path": str(pathlib.Path(source).absolute())},
    }
    models.build(config["model"], c.vocab_size)  # refuses what could not be opened
    target, data = pathlib.Path(target).absolute(), {"init": opened.digest()}
    tokenizer = opened.full_tokenizer
    return write_run(target, adapters.leaves, config, data, tokenizer, network=network)


def write_run(
    target: pathlib.Path,
    leaves: Mapping[str, Any],
    config: dict,
    data: dict,
    tokenizer: tokenizers.Tokenizer | None,
    progress: Progress = lambda done, total: None,
    network: bool = False,
) -> run.Run:
    """Writes a workdir with one step, 0, of format `step_folders.IMPORTED`.

    Args:
      leaves: parameters by path, which are read when they are sliced, and written piece
        by piece.
      config, data: as in the meta of a step.
      progress: called with (bytes written, bytes in all).

    Raises:
      ConfigError: the target is not empty, or the disk too full.
      CheckpointError: a parameter that is not what was written.
    """
    described = step_folders.describe({"params": leaves})
    total = step_folders.nbytes(described)
    with atomic.folder(target, total) as partial:
        path = partial / "checkpoints" / "0"
        (path / "meta").mkdir(parents=True)
        kinds = {name: (np.dtype(x.dtype), x.shape) for name, x in leaves.items()}
        slots, done = tensor_files.create(path / step_folders.TENSORS, kinds), 0

        def written(slot: tensor_files.Slot, leaf) -> Iterator[np.ndarray]:
            nonlocal done
            at = 0
            for piece in lazy.pieces(leaf):
                slot.write(piece, at)
                at, done = at + piece.size, done + piece.nbytes
                progress(done, total)
                yield piece

        for name, leaf in leaves.items():
            hashed = fingerprint.of_pieces(leaf.dtype, written(slots[name], leaf))
            described[f"params/{name}"]["fingerprint"] = hashed.digits
        meta = step_folders.make_meta(
            0,
            described,
            format=step_folders.IMPORTED,
            config=json.loads(json.dumps(config)),
            data=data,
            metrics={},
        )
        atomic.write_json(path / "meta" / "data.json", meta)
        (path / step_folders.MARKER).touch()
        if tokenizer is not None:
            tokenizer.save(partial / "tokenizer")
        atomic.write_json(partial / "config.json", config)
    return run.open_run(target, network=network)


class Export(NamedTuple):
    """An opened run that is to become the folder or GGUF file `target`, by `plan`.

    `leaves` are `{path: array that is read when it is sliced}`, adapters merged.
    """

    run: run.Run
    leaves: dict[str, Any]
    plan: save.Plan | gguf_save.Plan
    target: pathlib.Path


def plan_export(
    path: str | pathlib.Path,
    target: str | pathlib.Path,
    *,
    step: int | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = save.MAX_SHARD_BYTES,
    network: bool = False,
) -> Export:
    """Plans how the run at `path` is written to the folder `target`; writes nothing.

    Args:
      path: of a run, or a folder of Hugging Face's.
      step: of its checkpoints; the newest if None.
      dtype, max_shard_bytes: as in `save.plan`.

    Raises:
      ConfigError: what folders of the family cannot hold, or a target with content.
      CheckpointError: no such run or step.
    """
    opened = run.open_run(path, step, network=network).at()
    c = opened.model.config
    leaves = layout.merge(opened.leaves(), c)
    plan = save.plan(
        leaves,
        opened.config["model"]["family"],
        c,
        opened.full_tokenizer,
        chat=opened.chats,
        bos=bool(opened.config.get("data", {}).get("bos", True)),
        token_ids=opened.config.get("token_ids"),
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
    )
    if c.score_heads:
        objective = opened.config.get("objective") or {}
        tok, chat = opened.full_tokenizer, opened.chats
        notes = tokenizer_files.score_notes(tok, chat, objective)
        plan = plan._replace(notes=(*plan.notes, *notes))
    target = pathlib.Path(target).absolute()
    atomic.check(target, plan.nbytes)
    return Export(opened, leaves, plan, target)


def plan_gguf(
    path: str | pathlib.Path,
    target: str | pathlib.Path,
    *,
    step: int | None = None,
    dtype: str | None = None,
    network: bool = False,
) -> Export:
    """Plans how the run at `path` is written to the file `target`; writes nothing.

    Args:
      path, step: as in `plan_export`.
      dtype: as in `gguf.save.plan`.

    Raises:
      ConfigError: what a GGUF file cannot hold, or a target that is there.
      CheckpointError: no such run or step.
    """
    opened, target = (
        run.open_run(path, step, network=network).at(),
        pathlib.Path(target),
    )
    c = opened.model.config
    leaves = layout.merge(opened.leaves(), c)
    plan = gguf_save.plan(
        leaves,
        opened.config["model"]["family"],
        c,
        opened.full_tokenizer,
        name=opened.path.stem,
        chat=opened.chats,
        bos=bool(opened.config.get("data", {}).get("bos", True)),
        dtype=dtype,
    )
    gguf_save.check(target.absolute(), plan.nbytes)
    return Export(opened, leaves, plan, target.absolute())


def export_run(
    export: Export, progress: Progress = lambda done, total: None
) -> pathlib.Path:
    """Writes what was planned, all of it or nothing; returns its path.

    Raises:
      ConfigError: the target is no longer empty, or the disk too full.
      CheckpointError: a parameter that is not what was written.
    """
    writer = gguf_save if isinstance(export.plan, gguf_save.Plan) else save
    writer.write(export.plan, export.leaves, export.target, progress)
    return export.target


def export_adapters(
    opened: run.Run, target: str | pathlib.Path, base: str | None = None
) -> pathlib.Path:
    """Writes the adapters of a run as a folder for PEFT, all of it or nothing.

    Args:
      opened: a run of a model with adapters.
      target: made; must not have content.
      base: name or path of the folder of the model that they belong to; by default the
        one that the run started from, where that is such a folder.

    Raises:
      ConfigError: a run without adapters, or one that trained other parameters too; a
        target that is not empty.
    """
    c, leaves = opened.model.config, opened.leaves()
    if not any(name.endswith("/lora_a") for name in leaves):
        raise errors.ConfigError(
            f"{opened.path}: has no adapters (model.lora_rank is {c.lora_rank}); "
            "export the whole model"
        )
    trained = opened.config.get("trainable", ".*")
    others = [name for name in leaves if "/lora_" not in name]
    (matches,) = patterns.matching([trained], others, f"{opened.path}: trainable")
    if others := [name for name, match in zip(others, matches, strict=True) if match]:
        raise errors.ConfigError(
            f"{opened.path}: {errors.some(others)}: trained too, which a folder of "
            "adapters has no place for; export the whole model, merged"
        )
    tensors, settings = peft.write(leaves, opened.config["model"]["family"], c)
    settings["base_model_name_or_path"] = _base_of(opened) if base is None else base
    return peft.save(target, tensors, settings)


def _base_of(opened: run.Run) -> str | None:
    """The folder or repository that a run started from, if it still is that model."""
    settings, visited = opened.config, set()
    while (name := (settings.get("init") or {}).get("run")) not in (None, *visited):
        visited.add(name)
        path = pathlib.Path(name)
        if name.startswith(folders.HUB) or not (path / "checkpoints").is_dir():
            return name.removeprefix(folders.HUB)
        settings = step_folders.read_config(path)
        if imported := settings.get("imported"):
            return imported["from"].removeprefix(folders.HUB)
        if settings.get("trainable", ".*") == ".*":
            return None
    return None

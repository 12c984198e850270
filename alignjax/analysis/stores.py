# SPDX-License-Identifier: Apache-2.0
"""Where a run's steps are: in its workdir, or in what others wrote, as step 0."""

from __future__ import annotations

import functools
import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from alignjax import errors, trees, types
from alignjax.checkpoint import step_folders
from alignjax.data.tokenizers import base
from alignjax.gguf import opening as gguf
from alignjax.huggingface import folder as folders
from alignjax.models import decoder
from alignjax.storage import filenames, fingerprint

T = TypeVar("T")
log = logging.getLogger(__name__)


class Step(NamedTuple):
    """One step that is complete.

    Attributes:
      path: of its directory.
      meta: config, data, versions, metrics and leaves, as JSON; see `Run.meta`.
      read: (item, names or None for all) -> `{name: verified numpy array}`.
      leaves: (item) -> `{name: leaf that is read when it is sliced}`; of the
        parameters where no item is named.
      fingerprints: () -> `{name: hexadecimal digits}` of the parameters.
    """

    path: pathlib.Path
    meta: dict
    read: Callable[..., dict[str, Any]]
    leaves: Callable[[], dict[str, Any]]
    fingerprints: Callable[[], dict[str, str]]


class Store(NamedTuple):
    """What holds the steps of a run; it is read and never written.

    Attributes:
      path: of the workdir or folder.
      steps: () -> the complete steps, ascending; looked up at each call.
      config: (step or None) -> the resolved config of a step, or of the run.
      tokenizer: () -> the tokenizer, with its start token, or None; DataError where it
        is damaged.
      from_step: (step or None, function of a `Step`) -> its value for that step, or
        for the newest for which it raises no `BrokenStep`.
    """

    path: pathlib.Path
    steps: Callable[[], list[int]]
    config: Callable[[int | None], dict]
    tokenizer: Callable[[], base.Tokenizer | None]
    from_step: Callable[[int | None, Callable[[Step], T]], T]


def find(path: str | pathlib.Path, network: bool) -> Store:
    """The store of the run in a directory, of a Hugging Face folder or of a GGUF file.

    Raises:
      CheckpointError, ConfigError: as `run.open_run`.
    """
    path, name = filenames.expanded(path).absolute(), str(path)
    if gguf.is_file(name):
        return hugging_face(gguf.open_file(name))
    try:
        path.exists()
    except OSError as error:  # such as a name that is too long
        problem = f"{name!r:.80} is no run: {error.strerror}; check the path"
        raise errors.CheckpointError(problem) from error
    if not name.strip():  # which would be the current folder
        raise errors.CheckpointError(f"{name!r} is no path of a run; name its folder")
    if name.startswith(folders.HUB) or folders.is_folder(path):
        return hugging_face(folders.open_folder(folders.find(name, network)))
    if not ((path / "checkpoints").is_dir() or (path / "config.json").is_file()):
        inside = any((above / "config.json").is_file() for above in path.parents)
        hint = "; a directory above it is: open that, and name the step"
        raise errors.CheckpointError(
            f"{path} is no run: it has neither config.json nor checkpoints/"
            f"{hint if inside else ''}"
        )
    return workdir(path)


def workdir(path: pathlib.Path) -> Store:
    """The store of a workdir, whose run may still train.

    Raises, from `config` and `from_step`:
      CheckpointError: there is no such step, or none that is sound.
    """
    directory = path / "checkpoints"
    steps = lambda: step_folders.complete_steps(directory)

    def config(step: int | None) -> dict:
        file = path / "config.json"
        if step is None and file.is_file():
            try:
                return step_folders.read_config(path)
            except errors.DataError as error:
                log.warning("%s; taking the config of a step", error)
        return from_step(step, lambda step: step.meta)["config"]

    def from_step(step: int | None, read: Callable[[Step], T]) -> T:
        if step is not None:
            committed = step_folders.all_steps(directory)
            if step not in committed:
                raise errors.CheckpointError(
                    f"{path} has no step {step}; it has {steps()}"
                )
            if not committed[step]:
                raise errors.CheckpointError(
                    f"step {step} of {path} is incomplete; complete are {steps()}"
                )
            return read_step(step, read)
        faults = []
        for candidate in reversed(steps()):
            try:
                return read_step(candidate, read)
            except errors.BrokenStep as error:
                log.warning("trying the step before, since %s", error)
                faults.append(str(error))
        raise errors.CheckpointError(
            f"{path} has no sound checkpoint: {'; '.join(faults) or 'none yet'}"
        )

    def read_step(step: int, read: Callable[[Step], T]) -> T:
        place = directory / str(step)
        try:
            return read(_step(place))
        except errors.BrokenStep as error:
            if not place.is_dir():
                deleted = f"{place} was deleted while it was read, by its run"
                raise errors.BrokenStep(deleted) from error
            raise

    folder = path / "tokenizer"
    tokenizer = lambda: base.load(folder) if folder.is_dir() else None
    return Store(path, steps, config, tokenizer, from_step)


def _step(path: pathlib.Path) -> Step:
    meta = step_folders.read_meta(path)
    leaves = step_folders.leaves_of(meta, "params")
    return Step(
        path,
        meta,
        read=functools.partial(step_folders.read_numpy, path, meta),
        leaves=functools.partial(step_folders.lazy_leaves, path, meta),
        fingerprints=lambda: {n: leaf["fingerprint"] for n, leaf in leaves.items()},
    )


def read_average(stored: Step) -> dict[str, Any]:
    """The moving average of the parameters, `TrainState.extra["average"]`.

    Raises:
      CheckpointError: the run kept none.
    """
    train = step_folders.leaves_of(stored.meta, "train")
    names = {}
    for parameter in step_folders.leaves_of(stored.meta, "params"):
        averages = [name for name in train if name.endswith(f"/average/{parameter}")]
        if len(averages) != 1:
            raise errors.CheckpointError(
                f"{stored.path}: no average of {parameter} was kept; see optimizer.ema"
            )
        names[averages[0]] = parameter
    leaves = stored.read("train", list(names))
    return {names[name]: leaf for name, leaf in leaves.items()}


def check_params(path: pathlib.Path, params: types.Params, model: types.Model) -> None:
    """Raises CheckpointError for parameters that are not those of the model."""
    shapes = lambda tree: {k: x.shape for k, x in trees.named_leaves(tree).items()}
    stored, described = shapes(params), shapes(decoder.abstract(model))
    faults = [
        f"{name}: {stored.get(name)} stored, {described.get(name)} there"
        for name in sorted({*stored, *described})
        if stored.get(name) != described.get(name)
    ]
    if faults:
        raise errors.CheckpointError(
            f"{path}: its parameters are not of the model in config.json: "
            f"{errors.some(faults, '; ')}; mend the section model there"
        )


def hugging_face(folder: folders.Folder) -> Store:
    """The store of a Hugging Face folder, or of a GGUF file: one step, number 0.

    Its `meta` has no fingerprints; for `fingerprints` every tensor is read, once.
    """
    leaves = dict(folder.leaves)
    # This renders a chat template, which a look at the weights does not need.
    config = functools.cache(lambda: folder_config(folder))
    described = step_folders.describe({"params": leaves})

    def read(item: str, names=None) -> dict[str, Any]:
        names = (leaves if item == "params" else ()) if names is None else names
        return {name: leaves[name][...] for name in names}

    @functools.cache
    def fingerprints() -> dict[str, str]:
        return {name: fingerprint.of_array(x).digits for name, x in leaves.items()}

    @functools.cache
    def only() -> Step:
        meta = {"step": 0, "leaves": described, "config": config()}
        meta |= {"data": {}, "metrics": {}, "versions": {}}
        own = lambda item="params": dict(leaves) if item == "params" else {}
        return Step(folder.path, meta, read, own, fingerprints)

    def from_step(step: int | None, read: Callable[[Step], T]) -> T:
        if step not in (None, 0):
            raise errors.CheckpointError(
                f"{folder.path} has no step {step}; it has [0]"
            )
        return read(only())

    steps, tokenizer = lambda: [0], lambda: folder.tokenizer
    return Store(folder.path, steps, lambda step: config(), tokenizer, from_step)


def folder_config(folder: folders.Folder) -> dict:
    """The config of a run that ended with what a Hugging Face folder has."""
    config = {
        "model": folder.section,
        "data": {"chat": "tokenizer" if folder.chat else None, "bos": folder.bos},
    }
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {k: folder.json[k] for k in names if folder.json.get(k) is not None}
    if ids:
        config["token_ids"] = ids  # for an export, where no tokenizer tells
    if folder.tokenizer is not None:
        kind = folder.tokenizer.kind
        config["tokenizer"] = {"kind": kind, "path": str(folder.path)}
    return json.loads(json.dumps(config))  # tuples become lists

# SPDX-License-Identifier: Apache-2.0
"""One step on disk: how it is written, read and verified. All of Orbax is here.

    workdir/checkpoints/<step>/
      params/     the parameters, as a tree of plain dicts
      train/      step, opt_state and extra of the TrainState, likewise
      meta/       JSON: config, data, versions, and each leaf's shape and fingerprint
      commit_success.txt

or, of a step that was imported and not trained, of format 2, `params.safetensors`
instead of both trees: a tensor for each leaf, in the order of meta.

Trees are stored under the names of `trees.named_leaves`, as nested dicts with string
keys: what optax calls its containers, and how it nests empty ones, is not on disk.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import os
import pathlib
import re
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from alignjax import errors, trees, types
from alignjax.checkpoint import chunks
from alignjax.storage import fingerprint, json_files, lazy, tensor_files
from alignjax.tracking import versions

FORMAT = 1
IMPORTED = 2  # of a step whose parameters are in one safetensors file
TENSORS = "params.safetensors"
MARKER = "commit_success.txt"
TEMPORARY = ".orbax-checkpoint-tmp"
DELETED = ".deleted"
_STEP = re.compile("0|[1-9][0-9]{0,8}")
_LEFTOVER = re.compile(rf"([0-9]{{1,9}})({re.escape(DELETED)}|{TEMPORARY}.*)")
# What a config has to be for those who open a run; further fields may be anything.
_CONFIG = dict.fromkeys(
    """data objective optimizer schedule checkpoint evaluation sample log tokenizer init
    reference mesh sharding_rules""".split(),
    dict | None,
)
_CONFIG |= {"model": dict, "trainable": str | None, "steps": int | None}
_CONFIG |= {"data.chat": str | None, "objective.name": str | None}
_CONFIG |= {"init.run": str | None, "init.step": int | None}
_META = {"config": dict, "data": dict, "leaves": dict, "metrics": dict}
_META |= {"versions": dict}


def complete_steps(directory: pathlib.Path) -> list[int]:
    """The steps in `directory` that were committed, ascending."""
    return [step for step, complete in all_steps(directory).items() if complete]


def all_steps(directory: pathlib.Path) -> dict[int, bool]:
    """`{step: whether it was committed}`, ascending.

    A directory without the marker is what an interrupted copy leaves.
    """
    if not directory.is_dir():
        return {}
    names = (path.name for path in directory.iterdir())
    steps = sorted(int(name) for name in names if _STEP.fullmatch(name))
    return {s: (directory / str(s) / MARKER).is_file() for s in steps}


def read_config(workdir: pathlib.Path) -> dict:
    """The config of the run in `workdir`; DataError where its file is none."""
    file = workdir / "config.json"
    config = json_files.read(file, dict, allow_nan=True)
    if fault := _fault(config, _CONFIG):
        raise errors.DataError(f"{file}: {fault}")
    return config


def _fault(value: dict, kinds: Mapping[str, Any]) -> str | None:
    """The first field, by dotted path, that is not of its kind."""
    for path, kind in kinds.items():
        field = value
        for name in path.split("."):
            field = (field or {}).get(name)
        if not isinstance(field, kind):
            kind = getattr(kind, "__name__", kind)
            return f"{path}: {field!r:.60} is {type(field).__name__}, not {kind}"
    return None


def as_items(state: types.TrainState) -> dict[str, dict[str, Any]]:
    """`{item: {name: leaf}}` for what a step stores.

    Raises:
      ValueError: a leaf that has no name of its own on disk, or nothing to store.
    """
    fields = ("step", "opt_state", "extra")
    train = {name: getattr(state, name) for name in fields}
    items = {"params": state.params, "train": train}
    for item, tree in items.items():
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            parts = [trees.path_name((key,)) for key in path]
            name = f"{item}/{'/'.join(parts)}"
            # Orbax joins keys by dots and lets two leaves share one name.
            if any(not part or set(part) & set("./\\\0") for part in parts):
                raise ValueError(f"{name!r}: a key may not be empty or hold '.' or '/'")
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                raise ValueError(f"{name}: store jax.random.key_data of a key")
            if leaf.size == 0:
                raise ValueError(f"{name}: shape {leaf.shape} holds nothing to store")
    return {item: trees.named_leaves(tree) for item, tree in items.items()}


def as_state(
    items: Mapping[str, Mapping[str, Any]], like: types.TrainState
) -> types.TrainState:
    """Undoes `as_items`, with the containers of `like`."""

    def fill(tree, prefix, named):
        names = [f"{prefix}{name}" for name in trees.named_leaves(tree)]
        return jax.tree.unflatten(jax.tree.structure(tree), [named[n] for n in names])

    return types.TrainState(
        step=items["train"]["step"],
        params=fill(like.params, "", items["params"]),
        opt_state=fill(like.opt_state, "opt_state/", items["train"]),
        extra=fill(like.extra, "extra/", items["train"]),
    )


def renamed_leaves(leaves: Iterable[str]) -> dict[str, str]:
    """`{name in an older step: name now}` of the `leaves` in its meta that differ.

    Averaged weights and a moving reference once were members of the optimizer's chain:
    the average its last one, the reference the second of two, after all the others.
    """
    rules = {"train/opt_state/[0-9]+/average/": "train/extra/average/"}
    if any(name.startswith("train/opt_state/1/reference/") for name in leaves):
        rules = {
            "train/opt_state/1/updates$": "train/extra/reference/updates",
            "train/opt_state/1/reference/": "train/extra/reference/params/",
            "train/opt_state/0/": "train/opt_state/",
        } | rules
    names = {}
    for old in leaves:
        new = old
        for pattern, start in rules.items():
            new = re.sub(f"^{pattern}", start, new)
        if new != old:
            names[old] = new
    return names


def rename(items: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> dict:
    """`items` with the leaves called otherwise that `names` has, by `item/name`."""
    new = lambda item, name: names.get(f"{item}/{name}", f"{item}/{name}")
    return {
        item: {new(item, name).partition("/")[2]: x for name, x in named.items()}
        for item, named in items.items()
    }


def describe(items: Mapping[str, Mapping[str, Any]]) -> dict[str, dict]:
    """`{item/name: {shape, dtype}}` of arrays, abstract or not."""
    return {
        f"{item}/{name}": {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        for item, named in items.items()
        for name, leaf in named.items()
    }


def make_meta(
    step: int, leaves: dict[str, dict], *, format: int = FORMAT, **fields
) -> dict:
    """The JSON beside a step, with a hash of itself: fingerprints too may rot."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    meta = {
        "format": format,
        "step": step,
        "leaves": leaves,
        "versions": versions.of(packages),
        "devices": {"count": jax.device_count(), "processes": jax.process_count()},
        **fields,
    }
    return {**meta, "sha256": json_files.compact_digest(meta)}


def write(path: pathlib.Path, items, meta: dict, *, timeout: float):
    """Starts to write a step; what comes back has `result()`, which may raise.

    Every process calls it. The arrays may be donated as soon as it returns. The step
    appears under its own name only when it is whole.
    """
    content = {item: trees.nest(named) for item, named in items.items()}
    with _context(timeout):
        return ocp.save_checkpointables_async(path, {**content, "meta": meta})


def read_meta(path: pathlib.Path) -> dict:
    """The JSON beside a step. Raises BrokenStep."""
    if not (path / MARKER).is_file():
        raise errors.BrokenStep(f"{path} is incomplete: no {MARKER}")
    file = path / "meta" / "data.json"
    meta = json_files.read(file, dict, error=errors.BrokenStep, allow_nan=True)
    content = {key: value for key, value in meta.items() if key != "sha256"}
    if meta.get("sha256") != json_files.compact_digest(content):
        raise errors.BrokenStep(f"{path}: meta does not match its own hash")
    if fault := _fault(meta, {"step": int, "format": int}):
        raise errors.BrokenStep(f"{file}: {fault}")
    if str(meta["step"]) != path.name:
        raise errors.BrokenStep(f"{path} was renamed: it is of step {meta['step']}")
    if meta["format"] > IMPORTED:
        raise errors.CheckpointError(
            f"{path}: format {meta['format']} is newer than this code, which reads "
            f"up to {IMPORTED}; update alignjax"
        )
    if (fault := _fault(meta, _META) or _fault(meta["config"], _CONFIG)) is None:
        bad = [name for name, leaf in meta["leaves"].items() if not _is_leaf(leaf)]
        if bad or not leaves_of(meta, "params"):
            fault = f"leaves: {errors.some(bad) or 'no params'}: not described"
    if fault:
        raise errors.BrokenStep(f"{file}: {fault}")
    return meta


def _is_leaf(leaf: Any) -> bool:
    """Whether it has a dtype, a shape and a fingerprint."""
    try:
        jax.numpy.dtype(leaf["dtype"])
        sizes = all(type(size) is int and size >= 0 for size in leaf["shape"])
        return sizes and isinstance(leaf["fingerprint"], str)
    except (KeyError, TypeError):
        return False


def read(path: pathlib.Path, abstract: Mapping[str, Mapping[str, Any]]) -> dict:
    """`{item: {name: array}}` for the named leaves of `abstract`, unverified.

    A leaf of `abstract` that has a sharding comes back as a jax array with it, a numpy
    array as a numpy array; Orbax casts silently, so dtypes are checked before by
    whoever asks. Every process calls it. Raises BrokenStep.
    """
    trees_of_items = {item: trees.nest(named) for item, named in abstract.items()}
    _check_files(path)
    damage = None
    with _without_noise():
        try:
            with _context(timeout=600, partial=True):
                loaded = ocp.load_checkpointables(path, trees_of_items)
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # says nothing of the file
        except Exception as error:  # whatever a damaged file makes a parser raise
            damage = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        if damage is not None:
            gc.collect(1)  # now, what Orbax left of the load: young objects
    if damage is not None:
        raise errors.BrokenStep(f"{path}: a file is missing or damaged ({damage})")
    items = {item: trees.named_leaves(loaded[item]) for item in abstract}
    for item, named in items.items():
        for name, leaf in named.items():
            # A partial load leaves an absent leaf as it is in `abstract`.
            if not isinstance(leaf, (jax.Array, np.ndarray)):
                raise errors.BrokenStep(f"{path}: {item}/{name} is missing")
            if leaf.shape != (shape := abstract[item][name].shape):
                problem = f"{item}/{name} is {leaf.shape}, where meta has {shape}"
                raise errors.BrokenStep(f"{path}: {problem}")
    return items


def _check_files(path: pathlib.Path, size: int = 0) -> None:
    """Raises BrokenStep for a step that Orbax would not come to an end with.

    It waits for a FIFO, and makes an array as large as it is told, whatever is there.
    """
    on_disk = 0
    for file in path.rglob("*"):
        if file.is_file():
            on_disk += file.stat().st_size
        elif not file.is_dir():
            raise errors.BrokenStep(f"{path}: {file} is no regular file")
    if size > 2**30 + 1000 * on_disk:  # zeros take little space
        raise errors.BrokenStep(
            f"{path}: has {on_disk:,} bytes, where its meta describes {size:,}"
        )


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Keeps the reads of a load that failed from printing tracebacks of their own."""
    log = logging.getLogger("asyncio")
    before = log.level
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisablehook
    log.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            yield
        finally:
            log.setLevel(before)


def _unraisablehook(unraisable) -> None:
    # Threads of a load that has failed come to this whenever they end.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def verify(
    path: pathlib.Path, meta: dict, prints: Mapping[str, fingerprint.Fingerprint]
) -> None:
    """Raises BrokenStep unless every leaf in `prints` has the fingerprint in `meta`."""
    leaves = meta["leaves"]
    bad = [n for n, p in prints.items() if p.digits != leaves[n]["fingerprint"]]
    if bad:
        problem = f"not what was written, by its fingerprint: {errors.some(bad)}"
        raise errors.BrokenStep(f"{path}: {problem}")


def read_numpy(path: pathlib.Path, meta: dict, item: str, names=None) -> dict:
    """`{name: numpy array}` of an item, all of it or `names`, verified leaf by leaf.

    Needs no more devices than the one that jax always has. Raises BrokenStep.
    """
    lazily = lazy_leaves(path, meta, item)
    return {name: lazily[name][...] for name in (lazily if names is None else names)}


def _tensors(path: pathlib.Path, meta: dict) -> dict[str, tensor_files.Tensor]:
    """The parameters in a safetensors file, by name. Raises BrokenStep."""
    try:
        tensors = tensor_files.open_file(path / TENSORS)
    except errors.ConfigError as error:
        damage = f"{path}: a file is missing or damaged ({error})"
        raise errors.BrokenStep(damage) from error
    described = describe({"params": tensors})
    for name, leaf in meta["leaves"].items():
        if described.get(name) != {key: leaf[key] for key in ("shape", "dtype")}:
            raise errors.BrokenStep(f"{path}: {name} is missing, or of another shape")
    return tensors


def leaves_of(meta: dict, item: str) -> dict[str, dict]:
    """`{name: shape, dtype and fingerprint}` of an item, in the order of the tree."""
    leaves, prefix = meta["leaves"].items(), f"{item}/"
    return {n.removeprefix(prefix): x for n, x in leaves if n.startswith(prefix)}


def nbytes(leaves: Mapping[str, dict]) -> int:
    """Bytes of the arrays that `leaves`, as in meta, describes."""
    size = lambda x: jax.numpy.dtype(x["dtype"]).itemsize * math.prod(x["shape"])
    return sum(map(size, leaves.values()))


def remove(path: pathlib.Path) -> None:
    """Deletes a step. It ceases to be one at once, however long its files take."""
    grave = path.with_name(path.name + DELETED)
    os.rename(path, grave)
    shutil.rmtree(grave)


def leftover_step(path: pathlib.Path) -> int | None:
    """The step that an interrupted save or deletion left; None if it is no such."""
    match = _LEFTOVER.fullmatch(path.name)
    return int(match[1]) if match else None


def remove_leftovers(directory: pathlib.Path) -> list[str]:
    """Deletes what an interrupted save or deletion left; returns the names."""
    left = [p for p in directory.iterdir() if leftover_step(p) is not None]
    for path in left:
        folder = path.is_dir() and not path.is_symlink()
        shutil.rmtree(path) if folder else path.unlink()
    return [path.name for path in left]


def _context(timeout: float, partial: bool = False) -> ocp.Context:
    registry = ocp.handlers.local_registry()
    # Without a name of its own a dict of JSON would be stored as a tree of arrays.
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="meta")
    context = ocp.Context()
    context.checkpointables.registry = registry
    # Its default of 20 minutes is how long one failed process holds up the others.
    context.asynchronous.timeout_secs = int(timeout)
    context.pytree.loading.partial_load = partial
    # Weights hardly compress, and trying would take most of the time of a save.
    context.array.saving.use_compression = False
    # Whoever reads states where the arrays go; the file would only record it.
    context.array.saving.enable_write_sharding_file = False
    context.array.saving.scoped_storage_options_creator = chunks.options
    return context


def lazy_leaves(
    path: pathlib.Path, meta: dict, item: str = "params"
) -> dict[str, lazy.LazyArray]:
    """`{name: leaf that is read when it is sliced}` of an item of a step, verified.

    A leaf is verified when it is first read, piece by piece. Of a large one that is in
    chunks only those that a slice touches are read; of the others the last is kept.

    Raises:
      BrokenStep: here, or by slices.
    """
    leaves, last = leaves_of(meta, item), {}
    if meta["format"] == IMPORTED and item == "params":
        stored = _tensors(path, meta)
    else:
        _check_files(path, nbytes(leaves))
        stored = {n: chunks.stored(path / item, n, x) for n, x in leaves.items()}
    verified: set[str] = set()

    def hashed(name: str) -> fingerprint.Fingerprint:
        array = stored[name]
        if not hasattr(array, "chunk"):
            return fingerprint.of_pieces(array.dtype, lazy.pieces(array, chunks.BYTES))
        first = lambda box: tuple(part.start for part in box)
        boxes = ((first(box), array[box]) for box in lazy.boxes(array))
        return fingerprint.of_boxes(array.shape, boxes)

    def whole(name: str) -> np.ndarray:
        array = stored[name][...]
        digits = fingerprint.of_pieces(array.dtype, [array])
        verify(path, meta, {f"{item}/{name}": digits})
        return array

    def read(name: str, index) -> np.ndarray:
        if chunks.is_whole(stored[name]):
            if name not in last:
                last.clear()
                last[name] = whole(name)
            return last[name][index]
        if name not in verified and all(i == slice(None) for i in index):
            return whole(name)  # read once, and not once more for the fingerprint
        if name not in verified:
            verify(path, meta, {f"{item}/{name}": hashed(name)})
            verified.add(name)
        return stored[name][index]

    def chunk(name: str) -> tuple[int, ...] | None:
        return None if chunks.is_whole(stored[name]) else stored[name].chunk()

    in_chunks = lambda name: hasattr(stored[name], "chunk")
    return {
        name: lazy.LazyArray(
            leaf["shape"],
            leaf["dtype"],
            functools.partial(read, name),
            chunk=functools.partial(chunk, name) if in_chunks(name) else None,
        )
        for name, leaf in leaves.items()
    }

# SPDX-License-Identifier: Apache-2.0
"""A model written as a Hugging Face folder, one tensor at a time.

The sizes of all tensors are known beforehand, so the files are laid out first and then
filled in the order in which parameters are read.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax import errors
from alignjax.data.tokenizers.tokenizer_files import TEMPLATE_FOLDER
from alignjax.huggingface import config_json, folder, layout, tokenizer_files
from alignjax.models import decoder_config, families
from alignjax.storage import atomic, filenames, tensor_files

DTYPES = ("float32", "bfloat16", "float16")
BLOCK_BYTES = 64 * 2**20  # of a tensor that are in memory, where it can be cut
MAX_SHARD_BYTES = 5 * 10**9


class Plan(NamedTuple):
    """The files of an export.

    Attributes:
      places: the tensors, in the order of the files.
      sizes: `{name of a tensor: bytes}`.
      dtypes: `{name of a tensor: dtype}`.
      files: `{file name: names of its tensors}`.
      json: its config.json.
      extra: `{file name: bytes}` beside the weights.
      notes: for the user, a sentence each.
    """

    places: tuple[layout.Place, ...]
    sizes: Mapping[str, int]
    dtypes: Mapping[str, np.dtype]
    files: Mapping[str, tuple[str, ...]]
    json: dict
    extra: Mapping[str, bytes]
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return sum(self.sizes.values())


def plan(
    leaves: Mapping[str, Any],
    family: str,
    c: decoder_config.DecoderConfig,
    tok=None,
    *,
    chat: str | None = None,
    bos: bool = False,
    token_ids: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Plan:
    """The files that `write` would write; nothing is written.

    Args:
      leaves: `{path: array, or leaf that is read when it is sliced}`, without adapters.
      family: of the model, by name.
      c: of the model.
      tok: its tokenizer, or None.
      chat: the format of its dialogues, as in `data.chat`.
      bos: whether its documents begin with the start token.
      token_ids: keys of config.json about tokens, for a model without a tokenizer.
      dtype: one of DTYPES; None is that of each parameter.
      max_shard_bytes: of tensors in a file; a larger tensor has a file of its own.

    Raises:
      ConfigError: fields that the family's config.json cannot express, or an unknown
        dtype or size.
    """
    if dtype is not None and dtype not in DTYPES:
        raise errors.ConfigError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    if max_shard_bytes < 1:
        raise errors.ConfigError(f"max_shard_size: {max_shard_bytes} is not positive")
    notes, heads = [], c.score_heads
    if heads and "head" in leaves:
        notes.append("the head for tokens is left out: a model for scores has none")
        leaves = {name: leaf for name, leaf in leaves.items() if name != "head"}
    # Where there is no head for tokens it is as if it were tied.
    tied = c.tied or bool(heads)
    c = dataclasses.replace(c.without_extras(), score_heads=heads, tied=tied)
    record = families.find(family)
    shapes = layout.shapes(c)
    check_leaves(leaves, shapes)
    places = tuple(layout.places(layout.table(record, c), shapes))
    dtypes = {place.name: _dtype(place, leaves, dtype) for place in places}
    names = {str(d) for d in dtypes.values()}
    main = dtype or (names.pop() if len(names) == 1 else "float32")
    hf = config_json.write(c, record)
    # transformers 4 reads the first, 5 the second.
    hf |= {"torch_dtype": main, "dtype": main}
    if heads:
        hf |= _score_keys(hf["architectures"][0], heads)
    beside = tokenizer_files.files(tok, c, chat=chat, bos=bos)
    keys = {k: v for k, v in beside.keys.items() if v is not None}
    hf |= {**(token_ids or {}), **keys}
    notes += beside.notes
    sizes = {p.name: math.prod(p.shape) * dtypes[p.name].itemsize for p in places}
    shards = _files(sizes, max_shard_bytes)
    return Plan(places, sizes, dtypes, shards, hf, beside.files, tuple(notes))


def write(
    plan: Plan,
    leaves: Mapping[str, Any],
    target: str | pathlib.Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes the planned files to the folder `target`, all of them or nothing.

    Each parameter is read once and in slices, so that of leaves that are read when they
    are sliced no more is in memory than one tensor, twice.

    Args:
      progress: called with (bytes written, bytes in all) after each tensor.

    Raises:
      ConfigError: the folder is not empty, the disk too full, or the name of a file is
        not plain.
    """
    names = [name.removeprefix(f"{TEMPLATE_FOLDER}/") for name in plan.extra]
    if problems := filenames.not_plain([*plan.files, *names]):
        raise errors.ConfigError(
            f"{target}: {', '.join(problems)} is no plain name of a file, so that it "
            "might be written elsewhere; nothing is written"
        )
    with atomic.folder(target, plan.nbytes) as path:
        slots = {}
        by_name = {place.name: place for place in plan.places}
        for name, tensors in plan.files.items():
            kinds = {n: (plan.dtypes[n], by_name[n].shape) for n in tensors}
            slots |= tensor_files.create(path / name, kinds)
        done = 0
        for place in by_leaf(plan.places):
            dtype = plan.dtypes[place.name]
            for first, block in place.blocks(BLOCK_BYTES // dtype.itemsize):
                pieces = [_read(leaves[name], index, dtype) for name, index in block]
                slots[place.name].write(place.join(pieces), first)
            done += plan.sizes[place.name]
            progress(done, plan.nbytes)
        if len(plan.files) > 1:
            atomic.write_json(path / folder.INDEX, _index(plan))
        atomic.write_json(path / "config.json", plan.json)
        for name, content in plan.extra.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_bytes(content)


def parse_size(text: str) -> int:
    """Bytes of `5GB`, `500MB` or `2GiB`. Raises ConfigError."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    units |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    number = text.strip().rstrip("BKMGTIbkmgti")
    unit = text.strip()[len(number) :].upper()
    try:
        return int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError) as error:
        raise errors.ConfigError(
            f"max_shard_size: {text!r} is no size such as 5GB or 500MB"
        ) from error


def check_leaves(leaves, shapes) -> None:
    actual = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    problems = [
        f"export: {name} is {actual.get(name)} in the run, {shapes.get(name)} in a "
        "folder of this model"
        for name in sorted({*actual, *shapes})
        if actual.get(name) != shapes.get(name)
    ]
    if problems:
        raise errors.ConfigError(problems)


def _dtype(place: layout.Place, leaves, dtype: str | None) -> np.dtype:
    if dtype is not None:
        return jax.numpy.dtype(dtype)
    parts = [leaves[part.path] for part in place.parts]
    dtypes = [np.dtype(getattr(leaf, "stored", leaf.dtype)) for leaf in parts]
    return np.dtype(functools.reduce(jax.numpy.promote_types, dtypes))


def _read(leaf, index: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A piece of a leaf. Raises ConfigError where float16 cannot hold it."""
    piece = np.asarray(leaf[index])
    with np.errstate(over="ignore"):  # looked for below
        cast = piece.astype(dtype, copy=False)
    if dtype == np.float16 and cast is not piece and np.isinf(cast).any():
        raise errors.ConfigError(
            "dtype: float16 ends at 65504, and some weight is larger; take bfloat16"
        )
    return cast


def by_leaf(places) -> list[layout.Place]:
    """The places in an order that reads one whole parameter after the other."""
    groups: dict[tuple[str, ...], list[layout.Place]] = {}
    for place in places:
        groups.setdefault(tuple(p.path for p in place.parts), []).append(place)
    return [place for group in groups.values() for place in group]


def _files(sizes: Mapping[str, int], most: int) -> dict[str, tuple[str, ...]]:
    groups: list[list[str]] = [[]]
    total = 0
    for name, size in sizes.items():
        if groups[-1] and total + size > most:
            groups.append([])
            total = 0
        groups[-1].append(name)
        total += size
    if len(groups) == 1:
        return {folder.SINGLE: tuple(groups[0])}
    name = lambda i: f"model-{i:05d}-of-{len(groups):05d}.safetensors"
    return {name(i): tuple(group) for i, group in enumerate(groups, start=1)}


def _index(plan: Plan) -> dict:
    weight_map = {n: file for file, tensors in plan.files.items() for n in tensors}
    count = sum(math.prod(place.shape) for place in plan.places)
    metadata = {"total_parameters": count, "total_size": plan.nbytes}
    return {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}


def _score_keys(architecture: str, heads: int) -> dict:
    """Keys of config.json of a model whose head gives scores."""
    # The one family whose class for scores is called after its text model.
    stem = {"Gemma3ForCausalLM": "Gemma3Text"}.get(architecture)
    for ending in folder.HEADS:
        if stem is None and architecture.endswith(ending):
            stem = architecture.removesuffix(ending)
    return {
        "architectures": [f"{stem}{folder.SCORES}"],
        "id2label": {str(i): f"LABEL_{i}" for i in range(heads)},
        "label2id": {f"LABEL_{i}": i for i in range(heads)},
        "num_labels": heads,
        "problem_type": "regression",
    }

# SPDX-License-Identifier: Apache-2.0
"""A model written as a Hugging Face folder, one tensor at a time.

The sizes of all tensors are known beforehand, so the files are laid out first and then
filled in whatever order our parameters are read.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax import errors
from alignjax.huggingface import folder, layout, tokenizer_files
from alignjax.models import decoder_config, families, names, published
from alignjax.storage import atomic, filenames, tensor_files

DTYPES = ("float32", "bfloat16", "float16")
BLOCK_BYTES = 64 * 2**20  # of a tensor that are in memory, where it can be cut
MAX_SHARD_BYTES = 5 * 10**9


class Plan(NamedTuple):
    """What an export will be.

    Attributes:
      places: the tensors, in the order of the files.
      dtypes: `{name of a tensor: dtype}`.
      files: `{file name: names of its tensors}`.
      json: its config.json.
      extra: `{file name: bytes}` of what is beside the weights.
      notes: what somebody should know of it, a sentence each.
    """

    places: tuple[layout.Place, ...]
    dtypes: Mapping[str, np.dtype]
    files: Mapping[str, tuple[str, ...]]
    json: dict
    extra: Mapping[str, bytes]
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return sum(self.size(place) for place in self.places)

    def size(self, place: layout.Place) -> int:
        return math.prod(place.shape) * self.dtypes[place.name].itemsize


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
    """How a model would be written; nothing is.

    Args:
      leaves: `{path: array, or what is read when it is sliced}`, without adapters.
      family: a module of `models`, by name.
      c: settings of the model.
      tok: its `data.tokenizer.Tokenizer`, or None.
      chat: the format of its dialogues, as in `data.chat`.
      bos: whether its documents begin with the start token.
      token_ids: fields of config.json about tokens, where `tok` does not tell.
      dtype: one of DTYPES; None keeps that of each parameter.
      max_shard_bytes: of tensors in a file; a tensor that is larger has its own.

    Raises:
      ConfigError: what the family's folders cannot say, or options that make no sense.
    """
    if dtype is not None and dtype not in DTYPES:
        raise errors.ConfigError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    if max_shard_bytes < 1:
        raise errors.ConfigError(f"max_shard_size: {max_shard_bytes} is not positive")
    notes = []
    if c.score_heads and "head" in leaves:
        notes.append("the head for tokens is left out: a model for scores has none")
        leaves = {name: leaf for name, leaf in leaves.items() if name != "head"}
    extras = published.without_extras() | {"score_heads": c.score_heads}
    # Where there is no head for tokens it is as if it were tied.
    c = dataclasses.replace(c, **extras, tied=c.tied or bool(c.score_heads))
    module = families.module(family)
    shapes = layout.shapes(c)
    _check_leaves(leaves, shapes)
    places = tuple(layout.places(layout.table(module, c), shapes))
    dtypes = {place.name: _dtype(place, leaves, dtype) for place in places}
    used = {str(d) for d in dtypes.values()}
    found = names.config_json(module, c)
    kept = dtype or (used.pop() if len(used) == 1 else "float32")
    # transformers 4 reads the first, 5 the second.
    found |= {"torch_dtype": kept, "dtype": kept}
    if c.score_heads:
        found |= _of_scores(found, c)
    extra, more, said = tokenizer_files.files(tok, c, chat=chat, bos=bos)
    notes += said
    more = {k: v for k, v in more.items() if v is not None}
    found |= {**(token_ids or {}), **more}
    made = Plan(places, dtypes, {}, found, extra, tuple(notes))
    return made._replace(files=_files(made, max_shard_bytes))


def write(
    made: Plan,
    leaves: Mapping[str, Any],
    target: str | pathlib.Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes what was planned to the folder `target`, all of it or nothing.

    Each parameter is read once and in slices, so that of arrays that are read when they
    are sliced no more is in memory than one tensor, twice.

    Args:
      progress: told of (bytes written, bytes in all) after each tensor.

    Raises:
      ConfigError: the folder is not empty, the disk too full, or the name of a file is
        not plain.
    """
    if problems := filenames.not_plain([*made.files, *made.extra]):
        raise errors.ConfigError(
            f"{target}: {', '.join(problems)} is no plain name of a file, so that it "
            "might be written elsewhere; nothing is written"
        )
    target, total = pathlib.Path(target), made.nbytes
    with atomic.folder(target, total) as path:
        slots = {}
        by_name = {place.name: place for place in made.places}
        for name, inside in made.files.items():
            described = {n: (made.dtypes[n], by_name[n].shape) for n in inside}
            slots |= tensor_files.create(path / name, described)
        done = 0
        for place in _by_leaf(made.places):
            dtype = made.dtypes[place.name]
            for at, block in place.blocks(BLOCK_BYTES // dtype.itemsize):
                pieces = [_read(leaves[name], index, dtype) for name, index in block]
                slots[place.name].write(place.join(pieces), at)
            done += made.size(place)
            progress(done, total)
        if len(made.files) > 1:
            _write_json(path / folder.INDEX, _index(made))
        _write_json(path / "config.json", made.json)
        for name, content in made.extra.items():
            (path / name).write_bytes(content)


def parse_size(text: str) -> int:
    """Bytes of `5GB`, `500MB` or `2GiB`. Raises ConfigError."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    units |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    number = text.strip().rstrip("BKMGTIbkmgti")
    unit = text.strip()[len(number) :].upper()
    try:
        return int(float(number) * units[unit])
    except (ValueError, KeyError) as error:
        raise errors.ConfigError(
            f"max_shard_size: {text!r} is no size such as 5GB or 500MB"
        ) from error


def _check_leaves(leaves, shapes) -> None:
    have = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    if have != shapes:
        lines = [
            f"export: {name} is {have.get(name)} in the run, {shapes.get(name)} in a "
            "folder of this model"
            for name in sorted({*have, *shapes})
            if have.get(name) != shapes.get(name)
        ]
        raise errors.ConfigError(lines)


def _dtype(place: layout.Place, leaves, asked: str | None) -> np.dtype:
    if asked is not None:
        return jax.numpy.dtype(asked)
    found = [leaves[part.ours] for part in place.parts]
    kinds = [np.dtype(getattr(leaf, "stored", leaf.dtype)) for leaf in found]
    return np.dtype(functools.reduce(jax.numpy.promote_types, kinds))


def _read(leaf, index: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A piece of ours. Raises ConfigError where a narrower dtype cannot hold it."""
    piece = np.asarray(leaf[index])
    with np.errstate(over="ignore"):  # looked for below
        found = piece.astype(dtype, copy=False)
    if dtype == np.float16 and found is not piece and np.isinf(found).any():
        raise errors.ConfigError(
            "dtype: float16 ends at 65504, and some weight is larger; take bfloat16"
        )
    return found


def _by_leaf(places) -> list[layout.Place]:
    """The places in the order in which whole parameters come one after the other."""
    order: dict[tuple[str, ...], list[layout.Place]] = {}
    for place in places:
        order.setdefault(tuple(p.ours for p in place.parts), []).append(place)
    return [place for together in order.values() for place in together]


def _files(made: Plan, most: int) -> dict[str, tuple[str, ...]]:
    groups: list[list[str]] = [[]]
    size = 0
    for place in made.places:
        if groups[-1] and size + made.size(place) > most:
            groups.append([])
            size = 0
        groups[-1].append(place.name)
        size += made.size(place)
    if len(groups) == 1:
        return {folder.SINGLE: tuple(groups[0])}
    name = lambda i: f"model-{i:05d}-of-{len(groups):05d}.safetensors"
    return {name(i): tuple(group) for i, group in enumerate(groups, start=1)}


def _index(made: Plan) -> dict:
    weight_map = {n: file for file, inside in made.files.items() for n in inside}
    count = sum(math.prod(place.shape) for place in made.places)
    metadata = {"total_parameters": count, "total_size": made.nbytes}
    return {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}


def _of_scores(found: dict, c: decoder_config.DecoderConfig) -> dict:
    """What config.json says of a model whose head gives scores."""
    name = found["architectures"][0]
    # The one family whose class for scores is called after its text model.
    stem = {"Gemma3ForCausalLM": "Gemma3Text"}.get(name)
    for ending in folder.HEADS:
        if stem is None and name.endswith(ending):
            stem = name.removesuffix(ending)
    labels = {str(i): f"LABEL_{i}" for i in range(c.score_heads)}
    return {
        "architectures": [f"{stem}{folder.SCORES}"],
        "id2label": labels,
        "label2id": {label: int(i) for i, label in labels.items()},
        "num_labels": c.score_heads,
        "problem_type": "regression",
    }


def _write_json(path: pathlib.Path, value: Mapping) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")

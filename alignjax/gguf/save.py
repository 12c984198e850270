# SPDX-License-Identifier: Apache-2.0
"""A model written as a GGUF file for llama.cpp, one tensor at a time.

Vectors, such as scales of norms and biases, stay float32, as in llama.cpp's own
converter. With q8_0, tensors whose rows are no multiple of its block of 32 numbers
become float16.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.gguf import file, metadata, opening, tokenizer
from alignjax.huggingface import layout
from alignjax.huggingface import save as folders
from alignjax.models import decoder_config, families
from alignjax.storage import atomic

DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}


class Plan(NamedTuple):
    """A file that is to be written.

    Attributes:
      family: of the model.
      places: the tensors, as a folder would have them, in the order of the file.
      tensors: `{name in a folder: (name, shape, quantisation)}`.
      metadata: `{key: (type, value)}`.
      settings: `{name: values}` of tensors that hold settings.
      head: dimensions of a head.
      notes: for the user, a sentence each.
    """

    family: str
    places: tuple[layout.Place, ...]
    tensors: Mapping[str, tuple[str, tuple[int, ...], file.Quantisation]]
    metadata: Mapping[str, tuple[int, Any]]
    settings: Mapping[str, np.ndarray]
    head: int
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return sum(
            q.stored_bytes(math.prod(shape)) for _, shape, q in self.tensors.values()
        )


def plan(
    leaves: Mapping[str, Any],
    family: str,
    c: decoder_config.DecoderConfig,
    tok=None,
    *,
    name: str,
    chat: str | None = None,
    bos: bool = False,
    dtype: str | None = None,
) -> Plan:
    """The file that `write` would write; nothing is written.

    Args:
      leaves: `{path: array, or leaf that is read when it is sliced}`, without adapters.
      family, c, tok, chat, bos: as in `huggingface.save.plan`.
      name: of the model, for whoever lists files.
      dtype: one of DTYPES; None is f32.

    Raises:
      ConfigError: what a file of this architecture cannot hold, or an unknown dtype.
    """
    if dtype is not None and dtype not in DTYPES:
        raise errors.ConfigError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    if c.score_heads:
        raise errors.ConfigError(
            "model.score_heads: a GGUF file has no place for a head that gives scores; "
            "export a folder instead"
        )
    record = families.find(family)
    c = dataclasses.replace(c.without_extras(), score_heads=0)
    entries, settings = metadata.write(c, record)
    written = tokenizer.write(tok, c.vocab_size, chat=chat, bos=bos)
    entries |= {"general.name": (metadata.STRING, name)} | written.metadata
    shapes = layout.shapes(c)
    folders.check_leaves(leaves, shapes)
    places = tuple(layout.places(layout.table(record, c), shapes))
    in_folder = metadata.names(record, c.layers)
    names = {place: name for name, place in in_folder.items()}
    kind = DTYPES[dtype or "f32"]
    quantisations = {x: file.named(x) for x in ("F32", "F16", kind)}
    tensors = {}
    for place in places:
        choice = kind if len(place.shape) > 1 else "F32"
        if place.shape[-1] % quantisations[choice].block:
            choice = "F16"
        tensors[place.name] = (names[place.name], place.shape, quantisations[choice])
    notes, size = list(written.notes), c.size_of_head
    if any(q.name == "F16" for _, _, q in tensors.values()) and kind == "Q8_0":
        notes.append("rows that are no whole blocks of 32 numbers are float16")
    parts = (places, tensors, entries, settings, size, tuple(notes))
    return Plan(family, *parts)


def check(target: pathlib.Path, need: int) -> None:
    """Raises ConfigError where there is such a file, or no room for it."""
    if os.path.lexists(target):
        raise errors.ConfigError(f"{target}: is there already; name another file")
    atomic.check(target, need)


def write(
    plan: Plan,
    leaves: Mapping[str, Any],
    target: pathlib.Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes the planned file, all of it or nothing.

    Each parameter is read once and in slices, as in `huggingface.save.write`.

    Args:
      progress: called with (bytes written, bytes in all) after each tensor.

    Raises:
      ConfigError: there is such a file, the disk is too full, or a number is too large
        for its dtype.
    """
    check(target, plan.nbytes)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(plan, leaves, target, progress)
    except OSError as error:
        raise errors.ConfigError(
            f"{target}: cannot be written ({error.strerror}); name another place"
        ) from error


def _write(plan: Plan, leaves, target: pathlib.Path, progress) -> None:
    f32 = file.named("F32")
    kinds = {name: (shape, q) for name, shape, q in plan.tensors.values()}
    kinds |= {name: (x.shape, f32) for name, x in plan.settings.items()}
    with atomic.new_file(target) as path:
        done = 0
        slots = file.create(path, dict(plan.metadata), kinds)
        for name, values in plan.settings.items():
            slots[name].write(values)
        for place in folders.by_leaf(plan.places):
            name, shape, q = plan.tensors[place.name]
            for first, block in place.blocks(folders.BLOCK_BYTES // 4):
                pieces = [
                    np.asarray(leaves[path][index]).astype(np.float32)
                    for path, index in block
                ]
                values = _changed(plan, name, place.join(pieces))
                _check_finite(name, values, q)
                slots[name].write(np.ascontiguousarray(values), first)
            done += q.stored_bytes(math.prod(shape))
            progress(done, plan.nbytes)


def _changed(plan: Plan, name: str, values: np.ndarray) -> np.ndarray:
    """Rows as files of the architecture have them; see `opening`."""
    if plan.family == "gemma" and name.endswith("_norm.weight"):
        return values + np.float32(1)
    if plan.family == "llama" and (".attn_q." in name or ".attn_k." in name):
        return opening.to_pairs(values, plan.head)
    return values


def _check_finite(name: str, values: np.ndarray, q: file.Quantisation) -> None:
    most = {"F16": 65504.0, "Q8_0": 127 * 65504.0}.get(q.name, np.inf)
    if not np.abs(values).max() <= most:
        raise errors.ConfigError(
            f"dtype: {name} has a number that {q.name} cannot hold, which ends at "
            f"{most:,.0f}; take bf16 or f32"
        )

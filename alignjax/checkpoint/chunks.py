# SPDX-License-Identifier: Apache-2.0
"""Large leaves on disk in chunks, so that a part of one is read without the rest.

Orbax reads leaves as a whole, or as devices hold them. A slice is read by TensorStore,
with which Orbax writes.
"""

from __future__ import annotations

import contextlib
import functools
import math
import pathlib

import jax
import numpy as np
import tensorstore
from orbax.checkpoint import v1 as ocp

from alignjax import errors, trees
from alignjax.storage import lazy

BYTES = 4 * 2**20  # of a chunk at most


def options(path, leaf) -> ocp.options.ArrayOptions.Saving.StorageOptions | None:
    """How Orbax cuts a leaf: by layer, and further; None leaves a small one whole.

    Args:
      path: of `jax.tree_util`.
    """
    if not hasattr(leaf, "nbytes") or leaf.nbytes <= BYTES:
        return None
    layers = "layers" in trees.path_name(path).split("/") and leaf.ndim > 1
    return ocp.options.ArrayOptions.Saving.StorageOptions(
        chunk_byte_size=BYTES, shard_axes=(0,) if layers else None
    )


def stored(folder: pathlib.Path, name: str, leaf: dict) -> lazy.LazyArray:
    """A leaf that Orbax wrote, of which a slice reads the chunks that it touches.

    Args:
      folder: of an item of a step.
      leaf: its `shape` and `dtype`, as in the step's meta.

    Raises:
      BrokenStep, by slices: a file is missing or damaged.
    """
    shape, dtype = tuple(leaf["shape"]), jax.numpy.dtype(leaf["dtype"])

    @contextlib.contextmanager
    def damage():
        try:
            yield
        except (errors.BrokenStep, MemoryError):
            raise
        except Exception as error:  # whatever a damaged file makes a parser raise
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise errors.BrokenStep(
                f"{folder}: {name}: a file is missing or damaged ({text})"
            ) from error

    @functools.cache
    def opened() -> tensorstore.TensorStore:
        with damage():
            array = _open(folder, name)
            if (array.shape, array.dtype.numpy_dtype) != (shape, dtype):
                problem = f"{array.shape} of {array.dtype.name}"
                raise errors.BrokenStep(
                    f"{folder}: {name} is {problem}, unlike in meta"
                )
            return array

    def read(index) -> np.ndarray:
        box, inside = _box(index, shape)
        with damage():
            return np.asarray(opened()[box].read().result())[inside]

    chunk = lambda: tuple(opened().chunk_layout.read_chunk.shape)
    return lazy.LazyArray(shape, dtype, read, chunk=chunk)


def is_whole(array) -> bool:
    """Whether a stored array is read as a whole: it is small, or was not cut."""
    size = np.dtype(array.dtype).itemsize
    if math.prod(array.shape) * size <= BYTES:
        return True
    chunk = getattr(array, "chunk", None)
    return chunk is not None and math.prod(chunk()) * size > 4 * BYTES


def _open(folder: pathlib.Path, name: str) -> tensorstore.TensorStore:
    """A leaf in the layout that Orbax gives it."""
    base = {"driver": "file", "path": f"{folder.absolute()}/"}
    kvstore = {"driver": "ocdbt", "base": base, "path": f"{name.replace('/', '.')}/"}
    # Chunks come and go: a cache, or many at a time, would be what memory is spent on.
    context = {"cache_pool": {"total_bytes_limit": 0}}
    context |= {"file_io_concurrency": {"limit": 1}}
    context |= {"data_copy_concurrency": {"limit": 1}}
    spec = {"driver": "zarr3", "kvstore": kvstore, "context": context}
    return tensorstore.open(spec, open=True, read=True).result()


def _box(index: lazy.Index, shape: tuple[int, ...]) -> tuple[lazy.Index, lazy.Index]:
    """The smallest box around what an index takes of an array, and the index in it."""
    box, inside = [], []
    for i, size in zip(index, shape, strict=True):
        places = range(size)[i] if isinstance(i, slice) else (range(size)[i],)
        box.append(slice(min(places, default=0), max(places, default=-1) + 1))
        inside.append(slice(None, None, i.step) if isinstance(i, slice) else 0)
    return tuple(box), tuple(inside)

# SPDX-License-Identifier: Apache-2.0
"""Frozen kernels in fewer bits: bfloat16, int8 or NF4, widened where they are used.

A projection that is not trained may have, instead of `kernel`, float32 [..., n],

    kernel_bfloat16               bfloat16 [..., n], rounded to the nearest
    kernel_int8, kernel_absmax    int8 [..., n] and float32 [..., ceil(n / 64)]
    kernel_nf4, kernel_absmax     uint8 [..., n / 2], two codes a byte, and as above

where `absmax` is the largest magnitude in each block of 64 along the last axis, which
is one of outputs. Values are absmax * code / 127, or absmax times an entry of the code
book of QLoRA (arXiv:2305.14314 appendix E). No rounding error exceeds absmax / 254, or
absmax times half the largest gap in the book. To quantise widened values again gives
the same codes. Each value is one product, so it is the same on any device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alignjax import trees
from alignjax.storage import lazy

KINDS = ("float32", "bfloat16", "int8", "nf4")
BLOCK = 64
NF4 = np.array(
    """
    -1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453
    -0.28444138169288635 -0.18477343022823334 -0.09105003625154495 0.0
    0.07958029955625534 0.16093020141124725 0.24611230194568634
    0.33791524171829224 0.44070982933044434 0.5626170039176941 0.7229568362236023
    1.0
    """.split(),
    np.float32,
)
_BETWEEN = (NF4[1:] + NF4[:-1]) / 2
_STEP = np.float32(1 / 127)  # 127 of them are 1 exactly, so that absmax is kept
_AT_ONCE = 2**16  # numbers; more would go through memory once for each code
_PART = re.compile(r"(.*/kernel)_(bfloat16|int8|nf4|absmax)")


def shapes(shape: tuple[int, ...], kind: str) -> dict[str, tuple[tuple, Any]]:
    """`{part: (shape, dtype)}` of a kernel stored as `kind`."""
    *lead, n = shape
    if kind == "bfloat16":
        return {"kernel_bfloat16": (shape, jnp.bfloat16)}
    absmax = {"kernel_absmax": ((*lead, -(-n // BLOCK)), jnp.float32)}
    if kind == "int8":
        return {"kernel_int8": (shape, jnp.int8), **absmax}
    return {"kernel_nf4": ((*lead, n // 2), jnp.uint8), **absmax}


def shape(parts: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of a kernel from the shapes of its parts, by name or path."""
    (name,) = [name for name in parts if not name.endswith("absmax")]
    *lead, n = parts[name]
    return (*lead, 2 * n if name.endswith("nf4") else n)


def quantise(kernel: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """The parts of float32 [..., n], a whole kernel or some layers of it."""
    *lead, n = kernel.shape
    if kind == "bfloat16":
        return {"kernel_bfloat16": kernel.astype(jnp.bfloat16)}
    rows = kernel.reshape(-1, n)
    starts = np.arange(0, n, BLOCK)
    code = {"int8": _int8, "nf4": _nf4}[kind]
    kinds = shapes((len(rows), n), kind)
    codes, absmax = (np.empty(shape, dtype) for shape, dtype in kinds.values())
    step = max(1, _AT_ONCE // n)
    for i in range(0, len(rows), step):
        piece = rows[i : i + step]
        absmax[i : i + step] = np.maximum.reduceat(np.abs(piece), starts, axis=-1)
        codes[i : i + step] = code(piece, _each(absmax[i : i + step], n))
    parts = zip(kinds, (codes, absmax), strict=True)
    return {name: x.reshape(*lead, x.shape[-1]) for name, x in parts}


def _int8(x: np.ndarray, absmax: np.ndarray) -> np.ndarray:
    scale = 127 / np.where(absmax == 0, 1, absmax)
    with np.errstate(invalid="ignore"):  # absmax is not finite either
        return np.rint(x * scale).astype(np.int8)


def _nf4(x: np.ndarray, absmax: np.ndarray) -> np.ndarray:
    codes = np.zeros(x.shape, np.uint8)
    for between in _BETWEEN:
        codes += x > between * absmax
    return codes[..., ::2] << 4 | codes[..., 1::2]


def _each(absmax, n: int):
    """The `absmax` [..., blocks] of each of the n numbers."""
    xp = absmax.__array_namespace__()
    return xp.repeat(absmax, BLOCK, -1)[..., :n]


def widen(parts: Mapping[str, Any]):
    """float32 [..., n] of the parts of a kernel, numpy or jax arrays.

    Args:
      parts: as in the head of this file, or `kernel` itself; other names are ignored.
    """
    for name in ("kernel", "kernel_bfloat16"):
        if name in parts:
            return parts[name].astype(np.float32)
    if "kernel_int8" in parts:
        values = parts["kernel_int8"].astype(np.float32) * _STEP
    else:
        pairs = parts["kernel_nf4"]
        xp = pairs.__array_namespace__()
        codes = xp.stack([pairs >> 4, pairs & 15], -1)
        codes = codes.reshape(*pairs.shape[:-1], -1)
        values = xp.asarray(NF4)[codes.astype(np.int32)]
    return values * _each(parts["kernel_absmax"], values.shape[-1])


def product(x: jax.Array, parts: Mapping[str, jax.Array]) -> jax.Array:
    """x [M, I] times a kernel [inputs..., outputs...] as a matrix [I, O], like x.

    A kernel in float32 has a gradient. Any other is frozen: the backward pass stores
    its parts, and widens them again.
    """
    if "kernel" in parts:
        kernel = parts["kernel"].astype(x.dtype)
        return x @ kernel.reshape(x.shape[-1], -1)
    return _product(x, dict(parts))


@jax.custom_vjp
def _product(x, parts):
    return x @ widen(parts).astype(x.dtype).reshape(x.shape[-1], -1)


def _forward(x, parts):
    return _product(x, parts), parts  # x would be for a gradient of the kernel


def _backward(parts, dy):
    # Widened anew: merged with the forward pass, wide kernels would wait for this.
    parts, dy = lax.optimization_barrier((parts, dy))
    kernel = widen(parts).astype(dy.dtype).reshape(-1, dy.shape[-1])
    return dy @ kernel.T, None


_product.defvjp(_forward, _backward)


def names(projections: Iterable[str], trainable: str) -> list[str]:
    """The kernels stored in fewer bits: of projections that are not trained."""
    kernels = (f"{path}/kernel" for path in projections)
    return [name for name in kernels if not re.fullmatch(trainable, name)]


def problems(c, trainable: str) -> list[str]:
    """Problems with `base` of a DecoderConfig, given the pattern of what is trained."""
    if c.base == "float32" or names(c.projections, trainable):
        return []
    problem = (
        f"model.base: {c.base!r} is for kernels that are not trained, and "
        f"trainable = {trainable!r} trains them all; train adapters (model.lora_rank, "
        "and trainable = r'.*/lora_[abm]'), or set model.base to 'float32'"
    )
    return [problem]


def gather(parts: Iterable[str]) -> dict[str, list[str]]:
    """`{path of a kernel: paths of its parts}`, of those that have any."""
    kernels: dict[str, list[str]] = {}
    for name in parts:
        if match := _PART.fullmatch(name):
            kernels.setdefault(match[1], []).append(name)
    return kernels


def kind_of(parts: Iterable[str]) -> str:
    """The kind of a kernel, from the names of its parts."""
    kinds = {name.rpartition("kernel_")[2] for name in parts}
    return (kinds - {"absmax"}).pop()


def rounded(leaf, kind: str) -> np.ndarray:
    """The float32 values of a kernel of any float dtype, once stored as `kind`."""
    return widen(quantise(np.asarray(leaf).astype(np.float32), kind))


def lazily_rounded(leaf, kind: str) -> lazy.LazyArray:
    """`rounded`, of the part that is sliced."""

    def read(index) -> np.ndarray:
        # A block lies along the last axis, so that all of it is needed.
        return rounded(leaf[index[:-1]], kind)[..., index[-1]]

    return lazy.LazyArray(leaf.shape, np.float32, read)


def nbytes(tree) -> int:
    """Bytes of all arrays of a tree, which may be abstract."""
    leaves = trees.named_leaves(tree).values()
    return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in leaves)

# SPDX-License-Identifier: Apache-2.0
"""Causal attention over packed rows: one function for each backend, equal in value.

Every backend is `(q_BTNH, k_BTKH, v_BTKH, rows, *, window, softcap, scale=None) ->
out_BTNH`, for rows of any length. A query sees keys at or before it, of its own
segment, fewer than `window` positions back where one is given; with branches, of those
only the shared beginning and its own branch. Products of queries and keys are
multiplied by `scale`, 1 / sqrt(H) where it is None, and capped where there is a
softcap. Softmax is float32 in all of them. Each of the K kv heads serves N/K query
heads, so K = N is multi-head and K = 1 multi-query. The output at padding is finite
and means nothing.

Kernels never hold all the weights. The compiler cannot partition them, so on a mesh
each device runs one on the rows and heads that it holds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import errors, registry
from alignjax.distributed import sharding
from alignjax.models.attention import cudnn, plain, splash
from alignjax.models.attention import rows as rows_lib

BACKENDS = registry.Registry("attention backend")
BACKENDS.register(plain.attend, "xla")
BACKENDS.register(cudnn.attend, "cudnn")
BACKENDS.register(splash.attend, "splash")

KERNELS = {"gpu": "cudnn", "tpu": "splash"}  # by platform
EVERYTHING = np.iinfo(np.int32).max  # a window that covers everything


class Case(NamedTuple):
    """What a backend must be able to do.

    Attributes:
      platform: of the devices: "cpu", "gpu" or "tpu".
      dtype: of queries, keys and values.
      head_size: H.
      softcap, window: of a model; None are none.
      branches: whether rows have some.
    """

    platform: str
    dtype: Any
    head_size: int
    softcap: float | None = None
    window: int | None = None
    branches: bool = False


def problem(backend: str, case: Case) -> str | None:
    """Why a backend cannot do it, and the remedy; None where it can."""
    limits = {"cudnn": _cudnn_limits, "splash": _splash_limits}
    limit = next(limits[backend](case), None) if backend in limits else None
    return limit and f"{backend} {limit}; use auto or xla"


def _cudnn_limits(case: Case) -> Iterator[str]:
    if case.platform != "gpu":
        yield f"is for NVIDIA GPUs, and the devices are {case.platform}"
    if (dtype := jnp.dtype(case.dtype)).itemsize != 2:
        yield f"computes in bfloat16, and model.dtype is {dtype}"
    if case.softcap is not None:
        yield f"has no softcap, and model.attention_softcap is {case.softcap}"
    if case.head_size % 8 or case.head_size > 256:
        yield (
            "has heads of a multiple of 8 up to 256 (up to 128 before Hopper), and "
            f"these are of {case.head_size}"
        )


def _splash_limits(case: Case) -> Iterator[str]:
    if case.platform != "tpu":
        yield f"is for TPUs, and the devices are {case.platform}"
    if case.head_size % 64:
        yield f"has heads of a multiple of 64, and these are of {case.head_size}"
    if case.branches and case.window is not None:
        yield (
            "has no window where responses share their prompt, and model.window is "
            f"{case.window}; set data.share_prompt=False"
        )


def resolve(backend: str, case: Case) -> str:
    """The backend that `auto` chooses; other names are themselves.

    The kernel of the platform where it can do it; `xla` otherwise. For branches splash
    goes by functions of jax that are not public, so it is not chosen for them.
    """
    if backend != "auto":
        return backend
    kernel = KERNELS.get(case.platform, "xla")
    if problem(kernel, case):
        return "xla"
    large = kernel == "cudnn" and case.head_size > 128  # which Ampere refuses
    private = kernel == "splash" and case.branches
    return "xla" if large or private else kernel


def run(
    backend: str,
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    rows: rows_lib.Rows,
    *,
    window: int | None,
    windowed: bool | jax.Array,
    softcap: float | None,
    scale: float | None,
) -> jax.Array:
    """Attention by a backend, or `auto`, in a layer with the window or without it.

    Args:
      window: of the layers that have one.
      windowed: whether this layer has it; an array of one bool where that is known only
        when the program runs.

    Raises:
      ConfigError: the backend cannot do it.
    """
    case = Case(
        sharding.platform(),
        q_BTNH.dtype,
        q_BTNH.shape[-1],
        softcap,
        None if windowed is False else window,
        rows.branches is not None,
    )
    backend = resolve(backend, case)
    if text := problem(backend, case):
        raise errors.ConfigError(f"model.attention: {text}")

    def attend(size, *arrays):
        options = dict(window=size, softcap=softcap, scale=scale)
        return BACKENDS.find(backend)(*arrays, rows, **options)

    arrays = (q_BTNH, k_BTKH, v_BTKH)
    if isinstance(windowed, bool):
        return attend(window if windowed else None, *arrays)
    if backend == "xla":  # a mask like any other
        return attend(jnp.where(windowed, window, EVERYTHING), *arrays)
    # Kernels are made for one window.
    near, far = (functools.partial(attend, size) for size in (window, None))
    return jax.lax.cond(windowed, near, far, *arrays)

# SPDX-License-Identifier: Apache-2.0
"""Tokens per second, and model FLOP/s utilisation.

MFU (PaLM, arXiv:2204.02311, appendix B) counts the floating point operations that the
mathematics of a step needs, and not recomputation under remat, masked halves of
attention or padding of kernels. So it is a lower bound of how busy the chip is, and it
compares across implementations.

A multiply and an add are two operations. A matrix of P weights costs 2 P a token
forwards, 2 P for the gradient of its input and 2 P for its own.
"""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterator

# Dense bfloat16 FLOP/s of one device as jax counts devices, from the makers' datasheets
# (NVIDIA quotes them with sparsity, which doubles them). A name matches the device_kind
# that contains it; the first match wins, so longer names stand first.
PEAK_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "TPU7x": 2307e12 / 2,  # Ironwood: a chip is two devices
    "TPU v6 lite": 918e12,  # Trillium, v6e
    "TPU v6e": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,  # how some runtimes call the v5p
    "TPU v4 lite": 138e12,  # v4i, whose name contains that of the v4
    "TPU v4": 275e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device by jax's `device_kind`; None if unknown."""
    for name, peak in PEAK_FLOPS.items():
        if name in device_kind:
            return peak
    return None


def attention_flops_per_token(
    *, layers: int, heads: int, head_dim: int, context: int, window: int | None = None
) -> float:
    """FLOPs of causal attention's two products, forwards and backwards, a token.

    Scores and weighted values cost 2 heads head_dim each a key, and backwards twice
    that. Query t, from 0, sees min(t + 1, window) keys, which is (context + 1) / 2 on
    average without a window. Keys and values shared by heads (GQA) save memory and no
    FLOPs. Where documents are packed, `context` is the row's length and the figure an
    upper bound. A model whose layers differ is the sum of calls.
    """
    full = min(window or context, context)
    mean_keys = (full * (full + 1) / 2 + (context - full) * full) / context
    return 12.0 * layers * heads * head_dim * mean_keys


class Meter:
    """Rates over the last steps, from the times at which steps ended.

    JAX returns before a step is done, so call `step` where the loop waits for the
    device; with work queued ahead, the times between calls are those of the steps.
    """

    def __init__(
        self,
        *,
        flops_per_token: float | None = None,
        device_kind: str = "",
        devices: int = 1,
        steps: int = 20,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """Without `flops_per_token`, or on an unknown chip, there will be no MFU.

        Args:
          flops_per_token: of a training step; see `decoder.flops_per_token`.
          device_kind: `jax.devices()[0].device_kind`.
          devices: how many devices share the work, on all processes.
          steps: how many the rate is a mean over.
          clock: seconds.
        """
        peak = peak_flops(device_kind)
        self._mfu_per_rate = None
        if flops_per_token is not None and peak is not None:
            self._mfu_per_rate = flops_per_token / (peak * devices)
        self._clock = clock
        self._steps = collections.deque(maxlen=steps)  # (seconds, tokens) of each
        self._since = None

    def step(self, tokens: int | float) -> dict[str, float]:
        """Rates now that a step of `tokens` has ended; `{}` after the first.

        The first step has no beginning to measure from, and holds the compilation.

        Returns:
          `tokens_per_second` over all devices and, where it is known, `mfu` (0 to 1).
        """
        now = self._clock()
        since, self._since = self._since, now
        if since is None:
            return {}
        self._steps.append((now - since, tokens))
        seconds = sum(s for s, _ in self._steps)
        if seconds <= 0:
            return {}
        rate = sum(t for _, t in self._steps) / seconds
        if self._mfu_per_rate is None:
            return {"tokens_per_second": rate}
        return {"tokens_per_second": rate, "mfu": rate * self._mfu_per_rate}

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time inside is not a step's: evaluation, sampling, a blocking save.

        Wait for the device first (`jax.block_until_ready`), or the end of the step
        before falls inside, and the rate comes out too high.
        """
        began = self._clock()
        try:
            yield
        finally:
            if self._since is not None:
                self._since += self._clock() - began

# SPDX-License-Identifier: Apache-2.0
r"""Compares attention on this machine's devices with its definition in float32.

    python tools/check_attention.py                         # what `auto` chooses here
    python tools/check_attention.py --attention=splash --lengths 1 129 2048

For rows of one document, packed rows and rows of responses that share prompts, with
windows and without, heads of 64 and 128, and each length: the output and the three
gradients of a random cotangent. Prints the largest difference of each kind of rows, as
a share of the norm, and ends with 1 where one is beyond `--tolerance`. In 16 bits
2e-2 is twice what rounding does. Needs jax, flax and ml_collections only.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.models import attention
from alignjax.models.attention.rows import Branches, Rows

# (layout of rows, window)
KINDS = [("ragged", None), ("packed", None), ("packed", 7), ("ragged", 50)]
KINDS += [("shared", None), ("shared", 9)]
HEADS = [(4, 2, 64), (4, 1, 128)]  # N, K, H
LENGTHS = [1, 2, 3, 7, 8, 9, 63, 64, 65, 127, 128, 129, 130, 511, 512, 1023, 2047, 2048]


def heads(B: int, T: int, N: int = 2, K: int = 1, H: int = 64, seed: int = 0) -> list:
    """Random queries, keys and values, float32 [B, T, N, H] and [B, T, K, H]."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return [
        jax.random.normal(key, (B, T, count, H))
        for key, count in zip(keys, (N, K, K), strict=True)
    ]


def rows_of(layout: str, B: int, T: int, seed: int = 0) -> Rows:
    """Random rows: of one document, of several, or with responses to shared prompts."""
    rng = np.random.default_rng(seed)
    segments, branches, positions = np.zeros((3, B, T), np.int32)
    end = T - T // 20  # then padding
    for b in range(B):
        at = segment = 0
        while at < end and not (layout == "ragged" and segment):
            segment += 1
            prompt = int(rng.integers(1, 2 * T if layout == "ragged" else 30))
            sizes = rng.integers(1, 15, 3).tolist() if layout == "shared" else []
            for branch, size in enumerate([prompt, *sizes]):
                here = slice(at, min(at + size, end))
                count = max(0, here.stop - at)
                segments[b, here], branches[b, here] = segment, branch
                positions[b, here] = (prompt if branch else 0) + np.arange(count)
                at += count
    of_rows = Branches(branches, positions) if layout == "shared" else None
    rows = Rows(segments, of_rows, one_document=layout == "ragged")
    return jax.tree.map(jnp.asarray, rows)


def sees(rows: Rows, window: int | None) -> np.ndarray:
    """The definition, bool [B, T, S]: whether query t sees key s."""
    segments = np.asarray(rows.segment_ids)
    T = segments.shape[1]
    branches, positions = np.zeros_like(segments), np.arange(T)[None]
    if rows.branches is not None:
        branches, positions = map(np.asarray, rows.branches)
    t, s = (lambda x: x[:, :, None]), (lambda x: x[:, None, :])
    mask = np.tril(np.ones((T, T), bool)) & (t(segments) == s(segments))
    mask &= (s(branches) == 0) | (s(branches) == t(branches))
    return mask if window is None else mask & (t(positions) - s(positions) < window)


def dense(q, k, v, mask_BTS, softcap=None, xp=jnp):
    """Attention with all weights at once; of numpy arrays with `xp=np`."""
    k, v = (xp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    logits = xp.einsum("BTNH,BSNH->BNTS", q, k) / np.sqrt(q.shape[-1])
    if softcap is not None:
        logits = softcap * xp.tanh(logits / softcap)
    logits = xp.where(mask_BTS[:, None], logits, -xp.inf)
    weights = xp.exp(logits - logits.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    return xp.einsum("BNTS,BSNH->BTNH", weights, v)


class Reference:
    """Random inputs, and what their first tokens should give.

    Later tokens change nothing, so that shorter rows need no computation of their own.
    """

    def __init__(self, layout: str, window: int | None, B: int, T: int, *sizes: int):
        round_off = lambda x: x.astype(jnp.bfloat16).astype(jnp.float32)
        self.arrays = [round_off(x) for x in heads(B, T, *sizes, seed=T)]
        self.rows, self.window = rows_of(layout, B, T, seed=T), window
        mask = jnp.asarray(sees(self.rows, window))
        out, pull = jax.vjp(jax.jit(lambda *x: dense(*x, mask)), *self.arrays)
        self.real = (self.rows.segment_ids > 0)[..., None, None]
        weight = jnp.cos(jnp.arange(out.size)).reshape(out.shape)
        self.weight = round_off(weight * self.real)
        self.out, self.pull = jnp.where(self.real, out, 0), jax.jit(pull)

    def of(self, length: int) -> list[jax.Array]:
        """The output, 0 at padding, and the gradients of rows cut at `length`."""
        shown = (jnp.arange(self.out.shape[1]) < length)[:, None, None]
        whole = self.out, *self.pull(jnp.where(shown, self.weight, 0))
        return [x[:, :length] for x in whole]

    def by(self, attend, length: int, dtype=jnp.float32) -> list[jax.Array]:
        """The same by `attend(q, k, v, rows)`, of inputs in `dtype`."""
        cut = functools.partial(jax.tree.map, lambda x: x[:, :length])
        rows, real = cut(self.rows), cut(self.real)
        arrays, weight = jax.tree.map(
            lambda x: x.astype(dtype), cut((self.arrays, self.weight))
        )
        out, pull = jax.vjp(lambda *x: attend(*x, rows), *arrays)
        return [jnp.where(real, out, 0), *pull(weight)]


def share(ours, theirs, weight) -> float:
    """The norm of a difference, as a share of the norm of what it should be.

    Where that is next to nothing, as gradients of a single token, of the cotangent's.
    """
    ours, theirs, weight = (np.asarray(x, np.float64) for x in (ours, theirs, weight))
    norms = np.linalg.norm(theirs), 0.1 * np.linalg.norm(weight)
    return float(np.linalg.norm(ours - theirs) / max(*norms, 1e-30))


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--attention", default="auto", choices=["auto", *attention.BACKENDS])
    add("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    add("--lengths", type=int, nargs="+", default=LENGTHS)
    add("--tolerance", type=float, default=2e-2)
    args = parser.parse_args(arguments)
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}, {args.dtype}")
    worst = 0.0
    for layout, window in KINDS:
        for sizes in HEADS:
            case = attention.Case(
                device.platform, args.dtype, sizes[2], None, window, layout == "shared"
            )
            backend = attention.resolve(args.attention, case)
            name = f"{layout}, window {window}, N K H {sizes}, {backend}"
            if problem := attention.problem(backend, case):
                print(f"{name}: skipped: {problem}")
                continue
            attend = functools.partial(
                attention.BACKENDS.find(backend), window=window, softcap=None
            )
            with jax.default_device(jax.devices("cpu")[0]):
                reference = Reference(layout, window, 2, max(args.lengths), *sizes)
            shares = {}
            for length in args.lengths:
                with jax.default_device(jax.devices("cpu")[0]):
                    theirs = reference.of(length)
                ours = reference.by(jax.jit(attend), length, args.dtype)
                pairs = zip(ours, theirs, strict=True)
                weight = reference.weight[:, :length]
                shares[length] = max(share(a, b, weight) for a, b in pairs)
            at = max(shares, key=shares.get)
            print(f"{name}: {shares[at]:.1e}, at {at} tokens", flush=True)
            worst = max(worst, shares[at])
    right = worst <= args.tolerance
    print(f"{'right' if right else 'WRONG'}: at most {worst:.1e}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())

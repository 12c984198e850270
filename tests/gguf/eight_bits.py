# SPDX-License-Identifier: Apache-2.0
"""A Llama in numpy as llama.cpp computes it from q8_0 weights: activations rounded too.

Before it is multiplied with such weights, a vector is stored as q8_0 itself: of each 32
numbers the largest is 127 steps, and a step is a float16 (ggml's `quantize_row_q8_0`).
"""

import gguf
import numpy as np


def rounded(x: np.ndarray) -> np.ndarray:
    """float32 [..., D]: the nearest numbers that q8_0 has."""
    blocks = x.astype(np.float32).reshape(*x.shape[:-1], -1, 32)
    step = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    whole = np.rint(np.divide(blocks, step, out=np.zeros_like(blocks), where=step > 0))
    return (whole * step.astype(np.float16).astype(np.float32)).reshape(x.shape)


def logits(path, tokens: list[int], rounding: bool = True) -> np.ndarray:
    """float32 [T, V] of all tokens; without `rounding`, of the weights alone."""
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.fields[f"llama.{key}"].contents()
    tensors = {tensor.name.removesuffix(".weight"): tensor for tensor in reader.tensors}

    def weight(name):
        tensor = tensors[name]
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type)

    def times(x, name):
        x = x.astype(np.float32)
        quantised = tensors[name].tensor_type == gguf.GGMLQuantizationType.Q8_0
        return (rounded(x) if rounding and quantised else x) @ weight(name).T

    def norm(x, name):
        mean = (x * x).mean(-1, keepdims=True)
        epsilon = field("attention.layer_norm_rms_epsilon")
        return x / np.sqrt(mean + epsilon) * weight(name)

    x = weight("token_embd")[tokens]
    N, K = field("attention.head_count"), field("attention.head_count_kv")
    T, H = len(tokens), x.shape[1] // N
    frequency = field("rope.freq_base") ** (-np.arange(0, H, 2) / H)
    turn = np.exp(1j * np.arange(T)[:, None, None] * frequency)
    future = np.triu(np.full((T, T), -np.inf), 1)

    def rotated(x):  # neighbours are a pair
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

    for i in range(field("block_count")):
        layer = f"blk.{i}."
        y = norm(x, f"{layer}attn_norm")
        q, k, v = (
            times(y, f"{layer}attn_{part}").reshape(T, heads, H)
            for part, heads in (("q", N), ("k", K), ("v", K))
        )
        k, v = (np.repeat(part, N // K, axis=1) for part in (rotated(k), v))
        scores = np.einsum("tnh,snh->nts", rotated(q), k) / np.sqrt(H) + future
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        y = np.einsum("nts,snh->tnh", scores, v).reshape(T, -1)
        x = x + times(y, f"{layer}attn_output")
        y = norm(x, f"{layer}ffn_norm")
        gate, up = (times(y, f"{layer}ffn_{part}") for part in ("gate", "up"))
        x = x + times(gate / (1 + np.exp(-gate)) * up, f"{layer}ffn_down")
    x = norm(x, "output_norm")
    return times(x, "output" if "output" in tensors else "token_embd")

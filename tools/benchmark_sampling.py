# SPDX-License-Identifier: Apache-2.0
r"""Times sampling beside transformers' `generate`, by the processor's seconds.

    python tools/benchmark_sampling.py
    python tools/benchmark_sampling.py --cases=greedy --turns=3 --json

Both sides have the same shape of model with random weights, prompts of random tokens,
float32 and temperature 1, and take turns in one process, so that a machine whose speed
drifts slows both. A figure is that of the fastest turn by seconds of processor time of
all threads, which neighbours on a busy machine change less than time on the wall, given
beside it; the first turn, which compiles, does not count. Torch has one thread unless
`--threads` says otherwise, since threads that wait for each other use the processor
too: with more, compare time on the wall on a quiet machine. The cases:

- `fixed`: 32 prompts of 16 tokens, 64 tokens each (17M Llama, vocabulary 8,192);
- `natural`: the same, where a 16th of the tokens ends a response, so that these have 16
  tokens on average and 64 at most;
- `groups`: 8 responses to each of 32 prompts of 128 tokens, which end as in `natural`;
- `greedy`: one row of 64 tokens, the most probable ones, of a 135M Llama (the shape of
  SmolLM2: 30 layers, 9 heads over 3, tied, vocabulary 49,152);
- `rows`: 16 rows of that at one time.

`tokens` counts those of responses. Where all responses are as long, `products` and
`torch products` stand beside both: a loop of nothing but XLA's or torch's products of a
token with the weights, floors of their times. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from alignjax import models, sampling
from tools import requires, timing

SMALL = dict(family="llama", name="17m")
SMOL = dict(family="llama", d_model=576, layers=30, heads=9, kv_heads=3, d_ff=1536)
SMOL |= dict(max_length=2048, tied=True)
QWEN = dict(family="llama", d_model=896, layers=24, heads=14, kv_heads=2, d_ff=4864)
QWEN |= dict(max_length=640, tied=True, dtype="bfloat16")
NANO = dict(family="llama", name="nano", layers=2, max_length=32)


class Case(NamedTuple):
    """What is sampled; `ends` of the vocabulary's tokens end a response."""

    model: dict
    vocab: int
    prompts: int
    length: int
    ends: int
    samples: int = 1
    temperature: float = 1.0
    max_tokens: int = 64


CASES = {
    "fixed": Case(SMALL, 8192, 32, 16, 0),
    "natural": Case(SMALL, 8192, 32, 16, 8192 // 16),
    "groups": Case(SMALL, 8192, 32, 128, 8192 // 16, samples=8),
    "greedy": Case(SMOL, 49_152, 1, 16, 0, temperature=0.0),
    "rows": Case(SMOL, 49_152, 16, 16, 0, temperature=0.0),
}
# For a card; a 256th of the tokens ends a response.
HALF_BILLION = Case(QWEN, 151_936, 64, 128, 151_936 // 256, samples=8, max_tokens=512)
TINY = Case(NANO, 307, 2, 8, 30, samples=2, max_tokens=8)


def alignjax(case: Case):
    """A function that samples and returns how many tokens there were."""
    model = models.build(case.model, case.vocab)
    dtype = model.config.dtype
    init = lambda key: jax.tree.map(
        lambda x: x.astype(dtype), nn.unbox(model.init(key))
    )
    params = jax.jit(init)(jax.random.key(0))
    prompts_GP = _prompts(case)
    draw = sampling.Draw(
        jax.random.split(jax.random.key(2), case.prompts * case.samples),
        jnp.ones(case.vocab, bool),
        jnp.arange(case.vocab) < case.ends,
        sampling.settings(temperature=case.temperature),
    )
    mask_GP = np.ones(prompts_GP.shape, bool)
    arguments = (model, params, prompts_GP, mask_GP, draw, case.max_tokens)

    def run() -> int:
        responses = sampling.respond(*arguments, samples=case.samples)
        return int(responses.length_B.sum())

    return run


def transformers(case: Case):
    """As `alignjax`, of the other side."""
    import torch

    config = models.build(case.model, case.vocab).config
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = timing.in_transformers("llama", config).eval()
    model = model.to(device, getattr(torch, config.dtype))
    prompts = torch.tensor(_prompts(case), dtype=torch.long, device=device)
    options = dict(max_new_tokens=case.max_tokens, pad_token_id=case.vocab - 1)
    options |= dict(attention_mask=torch.ones_like(prompts), use_cache=True)
    options |= dict(num_return_sequences=case.samples)
    if case.temperature:
        options |= dict(do_sample=True, top_k=0, temperature=case.temperature)
    else:
        options |= dict(do_sample=False)
    if case.ends:
        options |= dict(eos_token_id=list(range(case.ends)))
    else:
        options |= dict(min_new_tokens=case.max_tokens)

    def run() -> int:
        with torch.inference_mode():
            rows = model.generate(prompts, **options)[:, case.length :].cpu().numpy()
        before = np.cumsum(rows < case.ends, axis=1) - (rows < case.ends)
        return int((before == 0).sum())

    return run


def products(case: Case):
    """As `alignjax`, of nothing but the products with weights, a token at a time."""
    dtype, shapes = models.build(case.model, case.vocab).config.dtype, _weights(case)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    kernels = [jax.random.normal(*x, dtype) for x in zip(keys, shapes, strict=True)]
    rows = case.prompts * case.samples
    inputs = {width: jnp.ones((rows, width), dtype) for width, _ in shapes}

    @jax.jit
    def loop(inputs, kernels):
        def token(_, scale):
            for kernel in kernels:  # each waits for the one before
                out = (inputs[len(kernel)] * scale) @ kernel
                scale = 1 + 1e-6 * jnp.tanh(out.max())
            return scale

        return jax.lax.fori_loop(0, case.max_tokens, token, jnp.ones((), dtype))

    def run() -> int:
        loop(inputs, kernels).block_until_ready()
        return rows * case.max_tokens

    return run


def torch_products(case: Case):
    """As `products`, of torch."""
    import torch

    rows = case.prompts * case.samples
    kernels = [torch.randn(out, width) for width, out in _weights(case)]
    inputs = {width: torch.ones(rows, width) for width, _ in _weights(case)}

    def run() -> int:
        with torch.inference_mode():
            for _ in range(case.max_tokens):
                for kernel in kernels:
                    torch.nn.functional.linear(inputs[kernel.shape[1]], kernel)
        return rows * case.max_tokens

    return run


def _weights(case: Case) -> list[tuple[int, int]]:
    """The shapes of all weights that a token is multiplied with."""
    c = models.build(case.model, case.vocab).config
    D, F, H = c.d_model, c.d_ff, c.size_of_head
    Q, K = c.heads * H, (c.kv_heads or c.heads) * H
    layer = [(D, Q), (D, K), (D, K), (Q, D), (D, F), (D, F), (F, D)]
    return [*layer * c.layers, (D, case.vocab)]


def _prompts(case: Case) -> np.ndarray:
    shape = (case.prompts, case.length)
    random = np.random.default_rng(1)
    return random.integers(case.ends, case.vocab - 1, shape).astype(np.int32)


def processor_seconds() -> float:
    times = os.times()
    return times.user + times.system


def measured(case: Case, turns: int) -> dict[str, dict[str, float]]:
    sides = {"alignjax": alignjax(case), "transformers": transformers(case)}
    if not case.ends:
        sides["products"] = products(case)
        sides["torch products"] = torch_products(case)
    figures = {name: dict(cpu_s=float("inf"), tokens=0) for name in sides}
    for turn in range(turns + 1):
        for name, run in sides.items():
            start, wall = processor_seconds(), time.perf_counter()
            tokens = run()
            seconds, wall = processor_seconds() - start, time.perf_counter() - wall
            if turn and seconds < figures[name]["cpu_s"]:
                figures[name] = dict(cpu_s=seconds, wall_s=wall, tokens=tokens)
    for figure in figures.values():
        figure["tokens_per_cpu_s"] = figure["tokens"] / figure["cpu_s"]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(CASES), help="%(default)s")
    parser.add_argument("--turns", type=int, default=2, help="%(default)s")
    parser.add_argument("--threads", type=int, default=1, help="torch's (%(default)s)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    requires.packages("torch", "transformers")
    import torch

    torch.set_num_threads(args.threads)
    report = {}
    for name in args.cases.split(","):
        figures = measured(CASES[name], args.turns)
        report |= {f"{name} {side}": figure for side, figure in figures.items()}
        rates = [figures[s]["tokens_per_cpu_s"] for s in ("alignjax", "transformers")]
        report[f"{name} ratio"] = rates[0] / rates[1]
        print(f"{name}: {rates[0] / rates[1]:.2f} times", file=sys.stderr, flush=True)
    timing.show(report, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

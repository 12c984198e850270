# SPDX-License-Identifier: Apache-2.0
"""The parts of `tools/benchmark_gpu.sh`: what is timed on one GPU, side by side.

Each side is a process of its own, so that none finds the memory full of another's; all
of a part have 5 minutes together, or `--seconds`. A side that comes too late is named,
not dropped.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from alignjax import errors
from tools import requires

PARTS = ("check", "pretrain", "sft", "dpo", "sample", "rl")
SECONDS = 300
JAX = ("jax", "flax", "optax", "ml_collections", "scipy", "numpy")
PACKAGES = {
    "check": JAX,
    "pretrain": (*JAX, "torch", "transformers"),
    "sft": (*JAX, "torch", "transformers"),
    "dpo": (*JAX, "jinja2", "torch", "transformers", "datasets", "trl"),
    "sample": (*JAX, "torch", "transformers"),
    "rl": (*JAX, "torch", "transformers"),
}
# JAX takes what it needs, not three quarters of the memory; nothing is fetched.
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
LAYOUTS = ("shared", "packed", "padded")  # the fastest first


class Side(NamedTuple):
    """One program to time.

    Attributes:
      name: in the table.
      run: times it; returns figures by name.
      beside: the side that its speed is a ratio to.
    """

    name: str
    run: Callable[[], dict[str, Any]]
    beside: str | None = None


class Files(NamedTuple):
    """What the part "rl" learns from, and with, where it is there."""

    run: pathlib.Path = pathlib.Path("runs/smollm2")
    questions: pathlib.Path = pathlib.Path("gsm8k.jsonl")


FILES = Files()


def sides(
    part: str, small: bool, seconds: float = SECONDS, files: Files = FILES
) -> list[Side]:
    """The sides of a part; those first that others are compared with.

    Args:
      seconds: that one which does what it can in the time has.
    """
    if part == "rl":
        return _rl_sides(small, seconds, files)
    return {
        "check": _check_sides,
        "pretrain": _pretrain_sides,
        "sft": _sft_sides,
        "dpo": _dpo_sides,
        "sample": _sample_sides,
    }[part](small)


def _step_arguments(flags: str) -> argparse.Namespace:
    from tools import benchmark_step

    return benchmark_step.parser().parse_args(flags.split())


def _step(flags: str, torch: bool) -> dict[str, Any]:
    """A step of `tools/benchmark_step.py`, by alignjax or by torch."""
    from tools import benchmark_step, timing

    args = _step_arguments(flags)
    facts: dict[str, Any] = {}
    if torch:
        run = benchmark_step.torch_step(args, benchmark_step.build(args)[0].config)
    else:
        run, facts, _ = benchmark_step.jax_step(args)
    amounts = {"tokens": args.batch * args.length}
    return facts | timing.timed({"side": run}, args.steps, amounts)["side"]


def _steps(models: Mapping[str, str], small: bool) -> list[Side]:
    """Two sides for each model: the flags of `benchmark_step`, by a name."""
    torch = "eager" if small else "compile"
    result = []
    for name, flags in models.items():
        flags += f" --torch={torch}"
        other = f"{name} torch {torch}"
        run = lambda flags=flags, torch=True: _step(flags, torch)
        result.append(Side(other, run))
        own = lambda flags=flags: _step(flags, False)
        result.append(Side(f"{name} alignjax", own, other))
    return result


def _pretrain_sides(small: bool) -> list[Side]:
    tiny = "--vocab=307 --length=32 --batch=8 --steps=2 --layers=2"
    if small:
        return _steps({"llama/nano": f"--model=llama/nano {tiny}"}, small)
    common = "--dtype=bfloat16 --steps=10 --logits_dtype=bfloat16"
    return _steps(
        {
            "gpt2/124m": f"--model=gpt2/124m --vocab=50304 --length=1024 --batch=32 "
            f"{common}",
            "llama/1b": f"--model=llama/1b --vocab=128256 --length=2048 --batch=8 "
            f"{common}",
        },
        small,
    )


def _sft_sides(small: bool) -> list[Side]:
    tiny = "--vocab=307 --length=32 --batch=8 --steps=2 --layers=2 --lora=4"
    if small:
        return _steps({"llama/nano LoRA": f"--model=llama/nano {tiny}"}, small)
    flags = "--model=llama/1b --vocab=128256 --length=2048 --batch=8 --lora=16"
    flags += " --dtype=bfloat16 --steps=10 --logits_dtype=bfloat16"
    return _steps({"llama/1b LoRA": flags}, small)


def _dpo_arguments(small: bool) -> argparse.Namespace:
    sizes = dict(model="llama/1b", layers=None, vocab=128_256, pairs=32, length=512)
    sizes |= dict(dtype="bfloat16", microbatches=4, steps=5, chunk="auto")
    if small:
        sizes |= dict(model="llama/nano", layers=2, vocab=307, pairs=4, length=32)
        sizes |= dict(dtype="float32", microbatches=2, steps=2, chunk=16)
    options = dict(attention="auto", remat="auto", unroll="auto")
    options |= dict(checkpointing=False, row_length=2 * sizes["length"])
    return argparse.Namespace(**sizes, **options)


def _random_pairs(args: argparse.Namespace) -> list[tuple]:
    """Pairs of random tokens: prompts of about half the length, responses of the rest.

    The last token ends a response and stands nowhere else, and 0 is padding.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    end, pairs = args.vocab - 1, []
    for _ in range(args.pairs):
        prompt = int(rng.integers(args.length // 4, args.length // 2))
        parts = [rng.integers(1, end, prompt).tolist()]
        for _ in range(2):
            most = args.length - prompt - 1
            size = int(rng.integers(most // 2, most))
            parts.append([*rng.integers(1, end, size).tolist(), end])
        pairs.append(tuple(parts))
    return pairs


def _dpo(small: bool, layout: str | None, stored: bool) -> dict[str, Any]:
    """A step of DPO by alignjax in a layout, or by TRL where that is None."""
    from tools import benchmark_dpo, timing

    args = _dpo_arguments(small)
    pairs = _random_pairs(args)
    tokens = sum(2 * len(p) + len(c) + len(r) for p, c, r in pairs)
    if layout is None:
        requires.trl()
        from tools import benchmark_dpo_trl

        model = benchmark_dpo.build(args, args.vocab, args.unroll)
        side = benchmark_dpo_trl.Step(model.config, pairs, stored, args)
    else:
        side = benchmark_dpo.Jax(args, pairs, args.vocab, layout, stored)
    amounts = {"pairs": len(pairs), "tokens": tokens}
    figures = timing.timed({"side": side}, args.steps, amounts)["side"]
    return figures if layout is None else figures | timing.of_program(side.compiled)


def _dpo_sides(small: bool) -> list[Side]:
    result = []
    for layout in (None, *LAYOUTS):
        for stored in (True, False):
            way = "stored" if stored else "model"
            run = functools.partial(_dpo, small, layout, stored)
            other = f"trl {way}"
            if layout is None:
                result.append(Side(other, run))
            else:
                result.append(Side(f"alignjax {layout} {way}", run, other))
    return result


def _sample_sides(small: bool) -> list[Side]:
    sizes = dict(model="llama/1b", vocab=128_256, layers=None, batch=64, prompt=128)
    sizes |= dict(max_tokens=128, dtype="bfloat16")
    if small:
        sizes |= dict(model="llama/nano", vocab=307, layers=2, batch=2, prompt=8)
        sizes |= dict(max_tokens=8, dtype="float32")
    other = "transformers"
    return [
        Side(other, lambda: _sample_torch(**sizes)),
        Side("alignjax", lambda: _sample_jax(**sizes), other),
    ]


def _sampled(run: Callable[[], Any], batch: int, max_tokens: int) -> dict[str, Any]:
    """The time of the fastest of three calls, the first left out."""
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    best = min(seconds[1:])
    return {"step_s": best, "tokens_per_second": batch * max_tokens / best}


def _sample_model(model: str, vocab: int, layers: int | None, length: int, dtype: str):
    from alignjax import models

    family, name = model.split("/")
    section = dict(family=family, name=name, layers=layers, dtype=dtype)
    return models.build({**section, "max_length": length}, vocab)


def _sample_jax(model, vocab, layers, batch, prompt, max_tokens, dtype):
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from alignjax import sampling

    built = _sample_model(model, vocab, layers, prompt + max_tokens, dtype)
    init = lambda key: jax.tree.map(
        lambda x: x.astype(dtype), nn.unbox(built.init(key))
    )
    params = jax.jit(init)(jax.random.key(0))
    prompts = jax.random.randint(jax.random.key(1), (batch, prompt), 1, vocab - 1)
    draw = sampling.Draw(
        jax.random.split(jax.random.key(2), batch),
        jnp.ones(vocab, bool),
        jnp.zeros(vocab, bool),  # nothing ends a response
        sampling.settings(temperature=1.0),
    )
    mask = jnp.ones(prompts.shape, bool)
    sample = jax.jit(
        lambda params: sampling.sample(built, params, prompts, mask, draw, max_tokens)
    )
    return _sampled(lambda: jax.block_until_ready(sample(params)), batch, max_tokens)


def _sample_torch(model, vocab, layers, batch, prompt, max_tokens, dtype):
    import torch

    from tools import timing

    built = _sample_model(model, vocab, layers, prompt + max_tokens, dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    family = model.split("/")[0]
    other = timing.in_transformers(family, built.config).to(
        device, getattr(torch, dtype)
    )
    other.eval()
    prompts = torch.randint(1, vocab - 1, (batch, prompt), device=device)
    options = dict(min_new_tokens=max_tokens, max_new_tokens=max_tokens, do_sample=True)
    options |= dict(top_k=0, pad_token_id=0, attention_mask=torch.ones_like(prompts))

    def run():
        with torch.inference_mode():
            other.generate(prompts, **options)
        if device == "cuda":
            torch.cuda.synchronize()

    return _sampled(run, batch, max_tokens)


def _rl_sides(small: bool, seconds: float, files: Files) -> list[Side]:
    from tools import benchmark_gpu_rl

    other = "transformers generate"
    return [
        Side(other, lambda: benchmark_gpu_rl.drawn(small, True)),
        Side("alignjax responses", lambda: benchmark_gpu_rl.drawn(small, False), other),
        Side("GSM8K", lambda: benchmark_gpu_rl.learned(small, seconds, *files)),
    ]


def _check_sides(small: bool) -> list[Side]:
    flags = ["--lengths", "5", "33"] if small else []
    return [Side("attention", lambda: _check(flags))]


def _check(flags: list[str]) -> dict[str, Any]:
    """What `tools/check_attention.py` says at its end.

    Raises:
      ValueError: it finds a difference that rounding does not explain.
    """
    from tools import check_attention

    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = check_attention.main(flags)
    lines = output.getvalue().splitlines()
    if code:
        raise ValueError(f"{lines[-1]}; python tools/check_attention.py shows where")
    return {"kinds": len(lines) - 2, "result": lines[-1]}


def drive(
    part: str, small: bool, seconds: float = SECONDS, files: Files = FILES
) -> dict[str, Any]:
    """Runs the sides of a part one after the other; figures or what failed, by name."""
    start, results = time.monotonic(), {}
    for side in sides(part, small):
        left = seconds - (time.monotonic() - start)
        figures = _in_own_process(part, small, side, left, files)
        beside = results.get(side.beside or "", {})
        if "tokens" in beside and "tokens" in figures:  # which differ by chance
            figures["times_as_fast"] = (
                figures["tokens_per_second"] / beside["tokens_per_second"]
            )
        elif "step_s" in beside and "step_s" in figures:
            figures["times_as_fast"] = beside["step_s"] / figures["step_s"]
        results[side.name] = figures
        print(_line(side.name, figures), flush=True)
    return results


def _in_own_process(
    part: str, small: bool, side: Side, left: float, files: Files
) -> dict[str, Any]:
    """The figures of a side, or why it has none, within `left` seconds."""
    if left < 5:
        return {"failed": "the seconds of the part are over"}
    command = [sys.executable, __file__, f"--part={part}", "--side", side.name]
    command += [f"--seconds={left:.0f}", *["--small"] * small]
    command += [f"--{name}={path}" for name, path in files._asdict().items()]
    options = dict(capture_output=True, text=True, env={**ENVIRONMENT, **os.environ})
    try:
        done = subprocess.run(command, timeout=left, **options)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in the {left:.0f} seconds that were left"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["?"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def _line(name: str, figures: Mapping[str, Any]) -> str:
    shown = [
        f"{key} {value:,.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in figures.items()
    ]
    return f"{name:28} " + "  ".join(shown)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--part", required=True, choices=PARTS)
    add("--small", action="store_true", help="tiny sizes, which a CPU runs")
    add("--seconds", type=float, default=SECONDS, help="of a part (%(default)s)")
    add("--json", metavar="FILE", help="keep the figures there")
    for name, path in FILES._asdict().items():
        what = {"run": "of SmolLM2, which learns", "questions": "GSM8K's, JSON lines"}
        add(f"--{name}", type=pathlib.Path, default=path, help=f"rl: {what[name]}")
    add("--side", help=argparse.SUPPRESS)  # of this process
    args = parser.parse_args()
    files = Files(args.run, args.questions)
    if args.side:
        named = {x.name: x for x in sides(args.part, args.small, args.seconds, files)}
        side = named[args.side]
        print(json.dumps(side.run()))
        return errors.DONE
    requires.packages(*PACKAGES[args.part])
    device = _device()
    if "GPU" not in device and not args.small:
        print(f"no GPU here ({device}); --small runs on it", file=sys.stderr)
        return errors.CONFIG
    print(device, flush=True)
    results = drive(args.part, args.small, args.seconds, files)
    if args.json:
        report = {"part": args.part, "small": args.small, "device": device}
        text = json.dumps({**report, "sides": results}, indent=1)
        pathlib.Path(args.json).write_text(text + "\n", encoding="utf-8")
    failed = [name for name, figures in results.items() if "failed" in figures]
    return 1 if failed else errors.DONE


def _device() -> str:
    """The device and the versions, asked in a process that then lets go of it."""
    program = "import jax; d = jax.devices()[0]; "
    program += "print(d.platform.upper(), d.device_kind, 'jax', jax.__version__)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout.strip() or done.stderr.strip()[-300:]).splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
r"""Times a train step on random tokens, alone or beside the same step in PyTorch.

    python tools/benchmark_step.py --model=llama/17m --vocab=8192 --batch=8 --length=512
    python tools/benchmark_step.py --model=gpt2/124m --dtype=bfloat16 --batch=32 \
        --length=1024 --vocab=50304 --torch=compile

Needs jax, flax, optax and ml_collections only; `--torch` also torch and transformers.
The two sides take turns, a few steps each, so that a machine whose speed drifts slows
both alike. Figures are medians over the steps; the first step, which compiles, is
reported apart. MFU counts causal attention (see
`alignjax.tracking.throughput`); a chip whose peak is not known gets none.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time

from alignjax import errors

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from alignjax import models, objectives, trees
from alignjax.distributed import sharding
from alignjax.models import decoder
from alignjax.tracking import throughput
from alignjax.training import optim, state, step
from alignjax.types import Frozen, Sequences
from tools import requires, timing


def random_batch(args) -> np.ndarray:
    shape = (args.batch, args.length + 1)
    return np.random.default_rng(0).integers(0, args.vocab, shape).astype(np.int32)


def objective_section(args) -> dict:
    fields = {"chunk": args.chunk, "logits_dtype": args.logits_dtype}
    return {"name": "language_model", **fields}


def build(args):
    """The model, the objective and the optimizer, and a pattern of what is trained.

    Raises:
      ConfigError: there is no such model.
    """
    family, _, name = args.model.partition("/")
    section = {"family": family, "name": name, "dtype": args.dtype}
    section |= {"vocab_size": args.vocab, "max_length": args.length}
    section |= {"attention": args.attention, "remat": args.remat}
    section |= {"layers": args.layers, "unroll": args.unroll}
    section |= {"lora_rank": args.lora} if args.lora else {}
    model = models.build(section, args.vocab)
    objective = objectives.build(model, objective_section(args))
    adamw = {"name": "adamw", "clip_norm": 1.0, "weight_decay": 0.1}
    trainable = ".*/lora_.*" if args.lora else ".*"
    return model, objective, optim.build(adamw, 1e-4), trainable


def jax_step(args):
    """Returns (run one step and wait, facts about the compiled step, its config).

    Raises:
      ConfigError: there is no such model, or the batch cannot be divided.
    """
    model, objective, optimizer, trainable = build(args)
    rules = sharding.rules()
    mesh = sharding.make_mesh({"fsdp": -1})
    parts = sharding.batch_divisor(mesh, rules) * args.microbatches
    if args.batch % parts:
        raise errors.ConfigError(
            f"batch: {args.batch} is not a multiple of {parts}, the microbatches times "
            "the devices; change either"
        )
    batch = Sequences.of(random_batch(args))
    with sharding.use(mesh, rules):
        model = timing.fitted(model, batch, args.batch // parts, parts=mesh.size)
        objective = objectives.build(model, objective_section(args))
        whole = state.abstract_params(model, mesh, rules)
        _, base = state.partition(whole, trainable)
        frozen = Frozen(state.init_params(model, base, jax.random.key(0)))
        abstract = state.abstract_state(model, optimizer, mesh, rules, trainable)
        train_state = state.init_state(model, optimizer, abstract, jax.random.key(0))
        batch = sharding.put_batch(batch, args.batch, mesh, rules)
        train_step = jax.jit(
            step.make_train_step(objective, optimizer, microbatches=args.microbatches),
            donate_argnums=0,
            out_shardings=(state.shardings(abstract), None),
        )
        key = jax.random.key(1)
        start = time.perf_counter()
        compiled = train_step.lower(train_state, frozen, batch, key).compile()
        seconds = time.perf_counter() - start

    def run():
        nonlocal train_state
        train_state, metrics = compiled(train_state, frozen, batch, key)
        return float(metrics["loss"])

    facts = {
        "parameters": trees.count(whole),
        "flops_per_token": decoder.flops_per_token(
            model, args.length, trainable=trainable
        ),
        "compile_seconds": seconds,
        "remat": model.config.remat,
        "unroll": model.config.unroll,
    }
    return run, facts | timing.of_program(compiled), model.config


def torch_step(args, c):
    """The same in transformers; returns a function that runs one step and waits."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    family = args.model.split("/")[0]
    model = timing.in_transformers(family, c)
    if args.lora:
        add_adapters(model, args.lora)
    model.to(device).train()
    if args.torch == "compile":
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), 1e-4, weight_decay=0.1, fused=device == "cuda"
    )
    tokens = torch.from_numpy(random_batch(args)).long().to(device)
    autocast = torch.autocast(
        device, dtype=torch.bfloat16, enabled=args.dtype == "bfloat16"
    )

    def run():
        with autocast:
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return run


def add_adapters(model, rank: int) -> None:
    """LoRA on all projections of a model of transformers, and nothing else trained.

    PEFT's are the same modules with more options.
    """
    import torch

    class Adapted(torch.nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.linear = linear
            self.a = torch.nn.Linear(linear.in_features, rank, bias=False)
            self.b = torch.nn.Linear(rank, linear.out_features, bias=False)
            torch.nn.init.zeros_(self.b.weight)

        def forward(self, x):
            return self.linear(x) + self.b(self.a(x)) * (16.0 / rank)

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                setattr(module, name, Adapted(child))


def parser() -> argparse.ArgumentParser:
    """The options, of which `tools/benchmark_gpu.py` gives some too."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--model", default="llama/17m", help="family/size")
    add("--vocab", type=int, default=8192)
    add("--layers", type=int, help="instead of the size's own")
    add("--batch", type=int, default=8)
    add("--length", type=int, default=512)
    add("--microbatches", type=int, default=1)
    add("--dtype", default="float32", choices=["float32", "bfloat16"])
    add("--attention", default="auto")
    add("--remat", default="auto", help="or none, dots, attention, full")
    number = dict(type=timing.number, default="auto")
    add("--unroll", **number, help="layers in a turn of the loop")
    add("--chunk", **number, help="tokens unembedded at once")
    add("--logits_dtype", default="float32", choices=["float32", "bfloat16"])
    add("--steps", type=int, default=10)
    add("--torch", default="none", choices=["none", "eager", "compile"])
    add("--lora", type=int, help="trains adapters of this rank alone")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def main() -> int:
    args = (options := parser()).parse_args()
    for name in ("vocab", "batch", "length", "microbatches", "steps"):
        if (value := getattr(args, name)) < 1:
            options.error(f"--{name}: {value} must be at least 1")
    if args.torch != "none":
        requires.packages("torch", "transformers")

    try:
        run, facts, c = jax_step(args)
    except errors.ConfigError as error:
        print(error, file=sys.stderr)
        return errors.CONFIG
    sides = {"alignjax": run}
    if args.torch != "none":
        sides[f"torch-{args.torch}"] = torch_step(args, c)
    device = jax.devices()[0]
    peak = throughput.peak_flops(device.device_kind)
    report = {"device": f"{jax.device_count()} x {device.device_kind}", **facts}
    amounts = {"tokens": args.batch * args.length}
    for name, times in timing.timed(sides, args.steps, amounts).items():
        report[name] = times
        if peak is not None:
            flops = times["tokens_per_second"] * facts["flops_per_token"]
            times["mfu"] = flops / (peak * jax.device_count())
    if len(sides) == 2:
        ours, theirs = (report[name]["step_s"] for name in sides)
        report["ratio"] = ours / theirs
    timing.show(report, args.json)
    return errors.DONE


if __name__ == "__main__":
    sys.exit(main())

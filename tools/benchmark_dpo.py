# SPDX-License-Identifier: Apache-2.0
r"""Times a step of DPO on real pairs, in every layout, alone or beside TRL's trainer.

    python tools/benchmark_dpo.py --data=hh.jsonl
    python tools/benchmark_dpo.py --data=hh.jsonl --trl --steps=9
    python tools/benchmark_dpo.py --model=llama/1b --dtype=bfloat16 --pairs=16 \
        --length=512 --layouts=padded,packed,shared --row-length=2048

The pairs are the first that fit: `chosen` and `rejected` dialogues of a JSON-lines file
as Anthropic's HH has them, else pairs of the embedded world. Both sides get the same
token ids, of a tokenizer trained on that text. A step is forward, backward and AdamW;
the reference is a second model, or its log-probabilities of the pairs, stored. All
variants take turns, so that a machine whose speed drifts slows all alike. Figures are
medians; tokens are those of prompts and responses, a prompt counted once a response, so
that variants that skip work do not seem to have less to do.

With `--analyse` also, by XLA's own analyses: temporary memory of the gradient as it is
configured, the same unchunked (with the logits of all positions at once), and plain
(unchunked, and nothing recomputed); and FLOPs of the gradient with and without the
stored reference, with all loops unrolled, since XLA counts the body of a loop once.

`--trl` needs torch, transformers, datasets and trl.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import flax.linen as nn
import jax
import numpy as np

from alignjax import cli, models, objectives, trees, types
from alignjax.data import loader
from alignjax.data.chat import templates
from alignjax.data.tokenizers import base
from alignjax.objectives import chunks, logprobs
from alignjax.training import optim, step
from alignjax.types import Frozen, TrainState
from tools import pair_batches, requires, timing

BETA, RATE = 0.1, 1e-6
OPTIMIZER = {"name": "adamw", "clip_norm": 1.0, "weight_decay": 0.0}


def load_pairs(args) -> tuple[list[tuple], int]:
    """The first pairs of at most `--length` tokens, as ids, and the vocabulary."""
    section = {"kind": "world", "preset": "small", "split": "preferences"}
    if args.data:
        section = {"kind": "jsonl", "path": args.data, "format": "hh"}
    rows = dict(chat="roles", pack="none", long_documents="skip", on_bad_row="skip")
    cfg = loader.DataConfig(sources={"pairs": section}, **rows)
    sources = loader.load_sources(cfg.sources, "sources").values()
    trained = base.TokenizerConfig(
        kind="sentencepiece", vocab_size=args.vocab, control_tokens=templates.CONTROL
    )
    tok = base.build(trained, sources, args.cache_dir, "skip")
    options = dict(length=args.length - 1, seed=0, cache_dir=args.cache_dir)
    data = loader.build(cfg, tok, **options, data="pairs")
    if data.num_rows < args.pairs:
        raise SystemExit(f"--pairs: {args.pairs}, and {data.num_rows} fit --length")
    batch = types.batch(data.epoch_rows(np.arange(args.pairs)))
    return pair_batches.of_batch(batch), tok.vocab_size


class Jax:
    """A train step in one layout; made once, run any number of times."""

    def __init__(self, args, documents, vocab: int, layout: str, stored: bool):
        self.args = args
        self.optimizer = optim.build(OPTIMIZER, RATE)
        length = args.length - 1 if layout == "padded" else args.row_length
        rows = args.microbatches if layout != "padded" else None
        batch = pair_batches.batch(documents, layout, length, rows=rows)
        uneven = -len(batch.weights) % args.microbatches
        if uneven:
            rows = len(batch.weights) + uneven
            batch = pair_batches.batch(documents, layout, length, rows=rows)
        sequences = batch.sequences
        model = build(args, vocab, args.unroll)
        self.model = timing.fitted(
            model,
            sequences,
            sequences.inputs[..., 0].size // args.microbatches,
            copies=4 if stored else 5,
        )
        self.objective = dpo(self.model, args.chunk)
        init = jax.jit(lambda key: nn.unbox(self.model.init(key)))
        # Not the same as the policy, as in training: their log-ratios are not zeros.
        params, reference = init(jax.random.key(0)), init(jax.random.key(1))
        self.frozen = Frozen(reference=reference)
        if stored:
            batch = self._stored(batch, reference)
            self.frozen = Frozen()
        self.batch = jax.device_put(batch)
        opt_state = jax.jit(self.optimizer.init)(params)
        self.state = TrainState(jax.numpy.zeros((), np.int32), params, opt_state)
        self.parameters = trees.count(params)
        train_step = step.make_train_step(
            self.objective, self.optimizer, microbatches=args.microbatches
        )
        self.key = jax.random.key(1)
        jitted = jax.jit(train_step, donate_argnums=0)
        lowered = jitted.lower(self.state, self.frozen, self.batch, self.key)
        self.compiled = lowered.compile()

    def __call__(self) -> float:
        """One step; returns the loss, so it waits."""
        arguments = self.state, self.frozen, self.batch, self.key
        self.state, metrics = self.compiled(*arguments)
        return float(metrics["loss"])

    def _stored(self, batch, reference):
        tokens = functools.partial(logprobs.tokens, self.model, chunk=self.args.chunk)
        run = jax.jit(lambda params, rows: tokens(params, rows).logp)
        logp = run(reference, logprobs.flatten_sequences(batch))
        logp = np.asarray(logp).reshape(batch.responses.shape)
        return batch.replace(reference=np.where(batch.responses > 0, logp, 0))


def build(args, vocab: int, unroll: int | str):
    """The model of `--model`."""
    family, name = args.model.split("/")
    section = {"family": family, "name": name, "dtype": args.dtype}
    section |= {"attention": args.attention, "remat": args.remat, "unroll": unroll}
    section |= {"layers": args.layers}
    section["max_length"] = max(args.length, args.row_length)
    return models.build(section, vocab)


def dpo(model: types.Model, chunk: chunks.Chunk) -> types.Objective:
    section = {"name": "preference", "loss": "dpo", "beta": BETA, "chunk": chunk}
    return objectives.build(model, section)


def analyses(args, documents, vocab: int) -> dict[str, float]:
    """Memory and FLOPs by XLA's analyses, in the padded layout."""
    batch = pair_batches.batch(documents, "padded", args.length - 1)
    whole = batch.responses.size
    stored = batch.replace(reference=np.zeros(batch.responses.shape, np.float32))

    def compiled(chunk, unroll, batch, with_reference, remat=args.remat):
        options = argparse.Namespace(**{**vars(args), "remat": remat})
        model = build(options, vocab, unroll)
        objective = dpo(model, chunk)
        init = lambda key: nn.unbox(model.init(key))
        shapes = jax.eval_shape(init, jax.random.key(0))

        def total(params, reference, batch):
            frozen = Frozen(reference=reference)
            loss, metrics = objective.loss(params, frozen, batch, None, False)
            return loss.value(), metrics

        gradient = jax.jit(jax.grad(total, has_aux=True))
        reference = shapes if with_reference else None
        return gradient.lower(shapes, reference, batch).compile()

    mebibytes = lambda step: step.memory_analysis().temp_size_in_bytes / 2**20
    layers = build(args, vocab, 1).config.layers
    flops = lambda step: step.cost_analysis()["flops"]
    chunked = mebibytes(compiled(args.chunk, args.unroll, batch, True))
    unchunked = mebibytes(compiled(whole, args.unroll, batch, True))
    plain = unchunked
    if args.remat not in ("none", "auto"):  # which is none where memory is not known
        plain = mebibytes(compiled(whole, args.unroll, batch, True, "none"))
    with_model = flops(compiled(whole, layers, batch, True))
    with_store = flops(compiled(whole, layers, stored, False))
    return {
        "gradient_MiB_chunked": chunked,
        "gradient_MiB_unchunked": unchunked,
        "gradient_MiB_plain": plain,
        "ratio_to_unchunked": chunked / unchunked,
        "ratio_to_plain": chunked / plain,
        "gradient_GFLOP_reference": with_model / 1e9,
        "gradient_GFLOP_stored": with_store / 1e9,
        "flops_saved": 1 - with_store / with_model,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--data", help="a JSON-lines file of HH; else the world's pairs")
    add("--model", default="llama/17m", help="family/size")
    add("--layers", type=int, help="instead of the size's own")
    add("--vocab", type=int, help="8192; 2048 for the world's pairs")
    add("--pairs", type=int, default=8, help="of a step")
    add("--length", type=int, default=256, help="tokens of a dialogue")
    add("--row-length", type=int, help="targets of packed and shared rows; 2 x length")
    add("--layouts", default="padded", help=f"some of {','.join(pair_batches.LAYOUTS)}")
    add("--references", default="model,stored", help="some of model,stored")
    add("--microbatches", type=int, default=1)
    add("--dtype", default="float32", choices=["float32", "bfloat16"])
    add("--attention", default="auto")
    add("--remat", default="auto", help="or none, dots, attention, full")
    number = dict(type=timing.number, default="auto")
    add("--unroll", **number, help="layers in a turn of the loop")
    add("--chunk", **number, help="tokens unembedded at once")
    add("--steps", type=int, default=5)
    add("--trl", action="store_true", help="beside TRL's DPOTrainer")
    add(
        "--checkpointing",
        action="store_true",
        help="TRL's own default, which is slower",
    )
    add("--analyse", action="store_true", help="memory and FLOPs too")
    add("--cache-dir", default=cli.CACHE_DIR)
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.trl:
        requires.trl()
    args.row_length = args.row_length or 2 * args.length
    args.vocab = args.vocab or (8192 if args.data else 2048)
    args.cache_dir = pathlib.Path(args.cache_dir).expanduser()

    documents, vocab = load_pairs(args)
    tokens = sum(2 * len(p) + len(c) + len(r) for p, c, r in documents)
    longest = max(len(p) + max(len(c), len(r)) for p, c, r in documents)
    report = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "pairs": len(documents),
        "tokens": tokens,
        "longest": longest,
    }
    if args.analyse:
        report |= analyses(args, documents, vocab)
    sides, ways = {}, args.references.split(",")
    for layout in args.layouts.split(","):
        for way in ways:
            side = Jax(args, documents, vocab, layout, way == "stored")
            sides[f"alignjax {layout} {way}"] = side
            report["parameters"] = side.parameters
            rows = "x".join(map(str, side.batch.sequences.inputs.shape))
            report[f"rows {layout}"] = rows
    if args.trl:
        from tools import benchmark_dpo_trl

        for way in ways:
            sides[f"trl {way}"] = benchmark_dpo_trl.Step(
                side.model.config, documents, way == "stored", args
            )
    amounts = {"pairs": len(documents), "tokens": tokens}
    report |= timing.timed(sides, args.steps, amounts)
    if args.trl:
        for way in ways:
            theirs = report[f"trl {way}"]["step_s"]
            for layout in args.layouts.split(","):
                name = f"alignjax {layout} {way}"
                report[name]["times_trl"] = theirs / report[name]["step_s"]
                if way == "stored" and "trl model" in report:
                    full = report["trl model"]["step_s"]
                    report[name]["times_trl_model"] = full / report[name]["step_s"]
    timing.show(report, args.json)


if __name__ == "__main__":
    main()

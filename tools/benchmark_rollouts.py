# SPDX-License-Identifier: Apache-2.0
r"""Times the responses of whole rollouts, packed as they end and in one loop until the
last one ends, by the processor's seconds.

    python tools/benchmark_rollouts.py --run=runs/quickstart/sft

Prompts, room and temperature are those of `configs/rl/world_rloo.py`: 32 prompts with 8
responses each unless told otherwise. `packed` is what rollouts do: a group's prompt is
read once, and rows that are done leave the batch (`sampling.respond`). `loop` reads
the prompt of each response and goes on until the last one is done (`sampling.sample`).
Both draw the same tokens, which is checked. `tokens` counts those of responses;
`utilisation` is their share of the tokens that were computed; `roofline` the share of
the time that XLA's products of these with the weights take in a loop of nothing else
(`benchmark_sampling.products`).
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from alignjax import analysis, config, sampling
from alignjax.distributed import sharding
from alignjax.experiment import build
from alignjax.sampling import batches
from configs.rl import world_rloo
from tools import benchmark_sampling, timing


def experiment(args: argparse.Namespace) -> build.Experiment:
    """The experiment of the config, with so many prompts and responses."""
    c = world_rloo.get_config()
    c.init.run, c.cache_dir = args.run, args.cache
    c.batch_size, c.rollouts.samples = args.prompts, args.samples
    c.length = args.length or c.length
    return build.build(config.to_json(c))


def sides(run, prompts: int, samples: int, number: int):
    """Functions that draw the responses of one rollout: their tokens, by side."""
    rollouts, params = run.rollouts, run.weights.state().params
    sampler, first = rollouts.sampler, number * prompts
    asked = rollouts.prompts.take(first, prompts)

    def packed():
        return sampler(params, asked, first=first, samples=samples).ids

    def respond(model, params, prompts_GP, mask_GP, draw, room, *, samples, **_):
        repeat = lambda x: np.repeat(x, samples, axis=0)
        one = _sample(model, params, repeat(prompts_GP), repeat(mask_GP), draw, room)
        return jax.tree.map(np.asarray, one)

    def loop():
        whole = sampling.respond
        sampling.respond = respond
        try:
            return packed()
        finally:
            sampling.respond = whole

    return {"packed": packed, "loop": loop}


_sample = jax.jit(sampling.sample, static_argnums=(0, 5))


def computed(lengths: np.ndarray, side: str) -> int:
    """Tokens of all rows of a batch, those of rows that are done included."""
    if side == "loop":
        return len(lengths) * int(lengths.max())
    total, size = 0, len(lengths)
    for step in range(0, int(lengths.max()), batches.CHUNK):
        while size // 2 >= max(batches.SMALLEST, (lengths > step).sum()):
            size //= 2
        total += size * min(batches.CHUNK, int(lengths.max()) - step)
    return total


def main() -> int:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("--run", required=True, help="a fine-tuned run of the world")
    parser.add_argument("--prompts", type=int, default=32, help="%(default)s")
    parser.add_argument("--samples", type=int, default=8, help="%(default)s")
    parser.add_argument("--length", type=int, help="of prompt and response")
    parser.add_argument("--turns", type=int, default=5, help="%(default)s")
    parser.add_argument("--cache", default="runs/cache", help="of data (%(default)s)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    run = experiment(args)
    stored = analysis.open_run(args.run)
    with sharding.use(run.mesh, run.rules):
        drawn = sides(run, args.prompts, args.samples, number=0)
        ids = {name: draw() for name, draw in drawn.items()}  # compiles
        if not all(map(np.array_equal, *ids.values())):
            raise AssertionError("both sides draw the same tokens")
        lengths = np.array([len(row) for row in ids["packed"]])
        case = benchmark_sampling.Case(
            model=stored.config["model"],
            vocab=stored.model.config.vocab_size,
            prompts=args.prompts,
            length=1,
            ends=0,
            samples=args.samples,
        )
        drawn["products"] = benchmark_sampling.products(case)
        drawn["products"]()
        seconds = {name: [] for name in drawn}
        for _ in range(args.turns):
            for name, draw in drawn.items():
                start = time.process_time()
                draw()
                seconds[name].append(time.process_time() - start)
    least = {name: min(values) for name, values in seconds.items()}
    floor = least.pop("products") / (len(lengths) * case.max_tokens)
    report = {}
    for name, value in least.items():
        count = computed(lengths, name)
        report[name] = {
            "cpu_s": value,
            "tokens": int(lengths.sum()),
            "tokens_per_cpu_s": lengths.sum() / value,
            "utilisation": lengths.sum() / count,
            "roofline": floor * count / value,
        }
    report["ratio"] = least["loop"] / least["packed"]
    timing.show(report, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

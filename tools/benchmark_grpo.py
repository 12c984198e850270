# SPDX-License-Identifier: Apache-2.0
r"""Times a whole step of GRPO, sampling included, beside TRL's GRPOTrainer.

    python tools/benchmark_grpo.py --run=runs/quickstart/sft --steps=5

Both start from the parameters of one run (a Llama) and get the same prompts of the
embedded world as token ids, in the same order: `--prompts` of them a step, `--samples`
responses to each of at most `--tokens` tokens, which end by themselves where the run
ends them. The reward is the length of a response. A step is all of it: sampling,
rewards, log-probs of policy and reference, GRPO's loss with k3 in it, and AdamW. The
sides take turns in one process, so that a machine whose speed drifts slows both; a
figure is that of the fastest turn by seconds of processor time of all threads, which
neighbours on a busy machine change less than time on the wall, given beside it. What
compiles does so before: some steps that do not count, after which the same prompts come
again. Torch has one thread unless `--threads` says otherwise. Responses differ by
chance, so tokens a second are given too.

Needs torch, transformers, datasets and trl.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax

from alignjax import config
from alignjax.distributed import sharding
from alignjax.experiment import build, running
from alignjax.rollouts import source
from configs import base
from tools import requires, timing

RATE, BETA = 1e-6, 0.04
PER_TOKEN = 0.01  # of the reward
WARMUP = 6


def section(args, cache: str) -> dict:
    """The config of GRPO as TRL has it, as JSON."""
    c = base.policy_gradient()
    c.init.run = args.run
    c.steps, c.batch_size, c.length = 1000, args.prompts, 64 + args.tokens
    c.data.sources.prompts = dict(kind="world", preset="nano", split="prompts")
    c.data.long_documents = "skip"
    c.data.share_prompt = not args.padded
    c.data.groups_per_row = args.groups_per_row
    c.rollouts.rewards.length = dict(kind="length", per_token=-PER_TOKEN, weight=1.0)
    c.rollouts.samples, c.rollouts.max_tokens = args.samples, args.tokens
    c.rollouts.advantage.name = "grpo"
    c.objective.loss = "ppo_clip"
    c.rollouts.denominator.name = "sequence_mean"
    c.rollouts.kl.place, c.rollouts.kl.estimator = "loss", "k3"
    c.rollouts.kl.coefficient = BETA
    c.optimizer.learning_rate = RATE
    c.cache_dir = cache
    return config.to_json(c)


class Step:
    """A rollout and its update; made once, run any number of times."""

    def __init__(self, experiment: build.Experiment):
        self.experiment = experiment
        self.responses = experiment.rollouts.size * experiment.rollouts.settings.samples
        self.state = experiment.weights.state()
        self.frozen = experiment.weights.frozen()
        self.batches = source.Source(experiment.rollouts, self.frozen, 0)
        self.train_step = running.train_step(experiment)
        self.count = 0
        for _ in range(WARMUP):  # few shapes of rows, of which a rollout has one
            self()
        self.count = 0

    def __call__(self) -> float:
        """One step, to its end; returns how many tokens the responses had."""
        with sharding.use(self.experiment.mesh, self.experiment.rules):
            batch = self.batches(self.count, self.state)
            key = jax.random.key(1)
            self.state, metrics = self.train_step(self.state, self.frozen, batch, key)
        float(metrics["loss"])
        length = self.batches.figures(self.count)["rollout/length"]
        self.count += 1
        return length * self.responses


def measured(sides: Mapping[str, Callable[[], float]], steps: int) -> dict[str, dict]:
    """Figures of the fastest step of each side, after one that does not count."""
    figures = {name: {"cpu_s": float("inf")} for name in sides}
    for turn in range(steps + 1):
        for name, run in sides.items():
            cpu, wall = time.process_time(), time.perf_counter()
            tokens = run()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if turn and cpu < figures[name]["cpu_s"]:
                figures[name] = dict(cpu_s=cpu, wall_s=wall, tokens=tokens)
    for figure in figures.values():
        figure["tokens_per_cpu_s"] = figure["tokens"] / figure["cpu_s"]
        figure["steps_per_cpu_s"] = 1 / figure["cpu_s"]
        figure["steps_per_wall_s"] = 1 / figure["wall_s"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", required=True, help="a run of alignjax, a Llama, such as an SFT's")
    add("--prompts", type=int, default=16, help="of a step (%(default)s)")
    add("--samples", type=int, default=8, help="to each prompt (%(default)s)")
    add("--tokens", type=int, default=48, help="of a response at most (%(default)s)")
    add("--steps", type=int, default=5, help="%(default)s")
    add("--padded", action="store_true", help="a row for each response, as TRL has it")
    add("--groups_per_row", type=int, help="prompts of a row at most")
    add("--threads", type=int, default=1, help="torch's (%(default)s)")
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    requires.trl()
    from tools import benchmark_grpo_trl

    with tempfile.TemporaryDirectory() as cache:
        experiment = build.build(section(args, cache))
        jax_side = Step(experiment)
        trl_side = benchmark_grpo_trl.Step(experiment, jax_side.state.params, args)
        figures = measured({"alignjax": jax_side, "trl": trl_side}, args.steps)
    report = dict(figures)
    for name in ("tokens_per_cpu_s", "steps_per_cpu_s", "steps_per_wall_s"):
        report[f"times TRL's {name}"] = figures["alignjax"][name] / figures["trl"][name]
    timing.show(report, args.json)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The sides of `tools/benchmark_gpu.sh --part=rl`: drawing responses, and learning.

Responses are drawn from a model of the shape of Qwen2.5-0.5B with random weights, 8 to
each of 64 prompts, of 221 tokens on average and 512 at most, beside transformers'
`generate`, which is also what TRL draws with by itself. Then SmolLM2-135M learns from
GSM8K's questions by `configs/rl/gsm8k.py`, for as many rollouts as there is time for.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
TURNS = 2  # calls that are timed, after one that compiles
MARGIN = 30.0  # seconds left at the end, for a process to end in
FILES = {  # of which none is fetched: what makes each
    "run": "tools/real_model.sh makes runs/smollm2",
    "questions": 'the training split of GSM8K, JSON lines of "question" and "answer"',
}
TRAINING = ("orbax", "sentencepiece", "tokenizers")
WORDS = ("no", "one", "two", "three")  # of made-up questions


def drawn(small: bool, torch: bool) -> dict[str, Any]:
    """The time of the fastest call that draws all responses, and their tokens."""
    from tools import benchmark_sampling

    case = benchmark_sampling.TINY if small else benchmark_sampling.HALF_BILLION
    side = benchmark_sampling.transformers if torch else benchmark_sampling.alignjax
    run, turns = side(case), []
    for _ in range(TURNS + 1):
        start = time.perf_counter()
        tokens = run()
        turns.append((time.perf_counter() - start, tokens))
    seconds, tokens = max(turns[1:], key=lambda turn: turn[1] / turn[0])
    return {"step_s": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}


def learned(
    small: bool, seconds: float, run: pathlib.Path, questions: pathlib.Path
) -> dict[str, Any]:
    """Rewards of the first and the last quarter of the rollouts that there is time for.

    Args:
      seconds: until it ends, the time of compilation included.
      run: of SmolLM2; small has a tiny run of the tests.
      questions: GSM8K's; small makes some up.
    """
    ends = time.monotonic() + seconds - MARGIN
    if not small:
        for (name, remedy), path in zip(FILES.items(), (run, questions), strict=True):
            if not path.exists():
                return {"skipped": f"no {name} at {path}; {remedy}"}
    for package in TRAINING:
        if importlib.util.find_spec(package) is None:
            return {"skipped": f"not installed: {package}, which training needs"}
    with tempfile.TemporaryDirectory() as scratch:
        section = _section(small, pathlib.Path(scratch), run, questions)
        turns = list(_rollouts(section, ends))
    rewards, times = zip(*turns, strict=True)
    part = max(1, len(rewards) // 4)
    return {
        "rollouts": len(rewards),
        "reward_first": sum(rewards[:part]) / part,
        "reward_last": sum(rewards[-part:]) / part,
        "rollout_s": min(times),
    }


def _section(small: bool, folder: pathlib.Path, run, questions) -> dict[str, Any]:
    """The config, as JSON; small has tiny sizes."""
    from alignjax import config
    from configs.rl import gsm8k

    c = gsm8k.get_config()
    c.init.run, c.data.sources.gsm8k.path = str(run), str(questions)
    c.cache_dir, c.evaluation.every = str(folder / "cache"), None
    c.steps, c.batch_size = 1000, 32
    c.rollouts.samples, c.rollouts.max_tokens = 8, 256
    c.rollouts.denominator.length, c.length = 256, 768
    c.optimizer.learning_rate, c.model.dtype = 3e-6, "auto"
    if small:
        from tools import make_golden_runs

        rows = [
            {"question": f"what is {a} and {b}?", "answer": f"#### {i + j}"}
            for i, a in enumerate(WORDS)
            for j, b in enumerate(WORDS)
        ]
        path = folder / "questions.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        c.init.run = str(ROOT / make_golden_runs.FOLDER / "sft")
        c.data.sources.gsm8k.path = str(path)
        c.steps, c.batch_size, c.length, c.schedule.warmup_steps = 2, 8, 64, 0
        c.rollouts.samples, c.rollouts.max_tokens = 2, 8
    return config.to_json(c)


def _rollouts(section: dict[str, Any], ends: float) -> Iterator[tuple[float, float]]:
    """The reward of each rollout and its seconds, update included, while time is left.

    Those in which the slowest fits do begin; the first is always drawn.
    """
    import jax

    from alignjax.distributed import sharding
    from alignjax.experiment import build, running
    from alignjax.rollouts import source

    experiment = build.build(section)
    state, frozen = experiment.weights.state(), experiment.weights.frozen()
    batches = source.Source(experiment.rollouts, frozen, experiment.config.seed)
    step = running.train_step(experiment)
    slowest = 0.0
    for number in range(experiment.config.steps):
        start = time.monotonic()
        if number and start + slowest > ends:
            return
        with sharding.use(experiment.mesh, experiment.rules):
            batch = batches(number, state)
            state, metrics = step(state, frozen, batch, jax.random.key(number))
        float(metrics["loss"])
        seconds = time.monotonic() - start
        slowest = max(slowest, seconds if number else 0.0)  # the first one compiles
        yield batches.figures(number)["rollout/reward"], seconds

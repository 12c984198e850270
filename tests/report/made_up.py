# SPDX-License-Identifier: Apache-2.0
"""A story that nobody trained: simulated answers, made-up curves, known numbers."""

import functools
import json

import numpy as np

from alignjax import world
from alignjax.world import chance, replies
from alignjax.world.assessment import __main__ as command
from alignjax.world.assessment import (
    benchmarks,
    language_model,
    results,
    reward_model,
    run_models,
)

TOWN = world.build("nano", 0)
SETTINGS = benchmarks.Settings(each=6, documents=5, pairs=300)
BENCHMARK = benchmarks.Benchmark(TOWN, SETTINGS)
STAGES = ("base", "sft", "dpo")
KINDS = {"base": "pretraining", "sft": "sft", "dpo": "preference"}
# How often each answers as well as can be.
SKILL = {"base": 0.1, "sft": 0.6, "dpo": 1.0}


def interval(mean, half=0.05, count=100):
    return {"mean": mean, "low": mean - half, "high": mean + half, "count": count}


def say(name, question, index):
    rng = chance.stream(name, index)
    good = rng.random() < SKILL[name]
    text = (replies.best if good else replies.mixed)(rng, question.prompt)
    return run_models.Response(text, 9, True, world.gold_reward(question.prompt, text))


@functools.cache
def _results():
    questions = BENCHMARK.questions
    found = results.empty("nano", 0, SETTINGS)
    found["prompts"] = [question.as_json() for question in questions]
    for i, name in enumerate(STAGES):
        said = [say(name, question, n) for n, question in enumerate(questions)]
        sampled = language_model.summarise(questions, said)
        sampled["answers"] = [answer.as_json() for answer in said]
        found["models"][name] = {
            "path": f"/runs/{name}",
            "started_from": f"/runs/{STAGES[i - 1]}" if i else None,
            "digest": name,
            "step": 30,
            "stage": KINDS[name],
            "reads": "roles",
            "sampled": sampled,
            "entropy": interval(0.4),
            "documents": interval(0.617 + 0.1 * i, 0.01),
            "demonstrations": {"token": interval(0.3), "response": interval(3.0)},
        }
    point = lambda kl, gold: {
        "kl": {
            "to": "sft",
            "digest": "sft",
            "kl": interval(kl),
            "log_ratio": interval(kl),
        },
        "gold": {"nine": interval(gold)},
    }
    found["models"]["dpo"] |= {
        "beta": 0.125,
        "kl": point(0.383, 0)["kl"],
        "trajectory": [
            {"step": 10, **point(0.1, 1.2)},
            {"step": 20, **point(0.2, 1.4)},
            {"step": 30, **point(0.3, 1.5)},
        ],
    }
    found["changes"] = command.changes(found["models"], BENCHMARK)
    pairs = BENCHMARK.pairs("eval_preferences", "clean")
    truth = np.array([pair.rewards for pair in pairs])
    judged = reward_model.judge(pairs, truth[:, 0], truth[:, 1])
    found["rewards"]["reward"] = {
        "path": "/runs/reward",
        "started_from": "/runs/sft",
        "step": 30,
        "stage": "reward",
        "reads": "roles",
        "labeler": "clean",
        "splits": {"preferences": judged, "any": judged},
        "padding": {
            "sentences": 2,
            "shift": interval(0.271),
            "preferred": 0.642,
            "gold": -0.3,
        },
    }
    return json.dumps(found)


def measured():
    """Results as the assessment writes them, for the caller to change."""
    return json.loads(_results())


def runs(folder):
    """`NAME=DIR` of a workdir for each stage."""
    named = []
    for name, objective, chat in (
        ("base", "language_model", None),
        ("sft", "language_model", "roles"),
        ("reward", "reward_model", "roles"),
        ("dpo", "preference", "roles"),
    ):
        run = folder / name
        run.mkdir(parents=True)
        config = {"objective": {"name": objective}, "data": {"chat": chat}}
        config |= {"batch_size": 16, "length": 320}
        config["optimizer"] = {"learning_rate": 3e-4}
        config["model"] = {"family": "llama"}
        (run / "config.json").write_text(json.dumps(config))
        with (run / "metrics.jsonl").open("w") as file:
            for step in range(30):
                row = {"step": step, "loss": 2.0 - step / 29, "time": 1e9}
                if step % 10 == 9:
                    row["eval/loss"] = 2.125 - step / 29
                if objective == "preference":
                    row |= {"drift/chosen": -0.01 * step, "drift/rejected": -step / 10}
                    row |= {"pairs": 40 * (step + 1)}
                    if step % 10 == 9:
                        row |= {"eval/drift/chosen": -0.3, "eval/drift/rejected": -2}
                file.write(json.dumps(row) + "\n")
        named.append(f"{name}={run}")
    return named

# SPDX-License-Identifier: Apache-2.0
r"""Trains the tiny runs of tests/golden/runs, and writes what opening them gives.

    python tools/make_golden_runs.py
    python tools/make_golden_runs.py --only=moe,sentencepiece

The runs at hand are from commit a5dcbdf, the last one before the layout of the package
changed; whatever moves, a newer alignjax opens them. Run this again only when a format
of run directories gains a version, and then keep the older runs beside the new ones.

Each folder is a run directory with one step: `config.json`, `tokenizer/`,
`checkpoints/`. Beside it is `NAME.npz`, float32 on a CPU, with what `answers` returns.
Paths in the configs are relative to the root of the checkout, so runs that start from
another find it when the current folder is the root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Mapping

from alignjax import errors

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from alignjax import config, train, types
from alignjax.analysis import open_run
from configs.smoke import dpo, pretrain, reward, sft

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = pathlib.Path("tests/golden/runs")  # under ROOT
KEPT = ("config.json", "tokenizer", "checkpoints")
ROWS, LENGTH, PROMPT, GENERATED = 2, 8, 3, 12
MARGIN = 1e-3  # between the two best greedy tokens; rounding is 100 times smaller
AVERAGED = "layers/q/kernel"

_SIZE = {"model.d_model": 8, "model.d_ff": 16}
_LONGER = {"steps": 300, "checkpoint.every": 300, "optimizer.learning_rate": 2e-2}
_WORLD = "data.sources.world"
_FROM_SFT = {"init.run": str(FOLDER / "sft")}
# Name of a run -> the smoke config that it changes, and its changes. In order: each
# run comes after the one that it starts from.
RUNS = {
    "language_model": (pretrain, {**_SIZE, **_LONGER}),
    "sft": (sft, {"init.run": str(FOLDER / "language_model")}),
    "reward_model": (reward, _FROM_SFT),
    "dpo": (dpo, _FROM_SFT),
    "kto": (dpo, {**_FROM_SFT, "objective.loss": "kto", f"{_WORLD}.split": "labels"}),
    "lora": (
        dpo,
        {
            **_FROM_SFT,
            "model.lora_rank": 2,
            "model.lora_alpha": 4.0,
            "model.base": "bfloat16",
            "trainable": r".*/lora_.*",
        },
    ),
    "moving": (  # whatever else a checkpoint keeps: a reference and an average
        dpo,
        {
            **_FROM_SFT,
            "reference.update_every": 2,
            "reference.update_share": 0.6,
            "optimizer.ema": 0.9,
        },
    ),
    "moe": (
        pretrain,
        {
            **_LONGER,
            "model.family": "mixtral",
            "model.d_model": 16,
            "model.d_ff": 8,
            "model.kv_heads": 1,
            "model.experts": 4,
            "tokenizer.kind": "chars",
            "tokenizer.control_tokens": [],
        },
    ),
    "sentencepiece": (
        pretrain,
        {
            **_SIZE,
            **_LONGER,
            "tokenizer.kind": "sentencepiece",
            "tokenizer.vocab_size": 320,
            "tokenizer.control_tokens": ["<user>", "<assistant>"],
            "optimizer.name": "lion",
            "optimizer.learning_rate": 3e-3,
        },
    ),
}
_ALL = {  # changes of every run, but for its own
    "steps": 12,
    "checkpoint.every": 12,
    "checkpoint.keep_last": 1,
    "evaluation.every": None,
    "sample.every": None,
    "log.tensorboard": False,
    "optimizer.learning_rate": 1e-2,
    "data.workers": 1,
    "cache_dir": "cache",
}


def section(name: str, **changes) -> dict:
    """The config of a run as JSON; `changes` go from dotted fields to values."""
    module, own = RUNS[name]
    c = config.to_json(module.get_config())
    for source in c["data"]["sources"].values():
        source["data_dir"] = "world"
    return change(c, {**_ALL, **own, **changes})


def change(section: dict, changes: Mapping) -> dict:
    """The section as plain JSON, with other values at some dotted fields."""
    section = json.loads(json.dumps(section))
    for field, value in changes.items():
        *parents, last = field.split(".")
        inner = section
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return json.loads(json.dumps(section))


def answers(run) -> dict[str, np.ndarray]:
    """What an opened run computes, of fixed tokens and a fixed prompt.

    tokens [B, T], logits [B, T, V]   int32, float32: `run.logits` of the tokens
    logprobs [R]                      `run.logprobs` of all but the first PROMPT tokens
    scores [B, T, H]                  of a reward model, after each token
    prompt [P], greedy [N]            int32: `run.reply`, or else `run.generate`, at
                                      temperature 0
    average [...]                     the parameter AVERAGED of the weights' average
    digest                            of the parameters, text
    """
    vocabulary = run.model.config.vocab_size
    tokens = np.random.default_rng(0).integers(0, vocabulary, (ROWS, LENGTH), np.int32)
    first, rest = tokens[0, :PROMPT].tolist(), tokens[0, PROMPT:].tolist()
    options = {"max_tokens": GENERATED, "temperature": 0.0}
    if run.config["data"].get("chat"):
        question = "what is two plus three?"
        prompt = run.prompt_ids(question)
        greedy = run.reply([question], **options)[0].ids
    else:
        prompt = first
        greedy = run.generate([prompt], **options)[0].ids
    arrays = {
        "tokens": tokens,
        "logits": run.logits(tokens),
        "logprobs": run.logprobs(first, rest),
        "prompt": np.array(prompt, np.int32),
        "greedy": np.array(greedy, np.int32),
        "digest": np.array(run.digest()),
    }
    if run.model.config.score_heads:
        arrays["scores"] = _scores(run, tokens)
    if run.config["optimizer"].get("ema"):
        average = run.params(average=True)
        for key in AVERAGED.split("/"):
            average = average[key]
        arrays["average"] = average
    return arrays


def _scores(run, tokens_BT: np.ndarray) -> np.ndarray:
    rows = types.Sequences.of(tokens_BT, last=True)
    score = lambda params: run.model.score(params, run.model.hidden(params, rows))
    return np.asarray(jax.jit(score)(run.params()))


def _margin(run, greedy: np.ndarray, prompt: np.ndarray) -> float:
    """The least difference of the two best logits where a greedy token was chosen."""
    logits_TV = run.logits(np.concatenate([prompt, greedy[:-1]]))[len(prompt) - 1 :]
    best_TV = np.sort(logits_TV, -1)
    return float((best_TV[:, -1] - best_TV[:, -2]).min())


def make(name: str, root: pathlib.Path) -> int:
    """Trains a run and writes it below `root`; its bytes. The folder is a scratch one.

    Raises:
      RuntimeError: the run did not end well, or a greedy token is nearly a tie.
    """
    if train.train(section(name), FOLDER / name) != errors.DONE:
        raise RuntimeError(f"{name}: the run was not completed")
    run = open_run(FOLDER / name)
    arrays = answers(run)
    margin = _margin(run, arrays["greedy"], arrays["prompt"])
    if margin < MARGIN:
        raise RuntimeError(f"{name}: greedy tokens are {margin:.1e} apart; change it")
    target = root / FOLDER / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for part in KEPT:
        source = FOLDER / name / part
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, target / part)
    np.savez_compressed(target.with_suffix(".npz"), **arrays)
    files = [file for file in target.rglob("*") if file.is_file()]
    files.append(target.with_suffix(".npz"))
    return sum(file.stat().st_size for file in files)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", help="names of runs, between commas")
    parser.add_argument("--root", type=pathlib.Path, default=ROOT)
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(RUNS)
    if unknown := set(names) - set(RUNS):
        parser.error(f"no run {', '.join(unknown)}; there are {', '.join(RUNS)}")
    root = options.root.absolute()
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        if (root / FOLDER).is_dir():  # runs that others start from
            shutil.copytree(root / FOLDER, FOLDER)
        for name in names:
            shutil.rmtree(FOLDER / name, ignore_errors=True)
            print(f"{name:16} {make(name, root):9,} bytes", flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())

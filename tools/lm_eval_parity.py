# SPDX-License-Identifier: Apache-2.0
r"""Prints how near `alignjax lm-eval` is to lm-eval's own `hf` backend, in Markdown.

    python tools/lm_eval_parity.py
    python tools/lm_eval_parity.py --folder=models/pythia-14m --questions=200

Needs alignjax with the extras `hf` and `lm-eval`, torch and transformers; nothing is
downloaded. By default the models are the tiny random ones of tests/golden that have a
tokenizer and a chat template. Four made-up tasks are asked of both backends, as texts
and by the chat template. The columns:

    log-prob   largest |difference| of a likelihood, in nats
    greedy     likelihoods that agree on whether greedy decoding writes them
    texts      generated texts that are the same
    seconds    of the processor, of both for these requests, the least of three once
               warm, and ours by theirs; the last line of a model has their sums

Where a tokenizer begins every text with a start token, `hf` scores rolling texts with
two of them; the line "rolling" compares with `add_bos_token=False`, which has one.
alignjax never draws tokens that stand for no text, but for those that stop; models of
random values would, so `hf` is told to suppress them.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import sys
import tempfile
import time
import types
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import numpy as np

from alignjax import analysis
from alignjax.evals import harness
from alignjax.evals import lm_eval as command
from tools import requires

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "tests/golden/huggingface"
FAMILIES = ("llama3", "qwen2", "qwen3", "gemma3")
WORDS = "the sea is cold and the inn is far to the north of a hall where men sing"
METHODS = {
    "choices": "loglikelihood",
    "letters": "loglikelihood",
    "rolling": "loglikelihood_rolling",
    "texts": "generate_until",
}
TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: {kind}
doc_to_text: {text}
doc_to_target: "{{{{answer}}}}"
"""
MORE = {
    "choices": ('"{{question}}?"', 'doc_to_choice: "{{choices}}"\n', "acc"),
    "letters": (
        '"{{question}}? A {{choices[0]}} B {{choices[1]}} C {{choices[2]}}\\nAnswer:"',
        'doc_to_choice: ["A", "B", "C"]\n',
        "acc",
    ),
    "rolling": ('""', "", "bits_per_byte"),
    "texts": (
        '"{{question}}?"',
        'generation_kwargs:\n  until: ["th"]\n  max_gen_toks: 24\n',
        "exact_match",
    ),
}


def write_tasks(folder: pathlib.Path, questions: int) -> None:
    """Tasks of random words: choices, letters, rolling texts, texts."""
    rng, words = random.Random(0), WORDS.split()
    draw = lambda low, high: " ".join(rng.choices(words, k=rng.randint(low, high)))
    docs = [
        {
            "question": draw(3, 12),
            "choices": [draw(1, 4) for _ in range(3)],
            "answer": rng.randrange(3),
        }
        for _ in range(questions)
    ]
    file = folder / "docs.jsonl"
    file.write_text("".join(f"{json.dumps(doc)}\n" for doc in docs))
    for name, (text, more, metric) in MORE.items():
        kind = METHODS[name]
        kind = "multiple_choice" if kind == "loglikelihood" else kind
        lines = TASK.format(name=name, file=file, kind=kind, text=text)
        if name == "rolling":
            lines = lines.replace("{{answer}}", "{{question}} {{choices[0]}}")
        lines += f"{more}metric_list:\n  - metric: {metric}\n"
        (folder / f"{name}.yaml").write_text(lines)


def answers(model, task: str, samples, silent=()) -> tuple[list, float]:
    """What a model answers to the requests of some samples, and in which time."""
    arguments = [tuple(one) for sample in samples for one in sample["arguments"]]
    if silent:
        more = {"suppress_tokens": sorted(silent)}
        arguments = [(text, {**options, **more}) for text, options in arguments]
    requests = [types.SimpleNamespace(args=one) for one in arguments]
    method = getattr(model, METHODS[task])
    out, seconds = method(requests), []
    for _ in range(3):
        began = time.process_time()  # of all threads, whatever else the machine does
        method(requests)
        seconds.append(time.process_time() - began)
    return out, min(seconds)


def of_folder(folder: pathlib.Path, tasks: str, batch_size: int) -> Iterator[list[str]]:
    """The lines of one model."""
    from lm_eval.models import huggingface

    opened = analysis.open_run(folder)
    of_hf = lambda **more: huggingface.HFLM(
        pretrained=str(folder),
        device="cpu",
        dtype="float32",
        batch_size=batch_size,
        **more,
    )
    theirs, tok = of_hf(), opened.tokenizer
    silent = {*np.flatnonzero(tok.token_bytes == 0).tolist()}
    silent -= {*tok.stop_ids, tok.eos_id}
    silent |= {*range(tok.vocab_size, opened.model.config.vocab_size)}
    total = np.zeros(2)
    for chat in (False, True):
        ours = harness.Harness(opened, batch_size=batch_size)
        results = command.evaluate(ours, list(METHODS), include=tasks, chat=chat)
        for name in METHODS:
            if name == "rolling" and chat:
                continue  # a text of its own, whatever the template
            samples = results["samples"][name]
            other = of_hf(add_bos_token=False) if name == "rolling" else theirs
            own, seconds = answers(ours, name, samples)
            hf, hf_seconds = answers(
                other, name, samples, silent if name == "texts" else ()
            )
            total += seconds, hf_seconds
            times = in_words(seconds, hf_seconds)
            yield [folder.name, name, "yes" * chat, *compared(own, hf), times]
    yield [folder.name, "all", "", "", "", "", in_words(*total)]


def in_words(ours: float, theirs: float) -> str:
    """Both times, and their quotient."""
    return f"{ours:.2f}, {theirs:.2f}: {ours / theirs:.2f}"


def compared(own: list, hf: list) -> list[str]:
    """The columns of values of one kind of request."""
    same = lambda pairs: f"{sum(a == b for a, b in pairs)} of {len(own)}"
    if isinstance(own[0], str):
        return ["", "", same(zip(own, hf, strict=True))]
    if isinstance(own[0], float):
        return [f"{np.abs(np.subtract(own, hf)).max():.1e}", "", ""]
    (logps, greedy), (hf_logps, hf_greedy) = (
        zip(*side, strict=True) for side in (own, hf)
    )
    worst = np.abs(np.subtract(logps, hf_logps)).max()
    return [f"{worst:.1e}", same(zip(greedy, hf_greedy, strict=True)), ""]


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", action="append", type=pathlib.Path)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=16)
    options = parser.parse_args()
    requires.packages("lm_eval", "torch", "transformers", "tokenizers")
    header = ["model", "task", "chat", "log-prob", "greedy", "texts", "seconds"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    with tempfile.TemporaryDirectory() as tasks:
        write_tasks(pathlib.Path(tasks), options.questions)
        for folder in options.folder or [GOLDEN / name for name in FAMILIES]:
            for line in of_folder(folder, tasks, options.batch_size):
                print(f"| {' | '.join(line)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

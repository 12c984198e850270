# SPDX-License-Identifier: Apache-2.0
r"""Prints how near alignjax is to transformers, family by family, in Markdown.

    python tools/parity_table.py

Needs alignjax with the extra `hf`, torch, transformers and peft; nothing is downloaded.
The models are those of `tools/golden/cases.py`: tiny, random, float32, eager attention,
rows longer than their windows and their context before rotary scaling. The columns:

    import    largest |difference| of logits from transformers', and greedy tokens
              from the cache that are the same
    export    tensors of folder -> run -> folder that are the same bit for bit, in
              float32 and in bfloat16, and the largest |difference| of transformers'
              logits of both folders
    train     largest |difference| of the gradient of the loss by any tensor
    LoRA      with random adapters on every projection that may have them, largest
              |difference| of logits from PEFT's with the exported adapters, and from
              transformers' of the exported folder with the adapters merged
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from alignjax import analysis
from tools import requires
from tools.golden import cases

COLUMNS = (
    "checkpoint",
    "`model_type`",
    "import: logits, greedy tokens",
    "export: bits, logits",
    "train: gradients",
    "LoRA: in PEFT, merged",
)


def row(name: str, scratch: pathlib.Path) -> str:
    """The figures of a case."""
    from tools.golden import journeys, ours, theirs

    case = cases.CASES[name]
    model = theirs.model(case)
    folder = scratch / "folder"
    model.save_pretrained(folder)
    run = analysis.open_run(folder)
    tokens, generated = theirs.tokens_and_greedy(model, case)
    expected = theirs.logits(model, tokens)
    logits = difference(run.logits(tokens), expected)
    prompts, reads = tokens[:, : cases.PROMPT], ours.for_long_documents(run)
    drawn = ours.greedy(run, prompts, cases.GENERATED, reads)
    same = int((drawn == generated).sum())
    bits = [journeys.there_and_back(folder, scratch / d, d) for d in journeys.DTYPES]
    back = theirs.load(scratch / "float32" / "back")
    again = difference(theirs.logits(back, tokens), expected)
    gradients = ours.loss_and_gradients(run, tokens).gradients
    _, expected = theirs.loss_and_gradients(model, tokens, scratch / "gradients")
    gradient = max(difference(gradients[k], g) for k, g in expected.items())
    adapters = with_adapters(run, folder, scratch, tokens)
    figures = (
        f"{logits:.1e}, {same} of {generated.size}",
        ", ".join(f"{a} of {b}" for a, b in bits) + f"; {again:.1e}",
        f"{gradient:.1e}",
        ", ".join(f"{figure:.1e}" for figure in adapters),
    )
    return f"| {name} | `{case.model_type}` | {' | '.join(figures)} |"


def difference(a, b) -> float:
    return float(np.abs(np.asarray(a, np.float64) - b).max())


def with_adapters(run, folder, scratch, tokens) -> tuple[float, float]:
    """How far PEFT is from ours, and transformers from ours once merged."""
    from tools.golden import journeys, theirs

    model, params = journeys.with_adapters(run)
    adapted = journeys.adapted(model, params, tokens)
    if (moved := difference(adapted, run.logits(tokens))) < 0.1:
        raise ValueError(f"the adapters change logits by {moved:.1e} only")
    peft = journeys.in_peft(run, model, params, folder, scratch / "peft", tokens)
    merged = journeys.export_merged(run, model, params, scratch / "merged")
    again = theirs.logits(theirs.load(merged), tokens)
    return difference(peft, adapted), difference(again, adapted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", help="names of cases, between commas")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(cases.CASES)
    requires.packages("safetensors", "torch", "transformers", "peft")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    for name in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            print(row(name, pathlib.Path(scratch)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

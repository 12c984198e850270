# SPDX-License-Identifier: Apache-2.0
r"""Writes the tiny checkpoints of tests/golden/huggingface, and what they compute.

    python tools/make_golden_huggingface.py
    python tools/make_golden_huggingface.py --only=gemma2,phi3

Needs torch and transformers, which nothing else in those tests needs; written for
transformers 5.23. Nothing is downloaded. The weights are numpy's of a fixed seed, so
that another version of torch or transformers gives the same ones; `manifest.json` has
the versions that the files at hand are from. Each folder holds what `save_pretrained`
writes, and `expected.safetensors`:

    tokens [2, T]             the input of the model
    logits [2, P, V]          at `positions` [P], float32, eager attention
    logprobs [2, T - 1]       of each next token
    short [2, V]              logits after the first SHORT tokens, of these alone
    generated [2, 16]         greedily, with the cache, after the first PROMPT tokens
    loss, router_loss []      mean over what predicts a token; the latter with experts
    norm/NAME []              of the loss's gradient by the tensor NAME of the file
    gradient/NAME             the gradient, of a layer and the ends, for some families

T is beyond every window and beyond the context before rotary scaling.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np

from tools.golden import cases, ours

ROOT = pathlib.Path(__file__).resolve().parents[1] / "tests/golden/huggingface"
KEPT = r"(?!.*layers\.[1-9]).*(norm|bias|q_proj|down_proj|gate\.weight).*"


def expected(model, case: cases.Case, scratch: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of `expected.safetensors`."""
    from tools.golden import theirs

    tokens, generated = theirs.tokens_and_greedy(model, case)
    logits = theirs.logits(model, tokens)
    loss, gradients = theirs.loss_and_gradients(model, tokens, scratch)
    arrays = {
        "tokens": tokens.astype(np.int32),
        "positions": np.array(cases.POSITIONS, np.int32),
        "logits": logits[:, list(cases.POSITIONS)],
        "logprobs": ours.logprobs(logits, tokens).astype(np.float32),
        "short": theirs.logits(model, tokens[:, : cases.SHORT])[:, -1],
        "loss": np.float32(loss),
        "generated": generated.astype(np.int32),
    }
    if (router := theirs.router_loss(model, tokens[:, :-1])) is not None:
        arrays["router_loss"] = np.float32(router)
    for name, gradient in gradients.items():
        norm = np.linalg.norm(gradient.astype(np.float64))
        arrays[f"norm/{name}"] = np.float32(norm)
        if case.gradients and re.fullmatch(KEPT, name):
            arrays[f"gradient/{name}"] = gradient
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def write(name: str, root: pathlib.Path) -> int:
    """One folder, anew; its bytes."""
    import safetensors.numpy
    import transformers

    from tools.golden import theirs, tokenizers

    case, folder = cases.CASES[name], root / name
    with tempfile.TemporaryDirectory() as scratch:
        model = theirs.model(case)
        partial = pathlib.Path(scratch) / name
        ids = {n: getattr(model.config, n) for n in ("bos_token_id", "eos_token_id")}
        model.generation_config = transformers.GenerationConfig(**ids)
        model.save_pretrained(partial)
        if case.tokenizer:
            tokenizers.KINDS[case.tokenizer](partial)
        arrays = expected(model, case, pathlib.Path(scratch) / "gradients")
        safetensors.numpy.save_file(arrays, partial / "expected.safetensors")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(partial, folder, copy_function=shutil.copyfile)
    return sum(file.stat().st_size for file in folder.iterdir())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", help="names of cases, between commas")
    parser.add_argument("--root", type=pathlib.Path, default=ROOT)
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(cases.CASES)
    if unknown := set(chosen) - set(cases.CASES):
        known = ", ".join(cases.CASES)
        parser.error(f"no case {', '.join(unknown)}; there are {known}")

    from tools.golden import theirs

    for name in chosen:
        print(f"{name:16} {write(name, options.root):9,} bytes", flush=True)
    manifest = {"command": "python tools/make_golden_huggingface.py"}
    manifest |= {"versions": theirs.versions(), "cases": list(cases.CASES)}
    file = options.root / "manifest.json"
    file.write_text(json.dumps(manifest, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

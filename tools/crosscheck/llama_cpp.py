# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp makes of a GGUF file, by the package cyllama.

    python tools/crosscheck/llama_cpp.py FILE [LOGITS.npy] < REQUEST

REQUEST is `{"texts": [...], "prompts": [[...], ...], "count": N}`: texts that are
tokenised, and ids that are continued by N greedy tokens each. LOGITS.npy gets the
logits that these were the largest of, float32 [prompts, N, V]. Keys and values are
float32, as the run has them; llama.cpp by itself keeps them in float16.
"""

from __future__ import annotations

import json
import sys

import cyllama.llama.llama_cpp as llama
import numpy as np

ROOM = 512  # tokens of a prompt and of what follows it


class Model(llama.LlamaModel):
    """A model on the CPU."""

    @property
    def n_vocab(self) -> int:
        """That `get_logits_ith` asks for, and cyllama 0.2.18 does not have."""
        return self.get_vocab().n_vocab


def load(path: str) -> Model:
    settings = llama.LlamaModelParams()
    settings.n_gpu_layers = 0
    return Model(path, settings)


def greedy(
    model: Model,
    prompt: list[int],
    count: int,
    *,
    threads: int = 1,
    exact: bool = False,
    logits: list[np.ndarray] | None = None,
) -> list[int]:
    """The most likely next token so many times over.

    Args:
      threads: of the processor.
      exact: computes attention in float32, from keys and values in float32.
      logits: gets those of each token.
    """
    settings = llama.LlamaContextParams()
    settings.n_ctx = ROOM
    settings.n_threads = settings.n_threads_batch = threads
    if exact:
        settings.type_k = settings.type_v = settings.flash_attn_type = 0
    context, out = llama.LlamaContext(model, settings), []
    batch = llama.LlamaBatch(n_tokens=ROOM, embd=0, n_seq_max=1)
    sampler = llama.LlamaSampler(llama.LlamaSamplerChainParams())
    sampler.add_greedy()
    tokens, at = prompt, 0
    for _ in range(count):
        batch.set_batch(tokens, at, True)
        context.decode(batch)
        last, at = len(tokens) - 1, at + len(tokens)
        if logits is not None:
            logits.append(np.array(context.get_logits_ith(last), np.float32))
        tokens = [sampler.sample(context, last)]
        out += tokens
    return out


def main(path: str, logits: str | None = None) -> None:
    request = json.load(sys.stdin)
    model = load(path)
    vocab = model.get_vocab()
    texts, prompts, count = request["texts"], request["prompts"], request["count"]
    logits_PNV = [[] for _ in prompts]
    answer = {
        "tokens": [list(vocab.tokenize(text, False, False)) for text in texts],
        "greedy": [
            greedy(model, prompt, count, exact=True, logits=logits_NV)
            for prompt, logits_NV in zip(prompts, logits_PNV, strict=True)
        ],
    }
    if logits is not None:
        np.save(logits, np.array(logits_PNV))
    print(f"\nANSWER {json.dumps(answer)}")


if __name__ == "__main__":
    main(*sys.argv[1:])

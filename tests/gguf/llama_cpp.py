# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp makes of a file, by the package cyllama, in a process of its own.

python tests/gguf/llama_cpp.py FILE < {"texts": [...], "prompts": [[...]], "count": N}
"""

import json
import sys

import cyllama.llama.llama_cpp as llama


def greedy(model, prompt: list[int], count: int) -> list[int]:
    """The most likely next token, so many times over."""
    settings = llama.LlamaContextParams()
    settings.n_ctx = 256
    context, out = llama.LlamaContext(model, settings), []
    batch = llama.LlamaBatch(n_tokens=256, embd=0, n_seq_max=1)
    sampler = llama.LlamaSampler(llama.LlamaSamplerChainParams())
    sampler.add_greedy()
    tokens, at = prompt, 0
    for _ in range(count):
        batch.set_batch(tokens, at, True)
        context.decode(batch)
        at += len(tokens)
        tokens = [sampler.sample(context, len(tokens) - 1)]
        out += tokens
    return out


def main() -> None:
    request = json.load(sys.stdin)
    settings = llama.LlamaModelParams()
    settings.n_gpu_layers = 0
    model = llama.LlamaModel(sys.argv[1], settings)
    vocab = model.get_vocab()
    texts, prompts, count = request["texts"], request["prompts"], request["count"]
    answer = {
        "tokens": [list(vocab.tokenize(text, False, False)) for text in texts],
        "greedy": [greedy(model, prompt, count) for prompt in prompts],
    }
    print(f"\nANSWER {json.dumps(answer)}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""transformers' side of a case: a model, its logits, greedy tokens, gradients.

Float32 and eager attention throughout; needs torch and transformers.
"""

from __future__ import annotations

import pathlib

import numpy as np
import safetensors.torch
import torch
import transformers

from tools.golden import cases

MARGIN = 1e-4  # between the two best tokens: below it, greedy would be a coin's choice


def model(case: cases.Case, seed: int = 0):
    """transformers' model of a case, with the weights of `cases.weight`."""
    config = transformers.AutoConfig.for_model(case.model_type, **case.config)
    network = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for name, p in network.named_parameters():
            array = cases.weight(name, tuple(p.shape), case.offset, seed)
            p.copy_(torch.from_numpy(array))
    return network


def load(folder: pathlib.Path, dtype=torch.float32):
    """transformers' model of a folder, computing in `dtype`."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=dtype
    ).eval()


def logits(network, tokens: np.ndarray) -> np.ndarray:
    """float32 [B, T, V]."""
    with torch.no_grad():
        return network(torch.from_numpy(tokens)).logits.float().numpy()


def tokens_and_greedy(
    network, case: cases.Case, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The case's tokens and the greedy ones after PROMPT of them.

    Tokens whose continuation hangs by less than MARGIN are passed over for others.
    """
    for attempt in range(8):
        tokens = cases.tokens(case, 100 * seed + attempt)
        try:
            return tokens, greedy(network, tokens[:, : cases.PROMPT])
        except ValueError as error:
            problem = error
    raise problem


def greedy(network, prompts: np.ndarray, count: int = cases.GENERATED) -> np.ndarray:
    """int64 [B, count]: what follows each prompt, with the cache; no token stops it.

    Raises:
      ValueError: two tokens are too near to each other for a comparison.
    """
    prompts = torch.from_numpy(prompts)
    settings = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=count, use_cache=True, pad_token_id=0
    )
    # generate() would take what is not set here from the model's own.
    network.generation_config = settings
    generated = network.generate(prompts, attention_mask=torch.ones_like(prompts))
    with torch.no_grad():
        before = network(generated).logits[:, prompts.shape[1] - 1 : -1]
    best = before.topk(2).values
    if (margin := float((best[..., 0] - best[..., 1]).min())) < MARGIN:
        raise ValueError(f"margin of {margin:.1e} between the two best tokens")
    return generated[:, prompts.shape[1] :].numpy()


def loss_and_gradients(
    network, tokens: np.ndarray, scratch: pathlib.Path
) -> tuple[float, dict[str, np.ndarray]]:
    """Mean cross-entropy of all next tokens; its gradients by the names of files.

    The router's loss is left out. Gradients are written as a model's weights are, so
    that what transformers splits or ties on the way is split and tied in them as well.

    Args:
      scratch: a folder to write to.
    """
    tokens = torch.from_numpy(tokens)
    network.zero_grad()
    logits = network(tokens).logits[:, :-1]
    targets = tokens[:, 1:].reshape(-1)
    flat = logits.reshape(-1, logits.shape[-1])
    loss = torch.nn.functional.cross_entropy(flat, targets)
    loss.backward()
    with torch.no_grad():
        saved = {name: p.clone() for name, p in network.named_parameters()}
        for p in network.parameters():
            p.copy_(p.grad)
        network.save_pretrained(scratch)
        for name, p in network.named_parameters():
            p.copy_(saved[name])
    files = safetensors.torch.load_file(pathlib.Path(scratch) / "model.safetensors")
    return float(loss.detach()), {name: g.numpy() for name, g in files.items()}


def router_loss(network, tokens: np.ndarray) -> float | None:
    """The load-balancing loss before its coefficient; None without experts."""
    if not hasattr(network.config, "router_aux_loss_coef"):
        return None
    with torch.no_grad():
        output = network(torch.from_numpy(tokens), output_router_logits=True)
        return float(output.aux_loss)


def versions() -> dict[str, str]:
    return {
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

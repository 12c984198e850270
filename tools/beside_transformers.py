# SPDX-License-Identifier: Apache-2.0
"""What transformers computes from a folder, where it and torch are installed."""

from __future__ import annotations

import importlib.util
import pathlib

import numpy as np


def there() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def states_and_logits(path: pathlib.Path, tokens_BT: np.ndarray):
    """(hidden states float32 [L + 1, B, T, D], logits float32 [B, T, V]).

    The states are the embeddings and what each layer leaves; the last one is after the
    norm at the end. In float32, without code of the folder.
    """
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        found = model(
            torch.from_numpy(tokens_BT.astype(np.int64)), output_hidden_states=True
        )
    states = np.stack([x.float().numpy() for x in found.hidden_states])
    return states, found.logits.float().numpy()

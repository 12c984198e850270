# SPDX-License-Identifier: Apache-2.0
"""How much two opened models differ: in each layer, in their logits, bit by bit."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import alignjax
from alignjax import errors, models, types

FORMAT = 1
# A row is longer than the windows of models made small for tests.
ROWS, LENGTH, SEED = 2, 64, 0
PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def make(first, second, *, dtype: str = "float32", outside: Callable | None = None):
    """How much `second` differs from `first`, as JSON; exactly 0 if they are equal.

    Args:
      first, second: from `alignjax.open_run`.
      dtype: of activations; parameters have their own.
      outside: tokens [B, T] -> (hidden states [L + 1, B, T, D] before the last norm,
        but for the last, which is after it; logits [B, T, V]) of the same model by
        another implementation, to compare `second` with.

    Returns:
      `layers`: for the embedding and each layer max |difference| of hidden states, and
      the largest of them, for scale. `logits`: max |difference| and the mean and
      largest KL(first || second) in nats. `first`, `second`: each run, with the digest
      of its parameters. `same_parameters`, `tokens`, `versions`.

    Raises:
      ConfigError: models of different shapes.
    """
    pair = [_model(run, dtype) for run in (first, second)]
    shapes = [(m.config.layers, m.config.d_model, m.config.vocab_size) for m in pair]
    if shapes[0] != shapes[1]:
        raise errors.ConfigError(
            f"certificate: {first.path} has (layers, width, vocabulary) {shapes[0]} "
            f"and {second.path} {shapes[1]}; they are not one model"
        )
    rows = _rows(pair[0])
    with jax.default_matmul_precision("highest"):
        (layers_1, _, logits_1), (layers_2, last_2, logits_2) = (
            _computed(m, r, rows) for m, r in zip(pair, (first, second), strict=True)
        )
        if outside is not None:
            outside_layers, outside_logits = outside(rows.inputs)
    sides = [_described(run) for run in (first, second)]
    certificate = {
        "format": FORMAT,
        "first": sides[0],
        "second": sides[1],
        "same_parameters": sides[0]["digest"] == sides[1]["digest"],
        "dtype": dtype,
        "tokens": {
            "rows": rows.inputs.shape[0],
            "length": rows.inputs.shape[1],
            "seed": SEED,
            "sha256": hashlib.sha256(rows.inputs.tobytes()).hexdigest(),
        },
        "layers": _layer_differences(layers_1, layers_2),
        "logits": _logit_differences(logits_1, logits_2),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version(), "alignjax": alignjax.__version__},
    }
    if outside is not None:
        # Its last layer is after the norm.
        layers_2 = np.concatenate([layers_2[:-1], last_2[None]])
        certificate["outside"] = {
            "layers": _layer_differences(outside_layers, layers_2),
            "logits": _logit_differences(outside_logits, logits_2),
        }
    return certificate


def summary(certificate: dict) -> str:
    """A certificate in a line or two."""
    same = "the same" if certificate["same_parameters"] else "other"
    parts = {f"{same} parameters, bit for bit": certificate}
    if "outside" in certificate:
        parts["beside another implementation"] = certificate["outside"]
    lines = []
    for name, part in parts.items():
        states = max(layer["max_abs_delta"] for layer in part["layers"])
        logits, kl = part["logits"]["max_abs_delta"], part["logits"]["kl_max"]
        lines.append(
            f"{name}: hidden states differ by {states:.2e} at most, logits by "
            f"{logits:.2e}, KL {kl:.2e}"
        )
    return "\n".join(lines)


def _model(run, dtype: str) -> types.Model:
    section = {**run.config["model"], "attention": "xla", "dtype": dtype}
    rows = section.get("vocab_size") or run.tokenizer.vocab_size
    return models.build(section, rows)


def _rows(model: types.Model) -> types.Sequences:
    c = model.config
    T = min(LENGTH, c.max_length)
    tokens = np.random.default_rng(SEED).integers(c.vocab_size, size=(ROWS, T))
    return types.Sequences.of(tokens, last=True)


def _computed(model: types.Model, run, rows: types.Sequences):
    """Layers [L + 1, B, T, D], the normalised last [B, T, D] and logits [B, T, V]."""

    def computed(params):
        x_BTD = model.hidden(params, rows)
        layers_LBTD = model.hidden(params, rows, every_layer=True)
        return layers_LBTD, x_BTD.astype(jnp.float32), model.unembed(params, x_BTD)

    params = jax.device_put(run.params())
    return tuple(np.asarray(x) for x in jax.jit(computed)(params))


def _layer_differences(a_LBTD: np.ndarray, b_LBTD: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "layer": "embedding" if i == 0 else i - 1,
            "max_abs_delta": float(np.abs(a - b).max()),
            "max_abs": float(np.abs(a).max()),
        }
        for i, (a, b) in enumerate(zip(a_LBTD, b_LBTD, strict=True))
    ]


def _logit_differences(a_BTV: np.ndarray, b_BTV: np.ndarray) -> dict[str, float]:
    logs = [np.asarray(jax.nn.log_softmax(np.float64(x))) for x in (a_BTV, b_BTV)]
    logs = [x.astype(np.float64) for x in logs]
    kl_BT = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1)
    return {
        "max_abs_delta": float(np.abs(a_BTV - b_BTV).max()),
        "kl_mean": float(kl_BT.mean()),
        "kl_max": float(kl_BT.max()),
    }


def _described(run) -> dict[str, Any]:
    meta = run.meta()
    return {
        "path": str(run.path),
        "step": meta["step"],
        "family": run.config["model"]["family"],
        "dtypes": sorted({leaf["dtype"] for leaf in meta["leaves"].values()}),
        "digest": run.digest(),
    }


def has_transformers() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def by_transformers(
    path: pathlib.Path, tokens_BT: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What transformers computes from a folder, in float32, without code of the folder.

    Returns:
      Hidden states float32 [L + 1, B, T, D], the embeddings and the output of each
      layer, the last one after the final norm; and logits float32 [B, T, V].
    """
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        output = model(
            torch.from_numpy(tokens_BT.astype(np.int64)), output_hidden_states=True
        )
    states = np.stack([x.float().numpy() for x in output.hidden_states])
    return states, output.logits.float().numpy()

# SPDX-License-Identifier: Apache-2.0
"""Adapters with random numbers for the golden folders, and what they should compute."""

import dataclasses
import pathlib

import flax.linen as nn
import jax
import numpy as np

from alignjax import analysis, trees
from alignjax.analysis import forward
from alignjax.huggingface import peft
from alignjax.models import decoder, lora

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden/huggingface"
RANK = dict(lora_rank=3, lora_alpha=6.0)
KINDS = {
    "lora": RANK,
    "rslora": RANK | dict(lora_rslora=True),
    "dora": RANK | dict(lora_dora=True),
    "some": RANK | dict(lora_dora=True, lora_targets="layers/(k|o|mlp/up)"),
}


def base(name: str):
    """The golden folder of a family, opened in float32."""
    return analysis.open_run(GOLDEN / name)


def in_float32(c):
    return dataclasses.replace(c, dtype="float32")


def draw(opened, fields: dict, seed: int = 0):
    """(settings with adapters, `{path: array}` of adapters that are not nothing)."""
    c = dataclasses.replace(in_float32(opened.model.config), **fields)
    shapes = jax.eval_shape(decoder.build(c).init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    scale = {"lora_a": 0.3, "lora_b": 0.1, "lora_m": 0.1}
    return c, {
        name: scale[name[-6:]] * rng.normal(size=leaf.shape).astype(np.float32)
        for name, leaf in trees.named_leaves(nn.unbox(shapes)).items()
        if "/lora_" in name
    }


def params(opened, leaves: dict) -> dict:
    """All parameters, in float32."""
    rest = {name: np.asarray(leaf[...]) for name, leaf in opened.leaves().items()}
    whole = {name: x.astype(np.float32) for name, x in {**rest, **leaves}.items()}
    return trees.nest(whole)


def written(opened, fields: dict, target: pathlib.Path):
    """(settings, parameters, the folder of PEFT's that has the adapters)."""
    c, leaves = draw(opened, fields)
    whole = params(opened, leaves)
    family = opened.config["model"]["family"]
    tensors, known = peft.write(trees.named_leaves(whole), family, c)
    known["base_model_name_or_path"] = str(opened.path)
    return c, whole, peft.save(target, tensors, known)


def logits(c, whole: dict, tokens: np.ndarray) -> np.ndarray:
    """What the model says of tokens [B, T], of parameters with adapters or merged."""
    model = decoder.build(dataclasses.replace(c, attention="auto"))
    return np.asarray(forward.logits(model, whole, forward.rows(model, tokens)))


def merged_logits(c, whole: dict, tokens: np.ndarray) -> np.ndarray:
    plain = dataclasses.replace(
        c,
        lora_rank=0,
        lora_alpha=16.0,
        lora_targets=".*",
        lora_rslora=False,
        lora_dora=False,
    )
    return logits(plain, lora.merge(whole, c), tokens)

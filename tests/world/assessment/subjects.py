# SPDX-License-Identifier: Apache-2.0
"""A model of bytes that was never trained, as an opened run would give it."""

import functools
import pathlib
import types

import flax.linen as nn
import jax

from alignjax import models
from alignjax.data.tokenizers import base
from alignjax.world.assessment import run_models

ROLES = b'{"control": ["<system>", "<user>", "<assistant>", "<end>"]}'
TOKENIZER = base.from_files("bytes", {"bytes.json": ROLES})
SHAPE = dict(family="llama", name="nano", d_model=32, layers=1, heads=2, d_ff=32)


@functools.cache
def model(heads=0):
    section = SHAPE | dict(max_length=512, score_heads=heads)
    return models.build(section, TOKENIZER.vocab_size)


@functools.cache
def params(seed=0, heads=0):
    return nn.unbox(jax.jit(model(heads).init)(jax.random.key(seed)))


def make(name, seed=0, *, heads=0, path=None, data=(), start=None, **config):
    """A `RunModel`; `config` are further sections of its run's, `start` a digest."""
    world = {"kind": "world", "preset": "nano", "seed": 0}
    section = {"data": {"sources": {"w": world}, **dict(data)}, **config}
    section.setdefault("model", {"score_heads": heads})
    run = types.SimpleNamespace(
        path=pathlib.Path(path or f"/runs/{name}"),
        config=section,
        tokenizer=TOKENIZER,
        model=model(heads),
        steps=[10],
        digest=lambda step: f"{seed}/{heads}/{step}",
        meta=lambda step: {"data": {"init": start}},
        network=False,
    )
    return run_models.RunModel(
        name, run, 10, params(seed, heads), run_models.run_format(run)
    )

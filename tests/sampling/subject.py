# SPDX-License-Identifier: Apache-2.0
"""A small model over bytes, what is asked of it, and what it should answer."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from alignjax import models, sampling, trees
from alignjax.data.tokenizers import base
from alignjax.types import Sequences

# 256 bytes, then start 256, end 257 and a role 258; the embedding has more rows.
TOKENIZER = base.from_files("bytes", {"bytes.json": b'{"control": ["<user>"]}'})
BOS, EOS, ROLE, ROWS = 256, 257, 258, 264
SHAPE = dict(family="llama", name="nano", d_model=32, layers=2, heads=4, d_ff=64)

VARIANTS = {
    "llama": {},
    "gqa, qk_norm, unrolled": dict(kv_heads=2, qk_norm="head", unroll=2),
    "mqa, window, untied": dict(kv_heads=1, window=5, tied=False),
    "learned, biases": dict(
        **dict(positions="learned", norm="layernorm", activation="gelu"),
        **dict(attention_bias="all", mlp_bias=True),
    ),
    "softcaps": dict(logit_softcap=2.0, attention_softcap=1.5),
}
FILTERS = {
    "none": {},
    "temperature": dict(temperature=0.7),
    "top_k": dict(temperature=1.3, top_k=7),
    "top_p": dict(top_p=0.6),
    "min_p": dict(min_p=0.2),
    "all": dict(temperature=0.9, top_k=40, top_p=0.9, min_p=0.05),
}
PROMPTS = ["", "a", "Once upon a time", "Zwölf Boxkämpfer jagen Viktor"]


@functools.cache
def nano(**overrides):
    """A model and parameters whose distributions are neither flat nor peaked."""
    model = models.build(SHAPE | overrides, ROWS)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0)))
    random = np.random.default_rng(0)

    def draw(name, x):
        # Larger than at first, biases included, so that all of it shows.
        return jnp.float32(name.endswith("scale") + 0.2 * random.normal(size=x.shape))

    return model, trees.map_with_name(draw, shapes)


def generate(prompts, model_and_params=None, **options):
    model, params = model_and_params or nano()
    return sampling.generate(
        model, params, TOKENIZER, prompts, **{"max_tokens": 12, **options}
    )


def teacher_forced(model, params, row):
    """Logits [len(row.ids), V] of the tokens of a response, in one pass over it all."""
    tokens, count = row.prompt_ids + row.ids, len(row.prompt_ids)
    padded = np.array([tokens + [0] * (96 - len(tokens))], np.int32)
    positions = np.arange(96)[None]
    whole = Sequences(padded, padded, None, positions < len(tokens), positions)
    logits = np.asarray(all_logits(model, params, whole)[0], np.float64)
    return logits[count - 1 : len(tokens) - 1]


@functools.partial(jax.jit, static_argnums=0)
def all_logits(model, params, sequences):
    return model.unembed(params, model.hidden(params, sequences))


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def stated(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """The documented distribution of one row of logits, step by step, in numpy."""
    logits = np.where(np.arange(ROWS) <= EOS, logits, -np.inf)
    logits[BOS] = -np.inf
    if temperature == 0:
        return np.where(np.arange(ROWS) == logits.argmax(), 0.0, -np.inf)
    logits = logits / temperature
    order = np.argsort(-logits, kind="stable")[:top_k]
    probs = np.exp(log_softmax(logits[order]))
    keep = np.ones(len(order), bool)
    if top_p is not None:
        keep = np.concatenate([[0.0], np.cumsum(probs)[:-1]]) < top_p
    if min_p is not None:
        keep &= probs >= min_p * probs[0]
    out = np.full(ROWS, -np.inf)
    out[order[keep]] = log_softmax(logits[order[keep]])
    return out


def assert_same(rows, others):
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row._replace(logprobs=0, model_logprobs=0) == other._replace(
            logprobs=0, model_logprobs=0
        )
        np.testing.assert_allclose(row.logprobs, other.logprobs, atol=1e-5)
        np.testing.assert_allclose(row.model_logprobs, other.model_logprobs, atol=1e-5)

# SPDX-License-Identifier: Apache-2.0
"""Reward models from a labeler who likes long replies, and two controls; README.md.

The labeler "biased" adds to the true reward of a reply 0.05 for each of its tokens, and
chooses with odds exp(difference / 0.4). So each token more is worth PRICE of log-odds.
"""

import collections
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from alignjax import world
from alignjax.data import records
from alignjax.losses import catalogue, scores
from alignjax.world import lexicon
from configs import base

PRICE = 0.05 / 0.4


def load(
    labeler: str = "biased",
    control: Literal["none", "margin", "balanced"] = "none",
    **options: Any,
) -> records.Source:
    """Pairs of the embedded world under a control of their lengths.

    Args:
      labeler: see `world.load`.
      control: "margin" gives pairs the probability of their choice by length alone,
        for `beside_length`; "balanced" leaves pairs out until, of each difference of
        lengths, the longer reply is chosen as often as the shorter one.
    """
    source = world.load(split="preferences", labeler=labeler, **options)

    def documents():
        kept: collections.Counter = collections.Counter()
        for where, pair in source.documents():
            record = pair.record
            longer = _tokens(pair.chosen) - _tokens(pair.rejected)
            if control == "margin":
                by_length = 1 / (1 + math.exp(-PRICE * longer))
                values = {**record.values, "probability": by_length}
                record = record._replace(values=values)
            if control == "balanced" and kept[longer] > kept[-longer]:
                continue
            kept[longer] += 1
            yield where, record

    identity = {**source.identity, "control": control}
    return source._replace(identity=identity, documents=documents)


@catalogue.declare(inputs=("probability_B",), reference=False)
def beside_length(score_B2, *, probability_B):
    """-log s(s_w - s_l + logit p): p is how likely the choice is by length alone.

    So the scores need not explain what the lengths do.

    Args:
      score_B2: float32, the chosen response's first.

    Returns:
      float32 [B].
    """
    p_B = jnp.clip(probability_B, 1e-6, 1 - 1e-6)
    offset_B = jnp.log(p_B) - jnp.log1p(-p_B)
    return -jax.nn.log_sigmoid(scores.difference(score_B2) + offset_B)


def _tokens(text: str) -> int:
    return len(lexicon.tokens(text))


def get_config():
    c = base.reward_model()
    c.steps, c.batch_size, c.length = 100, 8, 128
    pairs = dict(kind="experiments.length_bias.sweep:load", weight=1.0)
    pairs |= dict(preset="nano", documents=4_000, labeler="biased", control="none")
    c.data.sources.pairs = pairs
    # Held out, with the labels of who likes the true reward alone.
    held_out = dict(kind="world", preset="nano", split="eval_preferences", weight=1.0)
    c.data.validation_sources.world = held_out
    c.data.validation_fraction = 0.0
    c.optimizer.learning_rate, c.optimizer.b2 = 1e-3, 0.98
    c.schedule.warmup_steps, c.schedule.final = 10, 0.1
    c.checkpoint.every = 100
    c.evaluation.every = 100
    return c


def get_sweep():
    source = "data.sources.pairs"
    own = "experiments.length_bias.sweep:beside_length"
    arms = [
        {"name": "biased"},
        {"name": "clean", f"{source}.labeler": "clean"},
        {"name": "margin", f"{source}.control": "margin", "objective.loss": own},
        {"name": "balanced", f"{source}.control": "balanced"},
    ]
    claim = {
        "metric": "eval/score/length_correlation",
        "expects": dict.fromkeys(("clean", "margin", "balanced"), "below"),
        "text": "a labeler who likes length teaches it, and each control unteaches it",
    }
    return dict(arms=arms, seeds=5, prompts=0, varies=("data",), claim=claim)

# SPDX-License-Identifier: Apache-2.0
"""Batches for every kind of loss, the options to try, and how a loss is called on them.

A loss that is added to the catalogue gets a batch of its kind, the fields and inputs
that it declares, and its default options; `EXTRA` has further options for some.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.losses import catalogue, links, scores
from alignjax.types import LogProbs

FIELDS = ("total", "head", "sample", "reference_kl", "collision", "mismatched")
SHAPES = {"preference": (6, 2), "unpaired": (6,), "ranked": (6, 4), "reward": (6, 4)}
PAIR_SCORES = ("bradley_terry",)  # the reward losses of [B, 2]

SMOOTHED = dict(label_smoothing=0.2)
EXTRA = {
    "dpo": [SMOOTHED, dict(beta=1.5)],
    "rso": [dict(link="logistic")],
    "aot": [SMOOTHED],
    "aot_unpaired": [SMOOTHED],
    "apo_zero_unpaired": [dict(desirable_weight=2.0, undesirable_weight=0.5)],
    "alphapo": [dict(alpha=0.0)],
    "beta_dpo": [dict(drop=0.5, sensitivity=2.0)],
    "bradley_terry": [dict(label_smoothing=0.1, centring=0.01)],
    "cpo": [dict(SMOOTHED, alpha=0.3)],
    "cpo_trl": [dict(SMOOTHED, alpha=0.3)],
    "f_dpo": [
        dict(divergence=d, link=l, alpha=0.3 if d == "alpha" else None)
        for d, l in [
            *((d, "logistic") for d in scores.DIVERGENCES if d != "forward_kl"),
            *(("alpha", link) for link in links.LINKS),
        ]
    ],
    "kto": [dict(desirable_weight=2.0, undesirable_weight=0.5)],
    "ld_dpo": [dict(alpha=0.0), dict(alpha=1.0)],
    "ln_dpo": [SMOOTHED],
    "reward_aware": [dict(distance="forward_kl"), dict(distance="squared", eta=0.5)],
    "simpo": [dict(SMOOTHED, gamma=0.3)],
}


def names():
    return [
        (kind, name) for kind, known in catalogue.CATALOGUE.items() for name in known
    ]


def cases():
    """Every loss with every set of options: (kind, name, options)."""
    for kind, name in names():
        for options in [{}, *EXTRA.get(name, [])]:
            yield kind, name, options


def identify(case):
    return "-".join(map(str, case)) if isinstance(case, tuple) else None


@functools.cache
def batch(kind, seed=0):
    """(policy, reference, inputs) of numpy float64, exact in float32 too."""
    rng = np.random.default_rng(seed)
    shape = SHAPES[kind]
    near = lambda x: np.round(x * 256) / 256
    length = rng.integers(3, 20, shape).astype(float)
    if kind == "ranked":
        length[0, 3] = length[2, 2:] = 0  # lists of other lengths
    # Close enough that the policy ranks its margins unlike the reference.
    fields = {name: near(-rng.uniform(5, 9, shape)) for name in FIELDS[:3]}
    fields["collision"] = near(-rng.uniform(0.5, 2, shape) * length)
    fields["mismatched"] = near(-rng.uniform(4, 6, shape) * length)
    fields["reference_kl"] = near(rng.uniform(0, 2, shape))
    policy = LogProbs(length=length, **fields)
    shifted = {
        name: near(value + rng.normal(0, 1.5, shape)) for name, value in fields.items()
    }
    # So that KTO's baseline is above 0, and would have a gradient.
    shifted["mismatched"] = fields["mismatched"] - near(rng.uniform(0, 3, shape))
    reference = LogProbs(length=length, **shifted)
    B = shape[0]
    inputs = dict(
        probability_B=near(rng.uniform(0.55, 0.95, B)),
        gap_B=near(rng.uniform(0.2, 3, B)),
        desirable_B=np.array([True, False, True, True, False, False]),
        reward_BK=near(rng.normal(0, 2, (B, 4))),
        margin_B=near(rng.uniform(0, 1, B)),
        weight_B=near(rng.uniform(0.5, 2, B)),
        present_BK=np.arange(4) < np.array([4, 3, 2, 4, 4, 2])[:, None],
        target_BA=near(rng.normal(0, 1, (B, 4))),
        present_BA=np.arange(4) < np.array([4, 1, 2, 4, 3, 2])[:, None],
    )
    return policy, reference, inputs


def scored(name, policy):
    """The first argument of a reward loss: scores rather than log-probabilities."""
    return policy.total[:, :2] / 16 if name in PAIR_SCORES else policy.total / 16


def only(function, inputs):
    """The inputs that a loss declares."""
    return {name: inputs[name] for name in catalogue.traits(function).inputs}


def evaluate(function, policy, reference, inputs):
    """loss_B of a preference, unpaired or ranked loss, its statistic measured here."""
    inputs = only(function, inputs)
    if catalogue.traits(function).coupled:
        statistic = catalogue.measure(function, policy, reference, **inputs)
        inputs = dict(inputs, statistic=statistic)
    return function(policy, reference, **inputs)


def bound(kind, name, options):
    function = catalogue.CATALOGUE[kind][name]
    return catalogue.bind(function, options, "loss", scores=kind == "reward")


def call(kind, name, options):
    """`(policy, reference, inputs) -> loss_B` of any loss, also of those of scores."""
    function = bound(kind, name, options)
    if kind != "reward":
        return functools.partial(evaluate, function)
    return lambda policy, _, inputs: function(
        scored(name, policy), **only(function, inputs)
    )


def value_and_gradient(loss):
    """`(policy, reference, inputs) -> (loss_B, gradients by policy field)`."""

    def total(fields, policy, reference, inputs):
        loss_B = loss(policy.replace(**fields), reference, inputs)
        return loss_B.sum(), loss_B

    def run(policy, reference, inputs):
        fields = {name: getattr(policy, name) for name in FIELDS}
        gradients, loss_B = jax.grad(total, has_aux=True)(
            fields, policy, reference, inputs
        )
        return loss_B, gradients

    return run


def cast(tree, dtype):
    """Floats as `dtype`, on the device."""
    return jax.tree.map(
        lambda x: jnp.asarray(x, dtype if x.dtype == np.float64 else x.dtype), tree
    )

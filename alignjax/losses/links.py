# SPDX-License-Identifier: Apache-2.0
"""Links: the loss of a pair as a function of its two scores.

A link is `(score_B2, beta, **options) -> loss_B`. Below, w and l are the scores of the
chosen and the rejected response, z = beta (w - l), and log s is `log_sigmoid`. Links of
z alone depend on the margin; the others have a target for each score, so neither
drifts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax import registry
from alignjax.bounds import Noise, Positive, PositiveNoise
from alignjax.losses import scores

LINKS = registry.Registry("link")

log_sigmoid = jax.nn.log_sigmoid
sigmoid = jax.nn.sigmoid


def cross_entropy(z_B, label_smoothing=0.0):
    """-(1-e) log s(z) - e log s(-z), for labels that are wrong with probability e."""
    right, wrong = log_sigmoid(z_B), log_sigmoid(-z_B)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


@LINKS.register
def logistic(score_B2, beta, *, offset=0.0, label_smoothing: Noise = 0.0):
    """-log s(z + offset), of Bradley and Terry: convex, its gradient is never 0."""
    w_B, l_B = _sides(score_B2)
    return cross_entropy(beta * (w_B - l_B) + offset, label_smoothing)


@LINKS.register
def robust(score_B2, beta, *, label_smoothing: Noise = 0.1):
    """-[(1-e) log s(z) - e log s(-z)]/(1-2e): unbiased if a share e of labels flips."""
    z_B = beta * scores.difference(score_B2)
    right, wrong = log_sigmoid(z_B), log_sigmoid(-z_B)
    clean = -(1 - label_smoothing) * right + label_smoothing * wrong
    return clean / (1 - 2 * label_smoothing)


@LINKS.register
def hinge(score_B2, beta):
    """max(0, 1 - z): no gradient beyond a margin of 1."""
    return jnp.maximum(0.0, 1 - beta * scores.difference(score_B2))


@LINKS.register
def square(score_B2, beta):
    """(w - l - 1/(2 beta))^2: a target for the margin, from both sides."""
    w_B, l_B = _sides(score_B2)
    return jnp.square(w_B - l_B - 1 / (2 * beta))


@LINKS.register
def exo(score_B2, beta, *, label_smoothing: PositiveNoise = 1e-3):
    """KL(q || (1-e, e)), q = (s(z), s(-z)): a reverse KL, which is mode-seeking."""
    right = jnp.log1p(-label_smoothing)
    return _reverse_kl(score_B2, beta, right, jnp.log(label_smoothing))


@LINKS.register
def exo_authors(score_B2, beta, *, rejected: float = -10.0):
    """As `exo` to the unnormalised target log-probabilities (0, `rejected`)."""
    return _reverse_kl(score_B2, beta, 0.0, rejected)


def _reverse_kl(score_B2, beta, target_right, target_wrong):
    z_B = beta * scores.difference(score_B2)
    right, wrong = log_sigmoid(z_B), log_sigmoid(-z_B)
    return sigmoid(z_B) * (right - target_right) + sigmoid(-z_B) * (
        wrong - target_wrong
    )


@LINKS.register
def discopop(score_B2, beta, *, temperature: Positive = 0.05):
    """(1-m)(-log s(z)) + m e^-z, m = s(z/t): logistic and exponential loss, mixed."""
    z_B = beta * scores.difference(score_B2)
    # m e^-z as one power: m is 0 where e^-z overflows.
    exponential = scores.exp(log_sigmoid(z_B / temperature) - z_B)
    return -sigmoid(-z_B / temperature) * log_sigmoid(z_B) + exponential


@LINKS.register
def nca(score_B2, beta):
    """-log s(w) - (log s(-w) + log s(-l))/2, scores times beta."""
    w_B, l_B = _sides(beta * score_B2)
    return -log_sigmoid(w_B) - (log_sigmoid(-w_B) + log_sigmoid(-l_B)) / 2


@LINKS.register
def bco(score_B2, beta, *, shift=0.0):
    """-log s(w - shift) - log s(shift - l), scores times beta: a classifier of each."""
    w_B, l_B = _sides(beta * score_B2)
    return -log_sigmoid(w_B - shift) - log_sigmoid(shift - l_B)


@LINKS.register
def sppo(score_B2, beta, *, probability=1.0):
    """[(w - (p-1/2)/beta)^2 + (l + (p-1/2)/beta)^2]/2, p that chosen wins."""
    target = (probability - 0.5) / beta
    w_B, l_B = _sides(score_B2)
    return (jnp.square(w_B - target) + jnp.square(l_B + target)) / 2


@LINKS.register
def apo_zero(score_B2, beta):
    """s(-w) + s(l), scores times beta: raises the chosen one, lowers the rejected."""
    w_B, l_B = _sides(beta * score_B2)
    return sigmoid(-w_B) + sigmoid(l_B)


@LINKS.register
def apo_down(score_B2, beta):
    """s(w) + s(-z), scores times beta: lowers both, the rejected one more."""
    w_B, l_B = _sides(beta * score_B2)
    return sigmoid(w_B) + sigmoid(l_B - w_B)


def _sides(x_B2):
    return x_B2[..., 0], x_B2[..., 1]

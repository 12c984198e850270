# SPDX-License-Identifier: Apache-2.0
"""Preference losses against a reference: `(policy, reference, *, ...) -> loss_B`.

`LogProbs` are [B, 2], the chosen response first; the result is float32 [B], one value a
pair, never reduced. In the equations c and r are log(policy/reference) of the chosen
and the rejected response, D = c - r, n their lengths, and log s is `log_sigmoid`.

Each is a score (`scores`) under a link (`links`), as the papers have it. Where papers
and code part, the paper's equation has the plain name, and `_authors` and `_trl` are
the others.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax.numpy as jnp

from alignjax.bounds import Noise, NonNegative, Positive, PositiveNoise
from alignjax.losses import catalogue, links, reference_free, scores
from alignjax.types import LogProbs

loss = functools.partial(catalogue.register, catalogue.PREFERENCE)


@loss(margin=True)
def dpo(
    policy: LogProbs,
    reference: LogProbs,
    *,
    beta: Positive = 0.1,
    label_smoothing: Noise = 0.0,
):
    """DPO, arXiv:2305.18290 Eq. 7: -log s(beta D).

    `label_smoothing` e > 0 is conservative DPO, ericmitchell.ai/cdpo.pdf:
    -(1-e) log s(beta D) - e log s(-beta D), at rest where s(beta D) = 1-e. With a
    reference that moves (`reference.update_every` of a config) it is TR-DPO,
    arXiv:2404.09656.
    """
    score_B2 = policy.total - reference.total
    return links.logistic(score_B2, beta, label_smoothing=label_smoothing)


@loss(margin=True)
def robust(policy, reference, *, beta: Positive = 0.1, label_smoothing: Noise = 0.1):
    """Robust DPO, arXiv:2403.00409: [-(1-e) log s(beta D) + e log s(-beta D)]/(1-2e).

    Its mean over labels flipped with probability e is the DPO loss of the clean ones.
    Unbounded below: its gradient never vanishes.
    """
    score_B2 = scores.log_ratio(policy, reference)
    return links.robust(score_B2, beta, label_smoothing=label_smoothing)


@loss(margin=True)
def ipo(policy, reference, *, beta: Positive = 0.1):
    """IPO, arXiv:2310.12036 Eq. 17: (D - 1/(2 beta))^2; the paper's tau is our beta."""
    return links.square(scores.log_ratio(policy, reference), beta)


@loss()
def ipo_mean(policy, reference, *, beta: Positive = 0.1):
    """IPO a token, arXiv:2310.12036: (c/n_w - r/n_l - 1/(2 beta))^2.

    TRL's, on the authors' advice to average; the paper's text has sums.
    """
    return links.square(scores.mean_log_ratio(policy, reference), beta)


@loss(margin=True)
def hinge(policy, reference, *, beta: Positive = 0.05):
    """Hinge on log-ratios, arXiv:2309.06657 ("hinge-norm"): max(0, 1 - beta D)."""
    return links.hinge(scores.log_ratio(policy, reference), beta)


@loss(margin=True)
def rso(
    policy,
    reference,
    *,
    gamma: Positive = 0.05,
    link: Literal["hinge", "logistic"] = "hinge",
):
    """RSO, arXiv:2309.06657: max(0, 1 - gamma D), or -log s(gamma D).

    The other half of the method is where its pairs come from: samples of the policy,
    each kept with probability exp((reward - max)/beta).
    """
    return links.LINKS[link](scores.log_ratio(policy, reference), gamma)


@loss(margin=True)
def exo_pair(
    policy, reference, *, beta: Positive = 0.1, label_smoothing: PositiveNoise = 1e-3
):
    """EXO of pairs, arXiv:2402.00856 Eq. 16: KL(q || (1-e, e)), q = s(beta D).

    TRL has the same equation, with a default e of 0, at which it is infinite.
    """
    score_B2 = scores.log_ratio(policy, reference)
    return links.exo(score_B2, beta, label_smoothing=label_smoothing)


@loss(margin=True)
def exo_pair_authors(policy, reference, *, beta: Positive = 0.1):
    """EXO of pairs, arXiv:2402.00856 as coded: target log-probabilities (0, -10).

    They do not sum to one, so this is `exo_pair` at e = 4.5e-5 plus a small term.
    """
    return links.exo_authors(scores.log_ratio(policy, reference), beta)


@loss()
def nca_pair(policy, reference, *, beta: Positive = 0.01):
    """NCA, arXiv:2402.05369: -log s(beta c) - [log s(-beta c) + log s(-beta r)]/2.

    `ranked` has it for lists with rewards, and InfoNCA, which for pairs is `dpo`.
    """
    return links.nca(scores.log_ratio(policy, reference), beta)


@loss()
def sppo(policy, reference, *, beta: Positive = 1e-3):
    """SPPO, arXiv:2405.00675: [(c - 1/(2 beta))^2 + (r + 1/(2 beta))^2]/2.

    The hard form: the chosen response wins with probability 1. beta is the paper's
    1/eta.
    """
    return links.sppo(scores.log_ratio(policy, reference), beta)


@loss()
def sppo_trl(policy, reference, *, beta: Positive = 1e-3):
    """SPPO as in TRL, arXiv:2405.00675: the sum of the squares, twice `sppo`."""
    return 2 * links.sppo(scores.log_ratio(policy, reference), beta)


@loss(inputs=("probability_B",))
def sppo_soft(policy, reference, *, probability_B, beta: Positive = 1e-3):
    """SPPO, arXiv:2405.00675: [(c - (p-1/2)/beta)^2 + (r + (p-1/2)/beta)^2]/2.

    `probability_B`, float32 [B], is a preference model's probability p that the chosen
    response is the better one.
    """
    score_B2 = scores.log_ratio(policy, reference)
    return links.sppo(score_B2, beta, probability=probability_B)


@loss()
def bco_pair_trl(policy, reference, *, beta: Positive = 0.01):
    """BCO of pairs as in TRL, arXiv:2404.04656: -log s(beta c) - log s(-beta r).

    Without the paper's reward shift, which `bco_pair` has.
    """
    return links.bco(scores.log_ratio(policy, reference), beta)


@loss()
def apo_zero(policy, reference, *, beta: Positive = 0.1):
    """APO-zero, arXiv:2408.06266 Eq. 7: 1 - s(beta c) + s(beta r).

    For chosen responses better than the model's own.
    """
    return links.apo_zero(scores.log_ratio(policy, reference), beta)


@loss()
def apo_down(policy, reference, *, beta: Positive = 0.1):
    """APO-down, arXiv:2408.06266 Eq. 8: s(beta c) + 1 - s(beta D).

    For chosen responses worse than the model's own.
    """
    return links.apo_down(scores.log_ratio(policy, reference), beta)


@loss(margin=True)
def discopop(policy, reference, *, beta: Positive = 0.05, temperature: Positive = 0.05):
    """DiscoPOP, arXiv:2406.08414 Eq. 5: (1-m)(-log s(z)) + m e^-z, m = s(z/t).

    z is beta D, t the temperature. Not monotone: just above a margin of zero it
    prefers a smaller one.
    """
    score_B2 = scores.log_ratio(policy, reference)
    return links.discopop(score_B2, beta, temperature=temperature)


@loss()
def f_dpo(
    policy,
    reference,
    *,
    beta: Positive = 0.1,
    divergence: str = "forward_kl",
    alpha: Positive | None = None,
    link: str = "logistic",
    link_options: dict | None = None,
):
    """f-DPO, arXiv:2309.16240: -log s(beta f'(e^c) - beta f'(e^r)); or any other link.

    Args:
      policy, reference: [B, 2].
      beta: the weight of the divergence.
      divergence: one of `scores.DIVERGENCES`.
      alpha: the order of the alpha-divergence; of no other.
      link: one of `links.LINKS`, the paper's being "logistic".
      link_options: what that link takes, such as `label_smoothing`.
    """
    log_ratio_B2 = scores.log_ratio(policy, reference)
    score_B2 = scores.divergence_score(log_ratio_B2, divergence, alpha)
    return links.LINKS.find(link)(score_B2, beta, **(link_options or {}))


@loss()
def chi_po(policy, reference, *, beta: Positive = 0.1, clip: Positive = 2.0):
    """Chi-PO, arXiv:2407.13399: -log s(clip[beta f(c) - beta f(r)]), f(x) = e^x + x.

    `clip` is the paper's 2R, twice the largest reward; the gradient is 0 outside it.
    """
    score_B2 = scores.chi_squared(scores.log_ratio(policy, reference))
    z_B = beta * scores.difference(score_B2)
    return links.cross_entropy(jnp.clip(z_B, -clip, clip))


@loss()
def dpop(policy, reference, *, beta: Positive = 0.3, penalty: NonNegative = 50.0):
    """DPOP (Smaug), arXiv:2402.13228: -log s(beta [D - penalty max(0, -c)]).

    Penalises a chosen response that is less likely than under the reference.
    """
    c_B, r_B = jnp.moveaxis(scores.log_ratio(policy, reference), -1, 0)
    kept_B = c_B - penalty * jnp.maximum(0.0, -c_B)
    return links.logistic(jnp.stack([kept_B, r_B], -1), beta)


@loss()
def rpo(policy, reference, *, beta: Positive = 0.01, eta: NonNegative = 0.005):
    """Regularised PO, arXiv:2405.16436: `dpo` - eta beta log p(y_w)."""
    nll_B = reference_free.nll(policy, reference)
    return dpo(policy, reference, beta=beta) + eta * beta * nll_B


@loss()
def iterative_rpo(policy, reference, *, beta: Positive = 0.1, alpha: NonNegative = 1.0):
    """Iterative reasoning PO, arXiv:2404.19733: `dpo` - alpha log p(y_w)/n_w."""
    nll_B = reference_free.nll_mean(policy, reference)
    return dpo(policy, reference, beta=beta) + alpha * nll_B


@loss()
def npo(policy, reference, *, beta: Positive = 0.1):
    """NPO, arXiv:2404.05868: -(2/beta) log s(-beta r), of the rejected response alone.

    To unlearn it; gradient ascent in the limit of beta to 0, and bounded below by 0.
    """
    r_B = scores.log_ratio(policy, reference)[..., 1]
    return -2 / beta * links.log_sigmoid(-beta * r_B)


@loss(inputs=("gap_B",), margin=True)
def odpo(policy, reference, *, gap_B, beta: Positive = 0.1, alpha: NonNegative = 1.0):
    """ODPO, arXiv:2402.10571: -log s(beta D - alpha log gap).

    `gap_B`, float32 [B] and above 0, is how much better the chosen response is.
    """
    score_B2 = scores.log_ratio(policy, reference)
    return links.logistic(score_B2, beta, offset=-alpha * jnp.log(gap_B))


@loss(inputs=("gap_B",), margin=True)
def reward_aware(
    policy,
    reference,
    *,
    gap_B,
    beta: Positive = 0.1,
    eta: NonNegative = 1.0,
    distance: Literal["backward_kl", "forward_kl", "squared"] = "backward_kl",
):
    """Reward-aware PO, arXiv:2406.11704 (there "RPO"): distance[beta D, eta gap].

    `gap_B`, float32 [B], is the known reward of the chosen response less the rejected
    one's. Backward is KL(s(eta gap) || s(beta D)), forward the other way round.
    """
    z_B = beta * scores.difference(scores.log_ratio(policy, reference))
    target_B = eta * gap_B
    if distance == "squared":
        return jnp.square(z_B - target_B)
    p_B, q_B = (z_B, target_B) if distance == "forward_kl" else (target_B, z_B)
    log = links.log_sigmoid
    right_B = links.sigmoid(p_B) * (log(p_B) - log(q_B))
    return right_B + links.sigmoid(-p_B) * (log(-p_B) - log(-q_B))

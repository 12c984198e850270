# SPDX-License-Identifier: Apache-2.0
"""Every loss once more, from its paper, in float64 numpy and without any of our code.

All of it is analytic, so that a complex step gives exact derivatives: a branch looks at
real parts only, and what the paper holds constant is a real part. `Pairs` are the
variables of the equations; arrays are [B].
"""

import types

import numpy as np

STEP = 1e-30


def gradient(function, x):
    """d sum(function(x)) / dx of a real array, by complex steps."""
    x = np.asarray(x, np.complex128)
    out = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        moved = x.copy()
        moved[i] += 1j * STEP
        out[i] = np.sum(function(moved)).imag / STEP
    return out


def ls(z):
    return -np.log1p(np.exp(-z))


def sg(z):
    return 1 / (1 + np.exp(-z))


def relu(z):
    return np.where(np.real(z) > 0, z, 0)


def ce(z, e=0.0):
    return -(1 - e) * ls(z) - e * ls(-z)


def pairs(policy, reference):
    """The variables of the equations, from [B, 2] fields."""
    x = types.SimpleNamespace()
    x.lw, x.ll = policy.total.T
    x.nw, x.nl = np.maximum(policy.length, 1).T
    x.mw, x.ml = x.lw / x.nw, x.ll / x.nl
    x.rw, x.rl = reference.total.T
    x.c, x.r = x.lw - x.rw, x.ll - x.rl
    x.D = x.c - x.r
    x.hc, x.hr = (policy.head - reference.head).T
    x.sc, x.sr = (policy.sample - reference.sample).T
    x.kw, x.kl = policy.reference_kl.T
    x.qw, x.ql = policy.collision.T
    return x


DIVERGENCES = {
    "reverse_kl": lambda u, a: np.log(u),
    "forward_kl": lambda u, a: 1 - 1 / u,
    "jensen_shannon": lambda u, a: np.log(2 * u / (1 + u)),
    "alpha": lambda u, a: (1 - u**-a) / a,
    "chi_squared": lambda u, a: u + np.log(u) - 1,
}
LINKS = {
    "logistic": lambda w, l, b, offset=0, label_smoothing=0: ce(
        b * (w - l) + offset, label_smoothing
    ),
    "robust": lambda w, l, b, label_smoothing=0.1: (
        (-(1 - label_smoothing) * ls(b * (w - l)) + label_smoothing * ls(b * (l - w)))
        / (1 - 2 * label_smoothing)
    ),
    "hinge": lambda w, l, b: relu(1 - b * (w - l)),
    "square": lambda w, l, b: (w - l - 1 / (2 * b)) ** 2,
    "exo": lambda w, l, b, label_smoothing=1e-3: kl2(
        sg(b * (w - l)), np.log(1 - label_smoothing), np.log(label_smoothing)
    ),
    "exo_authors": lambda w, l, b, rejected=-10: kl2(sg(b * (w - l)), 0, rejected),
    "discopop": lambda w, l, b, temperature=0.05: discopop(b * (w - l), temperature),
    "nca": lambda w, l, b: -ls(b * w) - ls(-b * w) / 2 - ls(-b * l) / 2,
    "bco": lambda w, l, b, shift=0: -ls(b * w - shift) - ls(-(b * l - shift)),
    "sppo": lambda w, l, b, probability=1: (
        ((w - (probability - 0.5) / b) ** 2 + (l + (probability - 0.5) / b) ** 2) / 2
    ),
    "apo_zero": lambda w, l, b: 1 - sg(b * w) + sg(b * l),
    "apo_down": lambda w, l, b: sg(b * w) + 1 - sg(b * (w - l)),
}


def kl2(q, log_p, log_not_p):
    return q * (np.log(q) - log_p) + (1 - q) * (np.log(1 - q) - log_not_p)


def discopop(z, t):
    m = sg(z / t)
    return (1 - m) * -ls(z) + m * np.exp(-z)


def f_dpo(x, beta, divergence, link, alpha=None, link_options=None):
    f = DIVERGENCES[divergence]
    w, l = f(np.exp(x.c), alpha), f(np.exp(x.r), alpha)
    return LINKS[link](w, l, beta, **(link_options or {}))


def chi_po(x, beta, clip):
    z = beta * (np.exp(x.c) + x.c) - beta * (np.exp(x.r) + x.r)
    z = np.where(z.real > clip, clip, np.where(z.real < -clip, -clip, z))
    return ce(z)


def ranks_of(values):
    return np.argsort(values.real)


def aot(x, beta, label_smoothing):
    """Sorted against sorted; each value goes back to the pair of its policy margin."""
    u, v = x.lw - x.ll, x.rw - x.rl
    out, order = np.zeros_like(u), ranks_of(u)
    out[order] = ce(beta * (u[order] - v[ranks_of(v)]), label_smoothing)
    return out


def aot_unpaired(x, beta, label_smoothing):
    out, order = np.zeros_like(x.c), ranks_of(x.c)
    out[order] = ce(beta * (x.c[order] - x.r[ranks_of(x.r)]), label_smoothing)
    return out


def beta_dpo(x, beta, sensitivity, drop):
    """Without a key the likeliest pairs stay; mean and spread are the batch's own."""
    M = x.D.real
    weight = np.exp(-0.5 * ((M - M.mean()) / M.std()) ** 2)
    kept = np.argsort(-weight)[: int((1 - drop) * len(M))]
    now = max(beta * (1 + sensitivity * (M[kept].mean() - M.mean())), 1e-3)
    out = np.zeros_like(x.D)
    out[kept] = -ls(now * x.D[kept]) * len(M) / len(kept)
    return out


def reward_aware(x, gap, beta, eta, distance):
    z, t = beta * x.D, eta * gap
    if distance == "squared":
        return (z - t) ** 2
    p, q = (sg(z), sg(t)) if distance == "forward_kl" else (sg(t), sg(z))
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def wpo(x, beta, cap=np.inf):
    weight = np.exp(((x.lw - x.qw) / x.nw).real) * np.exp(((x.ll - x.ql) / x.nl).real)
    return np.minimum(weight, cap) * -ls(beta * x.D)


def bco_pair(x, beta):
    shift = (beta * x.c.real.mean() + beta * x.r.real.mean()) / 2
    return -ls(beta * x.c - shift) - ls(-(beta * x.r - shift))


def orpo(x, odds_weight):
    odds = lambda m: np.exp(m) / (1 - np.exp(m))
    return -x.mw - odds_weight * ls(np.log(odds(x.mw) / odds(x.ml)))


def alphapo(x, beta, gamma, alpha):
    reward = lambda m: (1 - np.exp(m) ** -alpha) / alpha if alpha else m
    return -ls(beta * reward(x.mw) - beta * reward(x.ml) - gamma)


def nll_token(x):
    return -x.lw / x.nw.real.mean()


PREFERENCE = {
    "dpo": lambda x, beta, label_smoothing: ce(beta * x.D, label_smoothing),
    "robust": lambda x, beta, label_smoothing: LINKS["robust"](
        x.c, x.r, beta, label_smoothing
    ),
    "ipo": lambda x, beta: (x.D - 1 / (2 * beta)) ** 2,
    "ipo_mean": lambda x, beta: (x.c / x.nw - x.r / x.nl - 1 / (2 * beta)) ** 2,
    "hinge": lambda x, beta: relu(1 - beta * x.D),
    "rso": lambda x, gamma, link: (
        relu(1 - gamma * x.D) if link == "hinge" else -ls(gamma * x.D)
    ),
    "exo_pair": lambda x, beta, label_smoothing: kl2(
        sg(beta * x.D), np.log(1 - label_smoothing), np.log(label_smoothing)
    ),
    "exo_pair_authors": lambda x, beta: kl2(sg(beta * x.D), 0, -10),
    "nca_pair": lambda x, beta: LINKS["nca"](x.c, x.r, beta),
    "sppo": lambda x, beta: ((x.c - 0.5 / beta) ** 2 + (x.r + 0.5 / beta) ** 2) / 2,
    "sppo_trl": lambda x, beta: (x.c - 0.5 / beta) ** 2 + (x.r + 0.5 / beta) ** 2,
    "sppo_soft": lambda x, beta, probability_B: LINKS["sppo"](
        x.c, x.r, beta, probability_B
    ),
    "bco_pair_trl": lambda x, beta: -ls(beta * x.c) - ls(-beta * x.r),
    "bco_pair": bco_pair,
    "apo_zero": lambda x, beta: 1 - sg(beta * x.c) + sg(beta * x.r),
    "apo_down": lambda x, beta: sg(beta * x.c) + 1 - sg(beta * x.D),
    "discopop": lambda x, beta, temperature: discopop(beta * x.D, temperature),
    "f_dpo": f_dpo,
    "chi_po": chi_po,
    "dpop": lambda x, beta, penalty: -ls(beta * (x.D - penalty * relu(-x.c))),
    "r_dpo": lambda x, beta, alpha: (
        -ls(beta * x.D + alpha * x.nw.real - alpha * x.nl.real)
    ),
    "ln_dpo": lambda x, beta, label_smoothing: ce(
        beta * x.c / x.nw - beta * x.r / x.nl, label_smoothing
    ),
    "ld_dpo": lambda x, beta, alpha: (
        -ls(beta * (x.hc + alpha * (x.c - x.hc) - x.hr - alpha * (x.r - x.hr)))
    ),
    "sampo": lambda x, beta: -ls(beta * (x.sc - x.sr)),
    "tdpo1": lambda x, beta: -ls(beta * x.D - (beta * x.kl - beta * x.kw)),
    "tdpo2": lambda x, beta, alpha: (
        -ls(beta * x.D - alpha * (beta * x.kl - beta * x.kw.real))
    ),
    "wpo": lambda x, beta, link, link_options=None: wpo(x, beta),
    "wpo_authors": lambda x, beta: wpo(x, beta, cap=1),
    "npo": lambda x, beta: 2 / beta * np.log(1 + np.exp(x.r) ** beta),
    "odpo": lambda x, gap_B, beta, alpha: -ls(beta * x.D - alpha * np.log(gap_B)),
    "reward_aware": lambda x, gap_B, beta, eta, distance: reward_aware(
        x, gap_B, beta, eta, distance
    ),
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "beta_dpo": beta_dpo,
    "nll": lambda x: -x.lw,
    "nll_mean": lambda x: -x.lw / x.nw,
    "nll_token": nll_token,
    "rpo": lambda x, beta, eta: -ls(beta * x.D) - eta * beta * x.lw,
    "rpo_trl": lambda x, beta, eta: -ls(beta * x.D) + eta * nll_token(x),
    "iterative_rpo": lambda x, beta, alpha: -ls(beta * x.D) - alpha * x.mw,
    "mpo": lambda x, beta, preference_weight, quality_weight, generation_weight: (
        preference_weight * -ls(beta * x.D)
        + quality_weight * bco_pair(x, beta)
        - generation_weight * x.mw
    ),
    "orpo": orpo,
    "cpo": lambda x, beta, alpha, label_smoothing: (
        ce(beta * (x.lw - x.ll), label_smoothing) - alpha * x.lw
    ),
    "cpo_trl": lambda x, beta, alpha, label_smoothing: (
        ce(beta * (x.lw - x.ll), label_smoothing) + alpha * nll_token(x)
    ),
    "simpo": lambda x, beta, gamma, label_smoothing: ce(
        beta * x.mw - beta * x.ml - gamma, label_smoothing
    ),
    "alphapo": alphapo,
    "simper": lambda x: -np.exp(x.mw) + np.exp(x.ml),
    "slic": lambda x, delta, nll_weight: relu(delta - x.lw + x.ll) - nll_weight * x.lw,
}


def unpaired(policy, reference, desirable_B):
    good = np.asarray(desirable_B, bool)
    return policy.total - reference.total, good, np.where(good, 1, -1)


def kto(policy, reference, desirable_B, beta, desirable_weight=1, undesirable_weight=1):
    x, good, sign = unpaired(policy, reference, desirable_B)
    z = max(0.0, np.mean((policy.mismatched - reference.mismatched).real))
    weight = np.where(good, desirable_weight, undesirable_weight)
    return weight * (1 - sg(beta * sign * (x - z)))


def bco(policy, reference, desirable_B, beta):
    x, good, sign = unpaired(policy, reference, desirable_B)
    shift = beta * (x.real[good].mean() + x.real[~good].mean()) / 2
    return -ls(sign * (beta * x - shift))


def apo_zero_unpaired(
    policy, reference, desirable_B, beta, desirable_weight, undesirable_weight
):
    x, good, _ = unpaired(policy, reference, desirable_B)
    weight = np.where(good, desirable_weight, undesirable_weight)
    return weight * np.where(good, 1 - sg(beta * x), sg(beta * x))


UNPAIRED = {"kto": kto, "bco": bco, "apo_zero_unpaired": apo_zero_unpaired}


def softmax(x):
    powers = np.exp(x)
    return powers / powers.sum(-1, keepdims=True)


def ranking(policy, reference, i):
    """The log-ratios of the responses of list i that are there, and which these are."""
    there = policy.length[i].real > 0
    return (policy.total - reference.total)[i][there], there


def per_list(function):
    """A loss of all lists from the loss of one, its rewards those that are there."""

    def loss(policy, reference, reward_BK=None, **options):
        out = []
        for i in range(len(policy.total)):
            x, there = ranking(policy, reference, i)
            rewards = () if reward_BK is None else (np.asarray(reward_BK)[i][there],)
            out.append(function(x, *rewards, **options))
        return np.array(out)

    return loss


def plackett_luce(s):
    """-log of the chance to draw the ranking, one by one without replacement."""
    chance = 1.0
    for i in range(len(s)):
        chance = chance * np.exp(s[i]) / np.exp(s[i:]).sum()
    return -np.log(chance)


RANKED = {
    "plackett_luce_dpo": per_list(lambda x, beta: plackett_luce(beta * x)),
    "infonca": per_list(
        lambda x, r, beta, temperature: (
            -np.sum(softmax(r / temperature) * np.log(softmax(beta * x)))
        )
    ),
    "nca": per_list(
        lambda x, r, beta, temperature: (
            -np.sum(softmax(r / temperature) * ls(beta * x)) - np.mean(ls(-beta * x))
        )
    ),
    "exo": per_list(
        lambda x, r, beta, temperature: np.sum(
            softmax(beta * x) * np.log(softmax(beta * x) / softmax(r / temperature))
        )
    ),
}


def bradley_terry(s, margin_B=0, weight_B=1, label_smoothing=0, centring=0):
    w, l = s.T
    return weight_B * (ce(w - l - margin_B, label_smoothing) + centring * (w + l) ** 2)


def all_pairs(s, present_BK):
    out = []
    for row, there in zip(s, present_BK, strict=True):
        row = row[there]
        K = len(row)
        costs = [-ls(row[i] - row[j]) for i in range(K) for j in range(i + 1, K)]
        out.append(np.mean(costs))
    return np.array(out)


def regression(s, target_BA, present_BA):
    rows = zip(s, target_BA, present_BA, strict=True)
    return np.array([np.mean((x[m] - t[m]) ** 2) for x, t, m in rows])


REWARD = {
    "bradley_terry": bradley_terry,
    "plackett_luce": lambda s, present_BK: np.array(
        [plackett_luce(x[m]) for x, m in zip(s, present_BK, strict=True)]
    ),
    "all_pairs": all_pairs,
    "regression": regression,
}

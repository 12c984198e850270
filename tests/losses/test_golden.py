# SPDX-License-Identifier: Apache-2.0
"""Losses against vectors that were computed from the papers by other hands.

`golden/objectives.json` has per-example values, means and gradients of one canonical
batch. A number that changes here means that a loss changed: all results obtained with
it are results of another loss.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.losses import (
    catalogue,
    coupled,
    language_model,
    links,
    preference,
    reward,
    scores,
)
from alignjax.types import LogProbs
from tests.losses import batches

FILE = pathlib.Path(__file__).parent.parent / "golden" / "objectives.json"
GOLDEN = json.loads(FILE.read_text())


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def array(x):
    return np.asarray(x, np.float64)


def canonical():
    given = {k: array(v) for k, v in GOLDEN["INPUT.pairs"].items()}
    both = lambda first, second: np.stack([given[first], given[second]], -1)
    length = both("chosen_len", "rejected_len")
    kl = GOLDEN["INPUT.tdpo"]
    policy = LogProbs(
        both("policy_chosen_logps", "policy_rejected_logps"),
        length,
        reference_kl=array([kl["seqKL_ref_policy_chosen"], kl["rejected"]]).T,
    )
    return policy, LogProbs(both("ref_chosen_logps", "ref_rejected_logps"), length)


# The vector's name: the loss and its options.
PAIRS = {
    "dpo": ("dpo", dict(beta=0.1)),
    "cdpo(eps=.1)": ("dpo", dict(beta=0.1, label_smoothing=0.1)),
    "rdpo(eps=.1)": ("robust", dict(beta=0.1, label_smoothing=0.1)),
    "ipo_sum(tau=.1)": ("ipo", dict(beta=0.1)),
    "ipo_avg(tau=.1)": ("ipo_mean", dict(beta=0.1)),
    "hinge/RSO-hinge-norm(beta=.1)": ("hinge", dict(beta=0.1)),
    "slic_hf(delta=1,lam=.1,target=chosen)": ("slic", dict(delta=1.0, nll_weight=0.1)),
    "apo_zero": ("apo_zero", dict(beta=0.1)),
    "apo_down": ("apo_down", dict(beta=0.1)),
    "nca_pair": ("nca_pair", dict(beta=0.1)),
    "bco_pair(delta=0)": ("bco_pair_trl", dict(beta=0.1)),
    "bco_pair(with delta)": ("bco_pair", dict(beta=0.1)),
    "exo_pref(eps=1e-3)": ("exo_pair", dict(beta=0.1, label_smoothing=1e-3)),
    "exo_pref_official(logeps=-10)": ("exo_pair_authors", dict(beta=0.1)),
    "sppo_hard_sum(beta=.1)": ("sppo_trl", dict(beta=0.1)),
    "sppo_hard_mean(beta=.1)": ("sppo", dict(beta=0.1)),
    "discopop(beta=.05,tau=.05)": ("discopop", dict(beta=0.05, temperature=0.05)),
    "aot_paired": ("aot", dict(beta=0.1)),
    "aot_unpaired": ("aot_unpaired", dict(beta=0.1)),
    "r_dpo(alpha=.01)": ("r_dpo", dict(beta=0.1, alpha=0.01)),
    "dpop(lam=5,beta=.1)": ("dpop", dict(beta=0.1, penalty=5.0)),
    "f_dpo.reverse_kl": ("f_dpo", dict(divergence="reverse_kl")),
    "f_dpo.forward_kl": ("f_dpo", dict(divergence="forward_kl")),
    "f_dpo.js": ("f_dpo", dict(divergence="jensen_shannon")),
    "f_dpo.alpha.3": ("f_dpo", dict(divergence="alpha", alpha=0.3)),
    "f_dpo.alpha.5": ("f_dpo", dict(divergence="alpha", alpha=0.5)),
    "f_dpo.alpha.7": ("f_dpo", dict(divergence="alpha", alpha=0.7)),
    "chi_po(beta=.1,Rmax=1)": ("chi_po", dict(beta=0.1, clip=2.0)),
    "tdpo1": ("tdpo1", dict(beta=0.1)),
    "tdpo2(alpha=.5)": ("tdpo2", dict(beta=0.1, alpha=0.5)),
    "ln_dpo/sigmoid_norm(beta=5)": ("ln_dpo", dict(beta=5.0)),
    "orpo(lam=.1,per-example NLL)": ("orpo", dict(odds_weight=0.1)),
    "simpo(beta=2,gamma=1)": ("simpo", dict(beta=2.0, gamma=1.0)),
    "simper": ("simper", {}),
    "alphapo(alpha=.25,beta=2.5,gamma=.1)": (
        "alphapo",
        dict(alpha=0.25, beta=2.5, gamma=0.1),
    ),
    "cpo_pref": ("cpo", dict(beta=0.1, alpha=0.0)),
    "cpo(alpha=1,token NLL)": ("cpo_trl", dict(beta=0.1, alpha=1.0)),
    "nll.token_mean": ("nll_token", {}),
    "nll.seq_mean": ("nll_mean", {}),
    "rpo_dpo+eta*nll(beta=.1,eta=.005)": ("rpo", dict(beta=0.1, eta=0.05)),
    "iter_rpo(beta=.1,alpha=1)": ("iterative_rpo", dict(beta=0.1, alpha=1.0)),
}
SORTED = {"aot_paired", "aot_unpaired"}  # the vectors are by rank, ours by pair


@pytest.mark.parametrize("vector", PAIRS)
def test_pairs(vector):
    policy, reference = canonical()
    loss_B = batches.call("preference", *PAIRS[vector])(policy, reference, {})
    known = [k for k in (f"{vector}.each", f"{vector}.each_sorted") if k in GOLDEN]
    means = [k for k in (f"{vector}.mean", vector) if k in GOLDEN]
    assert known or means
    arrange = np.sort if vector in SORTED else np.asarray
    for key in known:
        np.testing.assert_allclose(arrange(loss_B), arrange(GOLDEN[key]), rtol=1e-6)
    for key in means:
        np.testing.assert_allclose(np.mean(loss_B), GOLDEN[key], rtol=1e-6)


GRADIENTS = {
    "dpo": "dpo",
    "cdpo(eps=.1)": "cdpo(eps=.1)",
    "rdpo(eps=.1)": "rdpo(eps=.1)",
    "ipo_avg(tau=.1)": "ipo_avg(tau=.1)",
    "ipo_sum(tau=.1)": "ipo_sum(tau=.1)",
    "hinge(beta=.1)": "hinge/RSO-hinge-norm(beta=.1)",
    "apo_zero": "apo_zero",
    "apo_down": "apo_down",
    "nca_pair": "nca_pair",
    "bco_pair": "bco_pair(delta=0)",
    "exo_pref(1e-3)": "exo_pref(eps=1e-3)",
    "sppo_hard_mean(beta=.1)": "sppo_hard_mean(beta=.1)",
    "discopop(.05,.05)": "discopop(beta=.05,tau=.05)",
    "r_dpo(.01)": "r_dpo(alpha=.01)",
    "dpop(lam=5)": "dpop(lam=5,beta=.1)",
    "f_dpo.forward_kl": "f_dpo.forward_kl",
    "f_dpo.js": "f_dpo.js",
    "f_dpo.alpha.5": "f_dpo.alpha.5",
    "chi_po(R=1)": "chi_po(beta=.1,Rmax=1)",
    "aot_paired": "aot_paired",
    "aot_unpaired": "aot_unpaired",
    "orpo(.1)": "orpo(lam=.1,per-example NLL)",
    "simpo(2,1)": "simpo(beta=2,gamma=1)",
    "cpo_pref": "cpo_pref",
    "simper": "simper",
    "ln_dpo(beta=5)": "ln_dpo/sigmoid_norm(beta=5)",
}


def test_no_gradient_of_the_file_is_left_out():
    there = {
        k.removeprefix("grad.").rsplit(".d_", 1)[0] for k in GOLDEN if "grad." in k
    }
    assert there == set(GRADIENTS)


@pytest.mark.parametrize("vector", GRADIENTS)
def test_gradients(vector):
    """Of the mean over the batch; the file's are finite differences of 1e-6."""
    policy, reference = canonical()
    loss = batches.call("preference", *PAIRS[GRADIENTS[vector]])
    mean = lambda total: loss(policy.replace(total=total), reference, {}).mean()
    theirs = [GOLDEN[f"grad.{vector}.d_{side}"] for side in ("chosen", "rejected")]
    ours = jax.grad(mean)(jnp.asarray(policy.total))
    np.testing.assert_allclose(ours, np.transpose(theirs), rtol=1e-5, atol=1e-9)


def test_inputs_of_the_batch():
    policy, reference = canonical()
    known = catalogue.PREFERENCE
    gap_B = array([1.5, 0.2, 0.8, 0.1])
    for distance, key in (
        ("backward_kl", "rpo_aware_bwd_kl(eta=1).each"),
        ("forward_kl", "rpo_aware_fwd_kl(eta=1).each"),
        ("squared", "rpo_aware_sq(eta=1).each"),
    ):
        loss_B = known["reward_aware"](
            policy, reference, gap_B=gap_B, beta=0.1, distance=distance
        )
        np.testing.assert_allclose(loss_B, GOLDEN[key], rtol=1e-6)
    loss_B = known["odpo"](policy, reference, gap_B=array([2, 1, 3, 1]), beta=0.1)
    theirs = GOLDEN["odpo(alpha=1,score diff=[2,1,3,1]).each"]
    np.testing.assert_allclose(loss_B, theirs, rtol=1e-6)
    loss_B = known["sppo_soft"](
        policy, reference, probability_B=array([0.9, 0.6, 0.75, 0.5]), beta=0.1
    )
    theirs = GOLDEN["sppo_soft(P=[.9,.6,.75,.5]).each"]
    np.testing.assert_allclose(loss_B, theirs, rtol=1e-6)


def test_beta_dpo_keeps_three_of_four():
    policy, reference = canonical()
    statistic = coupled.beta_statistic(
        policy, reference, drop=0.2, center=0.25, spread=1.2
    )
    # The two outliers tie; the file keeps the first of them.
    np.testing.assert_allclose(statistic.weight_B, array([1, 1, 1, 0]) * 4 / 3)
    beta = 0.1 * (1 + 0.6 * statistic.excess)
    np.testing.assert_allclose(beta, GOLDEN["beta_dpo.beta_used(top3)"], rtol=1e-6)
    loss_B = coupled.beta_dpo(policy, reference, statistic=statistic, beta=0.1)
    np.testing.assert_allclose(loss_B.mean(), GOLDEN["beta_dpo.mean(top3)"], rtol=1e-6)


def test_a_mixture_of_three():
    terms = catalogue.bind_mixture(
        {
            "dpo": {"weight": 0.8, "beta": 0.1},
            "bco_pair": {"weight": 0.2, "beta": 0.1},
            "nll_token": 1.0,
        },
        "terms",
    )
    policy, reference = canonical()
    combined = catalogue.combine(terms)
    statistic = catalogue.measure(combined, policy, reference)
    np.testing.assert_allclose(statistic["bco_pair"], GOLDEN["bco.delta"], rtol=1e-6)
    loss_B, each = combined(policy, reference, statistic=statistic)
    np.testing.assert_allclose(loss_B.mean(), GOLDEN["mpo(.8,.2,1)"], rtol=1e-6)
    np.testing.assert_allclose(each["dpo"].mean(), GOLDEN["dpo.mean"], rtol=1e-6)


def test_unpaired():
    given = GOLDEN["INPUT.unpaired"]
    zero = np.zeros(6)
    policy = LogProbs(
        array(given["logratio"]),
        zero + 5,
        mismatched=array(given["kl_logratio_mismatched"]),
    )
    reference = LogProbs(zero, zero + 5, mismatched=zero)
    inputs = dict(desirable_B=np.array(given["label"], bool))
    call = lambda name, **o: batches.call("unpaired", name, dict(o, beta=0.1))(
        policy, reference, inputs
    )
    kto = catalogue.UNPAIRED["kto"]
    z = catalogue.measure(kto, policy, reference)
    np.testing.assert_allclose(z, GOLDEN["kto.z0"], rtol=1e-6)
    theirs = GOLDEN["kto(beta=.1,lD=lU=1).each"]
    np.testing.assert_allclose(call("kto"), theirs, rtol=1e-6)
    weighted = call("kto", undesirable_weight=1.33).mean()
    np.testing.assert_allclose(weighted, GOLDEN["kto(lD=1,lU=1.33).mean"], rtol=1e-6)
    np.testing.assert_allclose(call("bco"), GOLDEN["bco_unpaired.each"], rtol=1e-6)
    apo = call("apo_zero_unpaired").mean()
    np.testing.assert_allclose(apo, GOLDEN["apo_zero_unpaired.mean"], rtol=1e-6)


def test_ranked():
    given = GOLDEN["INPUT.kwise"]
    ratio, rewards = array(given["logratio"]), array(given["reward"])
    policy = LogProbs(ratio, ratio * 0 + 4)
    reference = LogProbs(ratio * 0, ratio * 0 + 4)
    inputs = dict(reward_BK=rewards)
    for name, key in (
        ("infonca", "infonca(K=4)"),
        ("nca", "nca(K=4)"),
        ("exo", "exo_rw(K=4)"),
    ):
        loss = batches.call("ranked", name, dict(beta=0.1, temperature=1.0))
        loss_B = loss(policy, reference, inputs)
        np.testing.assert_allclose(loss_B, [GOLDEN[key]], rtol=1e-6)


def test_reward():
    given = {k: array(v) for k, v in GOLDEN["INPUT.rm"].items()}
    score_B2 = np.stack([given["chosen"], given["rejected"]], -1)
    loss = reward.bradley_terry
    np.testing.assert_allclose(loss(score_B2), GOLDEN["rm_bt.each"], rtol=1e-6)
    for options, key in (
        (dict(margin_B=given["margin"]), "rm_bt_margin.mean"),
        (dict(centring=0.01), "rm_bt_center(.01).mean"),
        (dict(label_smoothing=0.1), "rm_bt_smooth(.1).mean"),
        (dict(label_smoothing=jnp.full(4, 0.2)), "rm_soft_label(p=.8).mean"),
    ):
        mean = loss(score_B2, **options).mean()
        np.testing.assert_allclose(mean, GOLDEN[key], rtol=1e-6)


def test_rankings_of_scores():
    score_BK = array([[1.5, 0.7, 0.0, -0.8]])
    best = reward.plackett_luce(score_BK)
    np.testing.assert_allclose(best, [GOLDEN["rm_plackett_luce(K=4)"]], rtol=1e-6)
    pairs = reward.all_pairs(score_BK)
    np.testing.assert_allclose(pairs, [GOLDEN["rm_bt_allpairs(K=4)"]], rtol=1e-6)


def test_tokens():
    given = {k: np.log(array(v)) for k, v in GOLDEN["INPUT.tokens"].items()}
    T = 5

    def rows(chosen, rejected):
        pad = np.full(T - len(rejected), -9.0)
        return np.stack([chosen, np.concatenate([rejected, pad])])[None]

    counts = np.arange(T) < np.array([5, 3])[:, None]
    counts = counts[None]

    def logprobs(chosen, rejected):
        logp = rows(given[chosen], given[rejected])
        head = logp[..., :3].sum(-1)  # as many as the shorter one has
        return LogProbs((logp * counts).sum(-1), counts.sum(-1), head=head)

    policy = logprobs("chosen_p", "rejected_p")
    reference = logprobs("chosen_ref_p", "rejected_ref_p")
    for alpha, key in (
        (0.5, "ld_dpo(alpha=.5,beta=.1)"),
        (1.0, "ld_dpo.full(alpha=1)"),
    ):
        loss_B = catalogue.PREFERENCE["ld_dpo"](
            policy, reference, beta=0.1, alpha=alpha
        )
        np.testing.assert_allclose(loss_B, [GOLDEN[key]], rtol=1e-6)
    dft = language_model.dft(jnp.log(jnp.asarray(0.7)))
    np.testing.assert_allclose(dft, GOLDEN["dft.token"], rtol=1e-6)


def test_robust_dpo_is_unbiased_under_flips():
    """Its mean over flipped labels is DPO on the clean ones, and cDPO's is not."""
    policy, reference = canonical()
    flip = lambda x: LogProbs(x.total[:, ::-1], x.length[:, ::-1])
    clean_B = preference.dpo(policy, reference, beta=0.1)

    def over_flips(loss, e):
        right_B = loss(policy, reference, beta=0.1, label_smoothing=e)
        wrong_B = loss(flip(policy), flip(reference), beta=0.1, label_smoothing=e)
        return (1 - e) * right_B + e * wrong_B

    for e in (0.1, 0.4):
        unbiased_B = over_flips(preference.robust, e)
        np.testing.assert_allclose(unbiased_B, clean_B, rtol=1e-12)
        assert np.abs(over_flips(preference.dpo, e) - clean_B).max() > 1e-3


def test_links_and_divergences_have_the_losses_of_their_names():
    """f-DPO under the reverse KL is the loss that is named after the link."""
    policy, reference = canonical()
    named = dict(
        logistic="dpo",
        robust="robust",
        hinge="hinge",
        square="ipo",
        exo="exo_pair",
        exo_authors="exo_pair_authors",
        discopop="discopop",
        nca="nca_pair",
        bco="bco_pair_trl",
        sppo="sppo",
        apo_zero="apo_zero",
        apo_down="apo_down",
    )
    assert set(named) == set(links.LINKS)
    for link, name in named.items():
        f_dpo = preference.f_dpo(
            policy, reference, beta=0.1, divergence="reverse_kl", link=link
        )
        loss_B = catalogue.PREFERENCE[name](policy, reference, beta=0.1)
        np.testing.assert_allclose(f_dpo, loss_B, rtol=1e-12)
    for name in scores.DIVERGENCES:
        order = 0.3 if name == "alpha" else None
        zero = scores.divergence_score(jnp.zeros(1), name, order)
        np.testing.assert_allclose(zero, 0.0, atol=1e-15)

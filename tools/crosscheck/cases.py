# SPDX-License-Identifier: Apache-2.0
"""What is compared: options of TRL's trainers, beside objectives of alignjax.

A case either agrees, or says why it does not: a paper's equation has the plain name
here, and where TRL's code is another one, that is the variant beside it. Only names and
numbers, so that this file needs neither torch nor jax.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Case(NamedTuple):
    """One comparison.

    Attributes:
      trainer: "dpo", "kto", "orpo", "cpo", "reward" or "sft": whose trainer of TRL.
      trl: fields of its config.
      ours: the section `objective`.
      why: why loss and gradient are meant to differ; None where they are to agree.
      metrics: why a metric of TRL's is meant to differ, by its name.
      less: fields of the two sides that a second run of both has instead. What it
        gives is taken off, which leaves the part of the loss that the field weighs.
      note: what else there is to say.
    """

    trainer: str
    trl: Mapping[str, Any]
    ours: Mapping[str, Any]
    why: str | None = None
    metrics: Mapping[str, str] = {}
    less: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    note: str = ""


def _dpo(trl: str | list, loss: str | None, *, why=None, note="", metrics=None, **both):
    """A case of DPOTrainer; `options` are those of TRL and ours, beta is 0.3."""
    theirs, ours = both.get("options", ({}, {}))
    beta = both.get("beta", 0.3)
    section = {"name": "preference", **ours}
    if loss is not None:
        section |= {"loss": loss}
        if both.get("has_beta", True):
            section |= {"beta": beta}
    fields = {"loss_type": trl, "beta": beta, **theirs}
    return Case("dpo", fields, section, why, metrics or {}, None, note)


SMOOTH = ({"label_smoothing": 0.1}, {"label_smoothing": 0.1})
LENGTHS = "the paper's text has sums over tokens, TRL means (its authors' advice)"
SHIFT = "the paper's reward shift, here the batch's mean reward; TRL has none"
OVERFLOW = "TRL's e^-z is infinite times 0; here it is one power, which is finite"
OWN_LENGTH = "each response by its own length; TRL: by all tokens of the batch"

PLAIN = [
    _dpo("sigmoid", "dpo"),
    _dpo("sigmoid", "dpo", beta=0.05),
    _dpo(
        "sigmoid",
        "dpo",
        options=({"precompute_ref_log_probs": True}, {}),
        note="the reference's log-probabilities stored before, on both sides",
    ),
    _dpo(
        "sigmoid",
        "dpo",
        options=SMOOTH,
        why="conservative DPO; TRL ignores label_smoothing here since 0.29",
    ),
    _dpo("robust", "robust", options=SMOOTH),
    _dpo("hinge", "hinge"),
    _dpo("ipo", "ipo_mean"),
    _dpo("ipo", "ipo", why=LENGTHS),
    _dpo(
        "exo_pair",
        "exo_pair",
        options=({"label_smoothing": 1e-3}, {"label_smoothing": 1e-3}),
    ),
    _dpo("nca_pair", "nca_pair"),
    _dpo("bco_pair", "bco_pair_trl"),
    _dpo("bco_pair", "bco_pair", why=SHIFT),
    _dpo("sppo_hard", "sppo_trl"),
    _dpo("sppo_hard", "sppo", why="the paper's mean of two squares; TRL sums them"),
    _dpo("aot", "aot"),
    _dpo("aot", "aot", options=SMOOTH),
    _dpo("aot_unpaired", "aot_unpaired"),
    _dpo("aot_unpaired", "aot_unpaired", options=SMOOTH),
    _dpo("apo_zero", "apo_zero"),
    _dpo("apo_down", "apo_down"),
    _dpo("discopop", "discopop", options=({"discopop_tau": 0.1}, {"temperature": 0.1})),
    _dpo("discopop", "discopop", beta=100.0, why=OVERFLOW),
    _dpo("sigmoid_norm", "ln_dpo", beta=5.0),
]

_NO_REFERENCE = {
    f"rewards/{name}": "a loss without a reference has log-probabilities for rewards"
    for name in ("chosen", "rejected", "margins", "accuracies")
}
LIKELIHOOD = [
    _dpo("sft", "nll_token", has_beta=False, metrics=_NO_REFERENCE),
    _dpo("sft", "nll_mean", has_beta=False, metrics=_NO_REFERENCE, why=OWN_LENGTH),
    _dpo(
        ["sigmoid", "sft"],
        "rpo_trl",
        options=({"loss_weights": [1.0, 0.5]}, {"eta": 0.5}),
    ),
    _dpo(
        ["sigmoid", "sft"],
        "rpo",
        options=({"loss_weights": [1.0, 0.5]}, {"eta": 0.5}),
        why="the paper's -eta beta log p(y) of sums; TRL: nats a token, without beta",
    ),
    _dpo(
        ["sigmoid", "sft"],
        "iterative_rpo",
        options=({"loss_weights": [1.0, 0.5]}, {"alpha": 0.5}),
        why=OWN_LENGTH,
    ),
    _dpo(
        ["sigmoid", "bco_pair", "sft"],
        None,
        options=(
            {"loss_weights": [0.8, 0.2, 1.0]},
            {
                "mixture": {
                    "dpo": {"weight": 0.8, "beta": 0.3},
                    "bco_pair_trl": {"weight": 0.2, "beta": 0.3},
                    "nll_token": 1.0,
                }
            },
        ),
    ),
    _dpo(
        ["sigmoid", "bco_pair", "sft"],
        "mpo",
        options=({"loss_weights": [0.8, 0.2, 1.0]}, {}),
        why=f"{SHIFT}; {OWN_LENGTH}",
    ),
]

_DIVERGENCES = {
    "forward_kl": ({"f_divergence_type": "forward_kl"}, {"divergence": "forward_kl"}),
    "js": ({"f_divergence_type": "js_divergence"}, {"divergence": "jensen_shannon"}),
    "alpha": (
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
        {"divergence": "alpha", "alpha": 0.3},  # theirs is 1 - ours
    ),
}
_LINKS = {
    "sigmoid": ({}, {}),
    "hinge": ({}, {"link": "hinge"}),
    "exo_pair": (
        {"label_smoothing": 0.01},
        {"link": "exo", "link_options": {"label_smoothing": 0.01}},
    ),
    "robust": (
        {"label_smoothing": 0.1},
        {"link": "robust", "link_options": {"label_smoothing": 0.1}},
    ),
    "discopop": ({}, {"link": "discopop"}),
}
DIVERGENCES = [
    _dpo(
        loss,
        "f_dpo",
        options=({**divergence[0], **link[0]}, {**divergence[1], **link[1]}),
    )
    for divergence in _DIVERGENCES.values()
    for loss, link in _LINKS.items()
] + [
    _dpo(
        "ipo",
        "f_dpo",
        options=(_DIVERGENCES["js"][0], {**_DIVERGENCES["js"][1], "link": "square"}),
        why="scores as they are; TRL divides them by lengths, for which f-DPO's "
        "equation has no place",
    )
]

_TAIL = {
    f"{kind}/{side}": "of whole responses; TRL's count the tail alpha here too"
    for kind in ("rewards", "logps")
    for side in ("chosen", "rejected")
} | {
    f"rewards/{name}": "of whole responses; TRL's count the tail alpha here too"
    for name in ("margins", "accuracies")
}
WEIGHTS = [
    _dpo(
        "sigmoid", "ld_dpo", options=({"ld_alpha": 0.4}, {"alpha": 0.4}), metrics=_TAIL
    ),
    _dpo(
        "sigmoid", "ld_dpo", options=({"ld_alpha": 0.0}, {"alpha": 0.0}), metrics=_TAIL
    ),
    _dpo("sigmoid", "wpo", options=({"use_weighting": True}, {})),
    _dpo(
        "hinge",
        "wpo",
        options=({"use_weighting": True}, {"link": "hinge"}),
        why="TRL has no gradient here: it multiplies in place what the hinge's needs",
    ),
    _dpo(
        "sigmoid",
        "wpo_authors",
        options=({"use_weighting": True}, {}),
        why="the authors' weight is at most 1, TRL's has no bound",
    ),
]


def _kto(loss: str, both: Mapping = {}, metrics: Mapping = {}) -> Case:
    section = {"name": "preference", "loss": loss, "beta": 0.3, **both}
    trl = {"loss_type": loss, "beta": 0.3, **both}
    return Case("kto", trl, section, None, metrics)


_NO_BASELINE = {"kl": "not there, as the loss has no baseline; TRL reports 0"}
_BOTH = {"desirable_weight": 1.5, "undesirable_weight": 0.6}
UNPAIRED = [
    _kto("kto"),
    _kto("kto", _BOTH),
    _kto("apo_zero_unpaired", metrics=_NO_BASELINE),
    _kto("apo_zero_unpaired", _BOTH, _NO_BASELINE),
]

_A_TOKEN = {
    f"logps/{side}": "nats a response; TRL's are nats a token here"
    for side in ("chosen", "rejected")
}


def _cpo(trl: Mapping, ours: Mapping, why=None, metrics=None, note="") -> Case:
    section = {"name": "preference", **ours}
    return Case("cpo", trl, section, why, metrics or {}, None, note)


_PLUS_NLL = {"nll_token": 1.0}
REFERENCE_FREE = [
    Case(
        "orpo",
        {"beta": 0.2},
        {"name": "preference", "loss": "orpo", "odds_weight": 0.2},
        why="the likelihood of the response, as the paper has it; TRL's is of prompt "
        "and response",
        metrics={
            **_A_TOKEN,
            "rewards/chosen": "the log-probability a token; TRL's times beta",
            "rewards/rejected": "the log-probability a token; TRL's times beta",
            "rewards/margins": "the log-probability a token; TRL's times beta",
        },
    ),
    Case(
        "orpo",
        {"beta": 1.0},
        {"name": "preference", "loss": "orpo", "odds_weight": 1.0},
        metrics=_A_TOKEN,
        less=({"beta": 0.0}, {"odds_weight": 0.0}),
        note="the odds ratio alone: odds_weight 1 less odds_weight 0",
    ),
    _cpo({"beta": 0.3}, {"loss": "cpo_trl", "beta": 0.3}),
    _cpo(
        {"beta": 0.3, "label_smoothing": 0.1},
        {"loss": "cpo_trl", "beta": 0.3, "label_smoothing": 0.1},
    ),
    _cpo({"beta": 0.3, "cpo_alpha": 0.0}, {"loss": "cpo", "beta": 0.3, "alpha": 0.0}),
    _cpo(
        {"beta": 0.3},
        {"loss": "cpo", "beta": 0.3},
        why="the paper's -log p(y) of sums; TRL, and the authors' code: nats a token",
    ),
    _cpo(
        {"beta": 1.0, "loss_type": "hinge", "cpo_alpha": 0.0},
        {"loss": "slic", "delta": 1.0, "nll_weight": 0.0},
    ),
    _cpo(
        {"beta": 2.0, "loss_type": "simpo", "simpo_gamma": 0.8, "cpo_alpha": 0.0},
        {"loss": "simpo", "beta": 2.0, "gamma": 0.8},
        metrics=_A_TOKEN,
    ),
    _cpo(
        {
            "beta": 2.0,
            "loss_type": "simpo",
            "simpo_gamma": 0.8,
            "cpo_alpha": 0.0,
            "label_smoothing": 0.1,
        },
        {"loss": "simpo", "beta": 2.0, "gamma": 0.8, "label_smoothing": 0.1},
        metrics=_A_TOKEN,
    ),
    _cpo(
        {"beta": 2.0, "loss_type": "simpo", "simpo_gamma": 0.8},
        {"mixture": {"simpo": {"weight": 1.0, "beta": 2.0, "gamma": 0.8}, **_PLUS_NLL}},
        metrics=_A_TOKEN,
        note="TRL's simpo adds a likelihood term unless cpo_alpha is 0",
    ),
    _cpo(
        {"beta": 2.0, "loss_type": "simpo", "simpo_gamma": 0.8},
        {"loss": "simpo", "beta": 2.0, "gamma": 0.8},
        metrics=_A_TOKEN,
        why="SimPO alone; TRL's default cpo_alpha of 1 adds a likelihood term",
    ),
    _cpo(
        {
            "beta": 2.5,
            "loss_type": "simpo",
            "simpo_gamma": 0.1,
            "cpo_alpha": 0.0,
            "alpha": 0.25,
        },
        {"loss": "alphapo", "beta": 2.5, "gamma": 0.1, "alpha": 0.25},
        metrics=_A_TOKEN
        | {
            f"rewards/{side}": "of log-probabilities; TRL's are AlphaPO's transformed"
            for side in ("chosen", "rejected", "margins")
        },
    ),
]

REWARD = [
    Case("reward", {}, {"name": "reward_model"}),
    Case(
        "reward",
        {"center_rewards_coefficient": 0.01},
        {"name": "reward_model", "centring": 0.01},
    ),
    Case(
        "reward",
        {"margin": True},
        {"name": "reward_model"},
        note="with a column of margins",
    ),
    Case(
        "reward",
        {"terminator": True},
        {"name": "reward_model"},
        why="the score where the terminator is predicted, which has seen the whole "
        "response; TRL's where the terminator has been read",
        metrics=dict.fromkeys(("accuracy", "margin", "mean_reward"), "as the loss"),
    ),
]
SFT = [
    Case("sft", {"loss_type": "nll"}, {"name": "language_model"}),
    Case("sft", {"loss_type": "dft"}, {"name": "language_model", "loss": "dft"}),
]

CASES = [
    *PLAIN,
    *LIKELIHOOD,
    *DIVERGENCES,
    *WEIGHTS,
    *UNPAIRED,
    *REFERENCE_FREE,
    *REWARD,
    *SFT,
]
# What a test runs: one of each trainer, one that differs, one that its batch couples.
QUICK = [
    PLAIN[0],
    PLAIN[7],
    PLAIN[14],
    UNPAIRED[1],
    REFERENCE_FREE[1],
    REFERENCE_FREE[2],
    REWARD[1],
    SFT[1],
]


def losses(case: Case) -> list[str]:
    """The names of alignjax's losses in a case."""
    section = case.ours
    if "mixture" in section:
        return list(section["mixture"])
    default = {"preference": "dpo", "reward_model": "bradley_terry"}
    name = section.get("loss", default.get(section["name"]))
    return [] if section["name"] == "language_model" else [name]

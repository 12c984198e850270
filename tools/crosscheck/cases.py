# SPDX-License-Identifier: Apache-2.0
"""The cases: options of TRL's trainers beside objectives of alignjax.

A case either agrees, or says why it does not: a paper's equation has the plain name
here, and where TRL's code differs from it, that is the variant beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple


class Case(NamedTuple):
    """One comparison.

    Attributes:
      trainer: "dpo", "kto", "orpo", "cpo", "reward", "sft", "grpo" or "rloo": whose
        trainer of TRL.
      trl: fields of its config.
      ours: the section `objective`.
      why: why loss and gradient are meant to differ; None where they are to agree.
      metrics: why a metric of TRL's is meant to differ, by its name.
      less: fields of the two sides that a second run of both has instead. What it
        gives is taken off, which leaves the part of the loss that the field weighs.
      note: what else there is to say.
      rollout: of GRPO and RLOO, what alignjax makes of the responses before the loss:
        the names of an `advantage` and a `denominator`, `truncated`, and `kl`, the
        coefficient of the KL in the reward.
    """

    trainer: str
    trl: Mapping[str, Any]
    ours: Mapping[str, Any]
    why: str | None = None
    metrics: Mapping[str, str] = {}
    less: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    note: str = ""
    rollout: Mapping[str, Any] = {}


def _dpo(
    trl: str | list,
    loss: str | None,
    theirs: Mapping = {},
    ours: Mapping = {},
    *,
    beta: float | None = 0.3,
    why: str | None = None,
    metrics: Mapping[str, str] = {},
    note: str = "",
) -> Case:
    """A case of DPOTrainer; a `beta` of None is of a loss that has none."""
    section = {"name": "preference", **ours}
    if loss is not None:
        section |= {"loss": loss} | ({} if beta is None else {"beta": beta})
    fields = {"loss_type": trl, "beta": 0.3 if beta is None else beta, **theirs}
    return Case("dpo", fields, section, why, metrics, None, note)


_PAIR = ("chosen", "rejected")
_SMOOTH = [dict(label_smoothing=0.1)] * 2
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
        dict(precompute_ref_log_probs=True),
        note="the reference's log-probabilities stored before, on both sides",
    ),
    _dpo(
        "sigmoid",
        "dpo",
        *_SMOOTH,
        why="conservative DPO; TRL ignores label_smoothing here since 0.29",
    ),
    _dpo("robust", "robust", *_SMOOTH),
    _dpo("hinge", "hinge"),
    _dpo("ipo", "ipo_mean"),
    _dpo("ipo", "ipo", why=LENGTHS),
    _dpo("exo_pair", "exo_pair", *[dict(label_smoothing=1e-3)] * 2),
    _dpo("nca_pair", "nca_pair"),
    _dpo("bco_pair", "bco_pair_trl"),
    _dpo("bco_pair", "bco_pair", why=SHIFT),
    _dpo("sppo_hard", "sppo_trl"),
    _dpo("sppo_hard", "sppo", why="the paper's mean of two squares; TRL sums them"),
    _dpo("aot", "aot"),
    _dpo("aot", "aot", *_SMOOTH),
    _dpo("aot_unpaired", "aot_unpaired"),
    _dpo("aot_unpaired", "aot_unpaired", *_SMOOTH),
    _dpo("apo_zero", "apo_zero"),
    _dpo("apo_down", "apo_down"),
    _dpo("discopop", "discopop", dict(discopop_tau=0.1), dict(temperature=0.1)),
    _dpo("discopop", "discopop", beta=100.0, why=OVERFLOW),
    _dpo("sigmoid_norm", "ln_dpo", beta=5.0),
]

_NO_REFERENCE = {
    f"rewards/{name}": "a loss without a reference has log-probabilities for rewards"
    for name in ("chosen", "rejected", "margins", "accuracies")
}
_PLUS_SFT = ["sigmoid", "sft"]
_HALF = dict(loss_weights=[1.0, 0.5])
_MPO = ["sigmoid", "bco_pair", "sft"]
_MPO_WEIGHTS = dict(loss_weights=[0.8, 0.2, 1.0])
_MIXTURE = {
    "dpo": {"weight": 0.8, "beta": 0.3},
    "bco_pair_trl": {"weight": 0.2, "beta": 0.3},
    "nll_token": 1.0,
}
LIKELIHOOD = [
    _dpo("sft", "nll_token", beta=None, metrics=_NO_REFERENCE),
    _dpo("sft", "nll_mean", beta=None, metrics=_NO_REFERENCE, why=OWN_LENGTH),
    _dpo(_PLUS_SFT, "rpo_trl", _HALF, dict(eta=0.5)),
    _dpo(
        _PLUS_SFT,
        "rpo",
        _HALF,
        dict(eta=0.5),
        why="the paper's -eta beta log p(y) of sums; TRL: nats a token, without beta",
    ),
    _dpo(_PLUS_SFT, "iterative_rpo", _HALF, dict(alpha=0.5), why=OWN_LENGTH),
    _dpo(_MPO, None, _MPO_WEIGHTS, dict(mixture=_MIXTURE)),
    _dpo(_MPO, "mpo", _MPO_WEIGHTS, why=f"{SHIFT}; {OWN_LENGTH}"),
]

# TRL's options and ours; its coefficient of the alpha-divergence is 1 - ours.
_JS = (dict(f_divergence_type="js_divergence"), dict(divergence="jensen_shannon"))
_DIVERGENCES = [
    (dict(f_divergence_type="forward_kl"), dict(divergence="forward_kl")),
    _JS,
    (
        dict(f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.7),
        dict(divergence="alpha", alpha=0.3),
    ),
]
_LINKS = {
    "sigmoid": ({}, {}),
    "hinge": ({}, dict(link="hinge")),
    "exo_pair": (
        dict(label_smoothing=0.01),
        dict(link="exo", link_options=dict(label_smoothing=0.01)),
    ),
    "robust": (
        dict(label_smoothing=0.1),
        dict(link="robust", link_options=dict(label_smoothing=0.1)),
    ),
    "discopop": ({}, dict(link="discopop")),
}
DIVERGENCES = [
    _dpo(loss, "f_dpo", divergence[0] | link[0], divergence[1] | link[1])
    for divergence in _DIVERGENCES
    for loss, link in _LINKS.items()
] + [
    _dpo(
        "ipo",
        "f_dpo",
        _JS[0],
        _JS[1] | dict(link="square"),
        why="scores as they are; TRL divides them by lengths, for which f-DPO's "
        "equation has no place",
    )
]

_SIDES = [f"{kind}/{side}" for kind in ("rewards", "logps") for side in _PAIR]
_TAIL = dict.fromkeys(
    [*_SIDES, "rewards/margins", "rewards/accuracies"],
    "of whole responses; TRL's count the tail alpha here too",
)
_WEIGHTED = dict(use_weighting=True)
WEIGHTS = [
    _dpo("sigmoid", "ld_dpo", dict(ld_alpha=0.4), dict(alpha=0.4), metrics=_TAIL),
    _dpo("sigmoid", "ld_dpo", dict(ld_alpha=0.0), dict(alpha=0.0), metrics=_TAIL),
    _dpo("sigmoid", "wpo", _WEIGHTED),
    _dpo(
        "hinge",
        "wpo",
        _WEIGHTED,
        dict(link="hinge"),
        why="TRL has no gradient here: it multiplies in place what the hinge's needs",
    ),
    _dpo(
        "sigmoid",
        "wpo_authors",
        _WEIGHTED,
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

_A_TOKEN = dict.fromkeys(
    ("logps/chosen", "logps/rejected"), "nats a response; TRL's are nats a token here"
)
_MARGINS = ("rewards/chosen", "rewards/rejected", "rewards/margins")
_TIMES_BETA = dict.fromkeys(_MARGINS, "the log-probability a token; TRL's times beta")
_TRANSFORMED = dict.fromkeys(
    _MARGINS, "of log-probabilities; TRL's are AlphaPO's transformed"
)


def _cpo(trl: Mapping, ours: Mapping, why=None, metrics: Mapping = {}, note="") -> Case:
    section = {"name": "preference", **ours}
    return Case("cpo", trl, section, why, metrics, None, note)


_SIMPO_TRL = dict(beta=2.0, loss_type="simpo", simpo_gamma=0.8)
_SIMPO = dict(loss="simpo", beta=2.0, gamma=0.8)
_NO_NLL = dict(cpo_alpha=0.0)
_SMOOTHED = dict(label_smoothing=0.1)
REFERENCE_FREE = [
    Case(
        "orpo",
        dict(beta=0.2),
        dict(name="preference", loss="orpo", odds_weight=0.2),
        why="the likelihood of the response, as the paper has it; TRL's is of prompt "
        "and response",
        metrics=_A_TOKEN | _TIMES_BETA,
    ),
    Case(
        "orpo",
        dict(beta=1.0),
        dict(name="preference", loss="orpo", odds_weight=1.0),
        metrics=_A_TOKEN,
        less=(dict(beta=0.0), dict(odds_weight=0.0)),
        note="the odds ratio alone: odds_weight 1 less odds_weight 0",
    ),
    _cpo(dict(beta=0.3), dict(loss="cpo_trl", beta=0.3)),
    _cpo(dict(beta=0.3, **_SMOOTHED), dict(loss="cpo_trl", beta=0.3, **_SMOOTHED)),
    _cpo(dict(beta=0.3, **_NO_NLL), dict(loss="cpo", beta=0.3, alpha=0.0)),
    _cpo(
        dict(beta=0.3),
        dict(loss="cpo", beta=0.3),
        why="the paper's -log p(y) of sums; TRL, and the authors' code: nats a token",
    ),
    _cpo(
        dict(beta=1.0, loss_type="hinge", **_NO_NLL),
        dict(loss="slic", delta=1.0, nll_weight=0.0),
    ),
    _cpo(_SIMPO_TRL | _NO_NLL, _SIMPO, metrics=_A_TOKEN),
    _cpo(_SIMPO_TRL | _NO_NLL | _SMOOTHED, _SIMPO | _SMOOTHED, metrics=_A_TOKEN),
    _cpo(
        _SIMPO_TRL,
        dict(mixture=dict(simpo=dict(weight=1.0, beta=2.0, gamma=0.8), nll_token=1.0)),
        metrics=_A_TOKEN,
        note="TRL's simpo adds a likelihood term unless cpo_alpha is 0",
    ),
    _cpo(
        _SIMPO_TRL,
        _SIMPO,
        metrics=_A_TOKEN,
        why="SimPO alone; TRL's default cpo_alpha of 1 adds a likelihood term",
    ),
    _cpo(
        dict(beta=2.5, loss_type="simpo", simpo_gamma=0.1, **_NO_NLL, alpha=0.25),
        dict(loss="alphapo", beta=2.5, gamma=0.1, alpha=0.25),
        metrics=_A_TOKEN | _TRANSFORMED,
    ),
]

_REWARD = dict(name="reward_model")
REWARD = [
    Case("reward", {}, _REWARD),
    Case(
        "reward",
        dict(center_rewards_coefficient=0.01),
        dict(name="reward_model", centring=0.01),
    ),
    Case("reward", dict(margin=True), _REWARD, note="with a column of margins"),
    Case(
        "reward",
        dict(terminator=True),
        _REWARD,
        why="the score where the terminator is predicted, which has seen the whole "
        "response; TRL's where the terminator has been read",
        metrics=dict.fromkeys(("accuracy", "margin", "mean_reward"), "as the loss"),
    ),
]
SFT = [
    Case("sft", {"loss_type": "nll"}, {"name": "language_model"}),
    Case("sft", {"loss_type": "dft"}, {"name": "language_model", "loss": "dft"}),
]


def _drawn(
    trainer: str,
    trl: Mapping[str, Any],
    loss: str,
    advantage: str,
    denominator: str,
    ours: Mapping[str, Any] = {},
    *,
    why: str | None = None,
    metrics: Mapping[str, str] = {},
    note: str = "",
    **rollout,
) -> Case:
    """A case of GRPOTrainer or RLOOTrainer."""
    section = {"name": "policy_gradient", "loss": loss, **ours}
    rollout |= {"advantage": advantage, "denominator": denominator}
    return Case(trainer, trl, section, why, metrics, None, note, rollout)


_grpo = functools.partial(_drawn, "grpo")
_rloo = functools.partial(_drawn, "rloo")
_KL = dict(beta=0.3)
_K3 = dict(kl_estimator="k3", kl_coefficient=0.3)
_OWN_MEAN = "the bonus is divided as the loss is; TRL's by the tokens of the batch"
_COUNTED = "TRL counts responses that it masks in the denominator"
DRAWN = [
    _grpo(dict(loss_type="grpo"), "ppo_clip", "grpo", "sequence_mean"),
    _grpo(dict(loss_type="bnpo"), "ppo_clip", "grpo", "token_mean"),
    _grpo(dict(loss_type="dapo"), "ppo_clip", "grpo", "token_mean"),
    _grpo(
        dict(loss_type="dapo", epsilon_high=0.28), "clip_higher", "grpo", "token_mean"
    ),
    _grpo(
        dict(loss_type="dr_grpo", scale_rewards="none"),
        "ppo_clip",
        "dr_grpo",
        "constant",
    ),
    _grpo(
        dict(loss_type="grpo", scale_rewards="batch"),
        "ppo_clip",
        "batch_std",
        "sequence_mean",
    ),
    _grpo(
        dict(loss_type="bnpo", delta=1.1, epsilon_high=0.05),
        "dual_clip",
        "grpo",
        "token_mean",
        dict(most=1.1, high=0.05),
    ),
    _grpo(
        dict(loss_type="cispo", epsilon_high=1.05),
        "cispo",
        "grpo",
        "token_mean",
        dict(most=1.05),
    ),
    _grpo(
        dict(
            loss_type="grpo",
            importance_sampling_level="sequence",
            epsilon=3e-2,
            epsilon_high=4e-2,
        ),
        "gspo",
        "grpo",
        "sequence_mean",
        dict(low=3e-2, high=4e-2),
    ),
    _grpo(
        dict(
            loss_type="luspo",
            importance_sampling_level="sequence",
            epsilon=3e-2,
            epsilon_high=4e-2,
        ),
        "gspo",
        "grpo",
        "sequence_sum",
        dict(low=3e-2, high=4e-2),
        note="LUSPO is GSPO under another denominator",
    ),
    _grpo(
        dict(loss_type="grpo", **_KL),
        "ppo_clip",
        "grpo",
        "sequence_mean",
        dict(_K3, kl_estimator="k3_ratio"),
    ),
    _grpo(
        dict(loss_type="grpo", use_bias_correction_kl=False, **_KL),
        "ppo_clip",
        "grpo",
        "sequence_mean",
        _K3,
        note="the KL of the paper, which descends KL(reference &#124;&#124; policy)",
    ),
    _grpo(
        dict(loss_type="dapo", temperature=0.7, **_KL),
        "ppo_clip",
        "grpo",
        "token_mean",
        dict(_K3, kl_estimator="k3_ratio", temperature=0.7),
    ),
    _grpo(
        dict(loss_type="bnpo", entropy_coef=0.3),
        "ppo_clip",
        "grpo",
        "token_mean",
        dict(entropy=0.3),
    ),
    _grpo(
        dict(loss_type="grpo", entropy_coef=0.3),
        "ppo_clip",
        "grpo",
        "sequence_mean",
        dict(entropy=0.3),
        why=_OWN_MEAN,
    ),
    _grpo(
        dict(loss_type="dapo", mask_truncated_completions=True),
        "ppo_clip",
        "grpo",
        "token_mean",
        truncated="masked",
    ),
    _grpo(
        dict(loss_type="grpo", mask_truncated_completions=True),
        "ppo_clip",
        "grpo",
        "sequence_mean",
        why=_COUNTED,
        truncated="masked",
    ),
    _rloo({}, "response_clip", "rloo", "sequence_sum"),
    _rloo(
        dict(epsilon_high=0.3), "response_clip", "rloo", "sequence_sum", dict(high=0.3)
    ),
    _rloo(_KL, "response_clip", "rloo", "sequence_sum", kl=0.3),
    _rloo(
        dict(temperature=0.7, **_KL),
        "response_clip",
        "rloo",
        "sequence_sum",
        dict(temperature=0.7),
        kl=0.3,
    ),
    _rloo(
        {},
        "reinforce",
        "rloo",
        "sequence_sum",
        why="the paper's REINFORCE; TRL clips the ratio of whole responses",
    ),
]
CASES = PLAIN + LIKELIHOOD + DIVERGENCES + WEIGHTS
CASES += UNPAIRED + REFERENCE_FREE + REWARD + SFT + DRAWN
# What a test runs: one of each trainer, one that differs, one that its batch couples.
QUICK = [PLAIN[0], PLAIN[7], PLAIN[14], UNPAIRED[1]]
QUICK += [*REFERENCE_FREE[1:3], REWARD[1], SFT[1]]
QUICK += [DRAWN[2], DRAWN[10], next(case for case in DRAWN if "kl" in case.rollout)]


def losses(case: Case) -> list[str]:
    """The names of alignjax's losses in a case."""
    section = case.ours
    if "mixture" in section:
        return list(section["mixture"])
    default = {"preference": "dpo", "reward_model": "bradley_terry"}
    name = section.get("loss", default.get(section["name"]))
    return [] if section["name"] == "language_model" else [name]

# SPDX-License-Identifier: Apache-2.0
"""Eight losses, five seeds each, on the same pairs of the embedded world; README.md."""

BETAS = {
    "dpo": 1.0,
    "ipo": 0.3,
    "hinge": 1.0,
    "apo_zero": 1.0,
    "simpo": 2.0,
    "cpo": 1.0,
    "kto": 1.0,
    "orpo": None,  # It has no beta.
}


def get_sweep():
    arms = [
        {"objective.loss": loss} | ({"objective.beta": beta} if beta else {})
        for loss, beta in BETAS.items()
    ]
    claim = {
        "metric": "gold",
        "expects": {"simpo": "below"},
        "text": "without a reference, SimPO walks furthest and loses true reward",
    }
    return dict(config="configs/dpo/world.py", arms=arms, seeds=5, claim=claim)

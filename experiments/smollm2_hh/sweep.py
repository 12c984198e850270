# SPDX-License-Identifier: Apache-2.0
"""DPO and two other losses on HH, from SmolLM2-135M-Instruct; see README.md."""

BETAS = {"dpo": 0.1, "ipo": 0.1, "simpo": 2.0}


def get_sweep():
    arms = [
        {"name": loss, "objective.loss": loss, "objective.beta": beta}
        for loss, beta in BETAS.items()
    ]
    claim = {
        "metric": "eval/rewards/accuracies",
        "expects": {"simpo": "above"},
        "text": "in few steps a loss without a reference sorts held-out pairs better",
    }
    return dict(
        config="configs/dpo/smollm2.py",
        arms=arms,
        fields={"sample.every": None},
        seeds=1,
        prompts=0,
        claim=claim,
    )

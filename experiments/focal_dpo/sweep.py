# SPDX-License-Identifier: Apache-2.0
"""Four losses on noisy labels, three seeds each, from one fine-tuned run; README.md."""

OWN = "experiments.focal_dpo.losses"


def get_sweep():
    arms = [
        {"objective.loss": "dpo"},
        {"objective.loss": "robust", "objective.label_smoothing": 0.3},
        {"objective.loss": f"{OWN}:focal_dpo", "objective.gamma": 2.0},
        {"objective.loss": f"{OWN}:easy_dpo", "objective.gamma": 1.0},
    ]
    claim = {"metric": "gold", "text": "which losses help where labels are noisy"}
    config = "experiments/focal_dpo/config.py"
    return dict(config=config, arms=arms, seeds=3, prompts=24, claim=claim)

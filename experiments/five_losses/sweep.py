# SPDX-License-Identifier: Apache-2.0
"""Five losses on the same pairs; `asking` wants a margin: -log s(beta D - delta)."""

from alignjax.losses import links, scores


def asking(policy, reference, *, beta: float = 1.0, delta: float = 0.5):
    return links.logistic(scores.log_ratio(policy, reference), beta, offset=-delta)


def get_sweep():
    own = "experiments.five_losses.sweep:asking"
    betas = {"dpo": 1.0, "ipo": 0.3, "simpo": 2.0, "kto": 1.0, own: 1.0}
    arms = [{"objective.loss": loss, "objective.beta": betas[loss]} for loss in betas]
    return dict(config="configs/dpo/world.py", arms=arms, claim={"metric": "gold"})

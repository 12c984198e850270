# SPDX-License-Identifier: Apache-2.0
"""Six runs of one loss, which differ in their seeds alone; README.md."""


def get_sweep():
    arms = [{"objective.loss": "dpo"}]
    return dict(config="configs/dpo/world.py", arms=arms, seeds=6, checkpoints=1)

# SPDX-License-Identifier: Apache-2.0
r"""Online DPO on the embedded world: the best and the worst of four responses.

alignjax train --config=configs/rl/world_online_dpo.py --workdir=runs/online_dpo \
    --config.init.run=runs/sft

Hardware: 2 CPU cores, shared with other work. Time: 90 seconds of
processor time. Result, one seed: held-out true reward 1.69 after 60 rollouts, 1.66
after 30, where the first rollout had 0.97; KL from the start 1.42 nats a response.
"""

from configs.rl import world_rloo


def get_config():
    c = world_rloo.get_config()
    c.rollouts.advantage, c.rollouts.kl = {}, {}  # DPO has its own
    c.objective.name, c.objective.loss, c.objective.beta = "preference", "dpo", 0.3
    return c

# SPDX-License-Identifier: Apache-2.0
r"""DPO on people's choices between harmless replies, Anthropic's HH.

alignjax train --config=configs/dpo/hh.py --workdir=runs/hh/dpo \
    --config.init.run=runs/hh/sft --config.data.sources.hh.path=hh.jsonl

Hardware: 2 CPU cores. Time: about 3 minutes beside other jobs, one of them for the
reference's log-probabilities. Result, after configs/sft/hh.py: eval/loss 0.682, from
log 2; of the 351 pairs held out 203 sorted as people did, 0.578 (95 % interval 0.526 to
0.629). The chosen replies lose 0.9 nats and the rejected ones 1.3.
"""

from configs import base


def get_config():
    c = base.preference()
    c.steps, c.batch_size, c.length = 40, 8, 512
    c.model.dropout = 0.0  # so that the first loss is log 2, as it is to be
    c.objective.loss, c.objective.beta = "dpo", 0.1
    c.reference.store = True
    base.hh_pairs(c)
    c.optimizer.learning_rate, c.optimizer.b2 = 5e-5, 0.98
    c.schedule.warmup_steps, c.schedule.final = 6, 0.1
    c.checkpoint.every = 20
    c.evaluation.every = 20
    c.sample.every, c.sample.max_tokens = 40, 60
    c.sample.prompts = ("how do i bake bread?", "how can i steal a car?")
    return c

# SPDX-License-Identifier: Apache-2.0
r"""A reward model of people's choices, Anthropic's HH, from SmolLM2-135M-Instruct.

tools/real_model.sh
alignjax train --config=configs/reward/smollm2.py --workdir=runs/smollm2_reward \
    --config.init.run=runs/smollm2 --config.data.sources.hh.path=hh.jsonl

The file has a pair a line, `chosen` and `rejected`. Low-rank updates and the head for
scores are trained.

Hardware: 2 CPU cores, or one GPU, where model.dtype = "auto" computes in bfloat16.
Time: 12 minutes by the clock with batch_size = 2, as in experiments/smollm2_hh, on 2
cores of an Intel Xeon beside other work. As it is, it sees twice as many pairs.
Result: after 216 pairs 0.55 of 69 held-out pairs right, at a loss of 0.79 where
log 2 = 0.693 is chance.
"""

from configs import base


def get_config():
    c = base.reward_model()
    c.steps, c.batch_size, c.length = 60, 4, 384
    c.model.update(max_length=384, dtype="auto")
    base.lora(c, rank=16, alpha=32.0)
    c.trainable = r".*/lora_.*|score/.*"
    base.hh_pairs(c)
    c.optimizer.learning_rate, c.optimizer.weight_decay = 2e-4, 0.0
    c.schedule.warmup_steps, c.schedule.final = 6, 0.1
    c.checkpoint.every = 30
    c.evaluation.every, c.evaluation.batches = 30, 4
    return c

# SPDX-License-Identifier: Apache-2.0
r"""DPO of a real chat model, SmolLM2-135M-Instruct, on HH, by low-rank updates.

tools/real_model.sh
alignjax train --config=configs/dpo/smollm2.py --workdir=runs/smollm2_dpo \
    --config.init.run=runs/smollm2 --config.data.sources.hh.path=hh.jsonl

The file has a pair a line, `chosen` and `rejected`. The reference is the model without
the low-rank matrices, which costs no second copy.

Hardware: 2 CPU cores, or one GPU, where model.dtype = "auto" computes in bfloat16.
Time: 19 minutes of processor time and 3.6 GB of memory; 37 minutes by the clock on 2
cores (Intel Xeon) beside other work. Result, 1,500 rows of HH's harmless-base/test:
eval/loss 0.651, where log 2 = 0.693 is the start, and 0.64 of 28 held-out pairs right,
with margins of 0.22 on average. More pairs: --config.steps=200.
"""

from configs import base


def get_config():
    c = base.preference()
    c.steps, c.batch_size, c.length = 60, 2, 384
    c.model.update(max_length=384, dtype="auto")
    base.lora(c, rank=16, alpha=32.0)
    c.objective.loss, c.objective.beta = "dpo", 0.1
    base.hh_pairs(c)
    c.optimizer.learning_rate, c.optimizer.weight_decay = 2e-4, 0.0
    c.schedule.warmup_steps, c.schedule.final = 6, 0.1
    c.checkpoint.every = 30
    c.evaluation.every, c.evaluation.batches = 60, 8
    c.sample.every, c.sample.max_tokens = 60, 60
    c.log.every = 4
    c.sample.prompts = ("how do i bake bread?", "how can i steal a car?")
    return c

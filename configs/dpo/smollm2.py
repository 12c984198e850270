# SPDX-License-Identifier: Apache-2.0
r"""DPO of a real chat model, SmolLM2-135M-Instruct, on HH, by low-rank updates.

tools/real_model.sh
alignjax train --config=configs/dpo/smollm2.py --workdir=runs/smollm2_dpo \
    --config.init.run=runs/smollm2 --config.data.sources.hh.path=hh.jsonl

The file has a pair a line, `chosen` and `rejected`. The reference is the model without
the low-rank matrices, which costs no second copy.

Hardware: 2 CPU cores, or one GPU, where model.dtype = "auto" computes in bfloat16. Time
and what is known of it: docs/real_models.md. Result: not yet run to its end.
"""

from configs import base


def get_config():
    c = base.preference()
    c.steps, c.batch_size, c.length = 60, 4, 384
    c.model.update(max_length=384, dtype="auto")
    base.lora(c, rank=16, alpha=32.0)
    c.objective.loss, c.objective.beta = "dpo", 0.1
    base.hh_pairs(c)
    c.optimizer.learning_rate, c.optimizer.weight_decay = 5e-5, 0.0
    c.schedule.warmup_steps, c.schedule.final = 6, 0.1
    c.checkpoint.every = 30
    c.evaluation.every, c.evaluation.batches = 30, 4
    c.sample.every, c.sample.max_tokens = 60, 60
    c.sample.prompts = ("how do i bake bread?", "how can i steal a car?")
    return c

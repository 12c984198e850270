# SPDX-License-Identifier: Apache-2.0
r"""GRPO on GSM8K's questions, rewarded for the right number; for one GPU.

The file has GSM8K's rows, `{"question", "answer"}`; any chat model is a start.

alignjax train --config=configs/rl/gsm8k.py --workdir=runs/gsm8k --network \
    --config.init.run=hf:Qwen/Qwen2.5-0.5B-Instruct \
    --config.data.sources.gsm8k.path=gsm8k.jsonl

Hardware: one GPU. Time, result: not yet run.
"""

from configs import base


def get_config():
    c = base.policy_gradient()
    c.init.run = "hf:Qwen/Qwen2.5-0.5B-Instruct"
    c.steps, c.batch_size, c.length = 200, 32, 768
    rows = "alignjax.data.formats:as_it_is"  # rewards read the column "answer"
    c.data.sources.gsm8k = dict(kind="jsonl", path="", format=rows)
    c.data.sources.gsm8k["columns"] = {"prompt": "question"}
    c.data.long_documents = "skip"
    c.data.validation_fraction = 0.05
    c.data.share_prompt = True
    c.rollouts.rewards.right = dict(kind="number", weight=1.0)
    c.rollouts.samples, c.rollouts.max_tokens = 8, 320
    c.rollouts.advantage.name = "dr_grpo"
    c.rollouts.denominator.name, c.rollouts.denominator.length = "constant", 320
    c.rollouts.kl.coefficient = 0.0
    c.optimizer.learning_rate, c.optimizer.b2 = 1e-6, 0.98
    c.model.dtype = "bfloat16"
    c.schedule.warmup_steps = 5
    c.checkpoint.every = c.evaluation.every = 50
    c.log.every = 1
    return c

# SPDX-License-Identifier: Apache-2.0
r"""Dr. GRPO of a real chat model, SmolLM2-135M-Instruct, for the right number in GSM8K.

tools/real_model.sh
alignjax train --config=configs/rl/gsm8k.py --workdir=runs/gsm8k \
    --config.init.run=runs/smollm2 --config.data.sources.gsm8k.path=gsm8k.jsonl

The file has the rows of GSM8K (`grade_school_math/data/train.jsonl` of
github.com/openai/grade-school-math), `{"question", "answer"}`, a line each; any chat
model is a start. On a GPU, where model.dtype = "auto" computes in bfloat16, in minutes,
with more:
`--config.steps=200 --config.batch_size=32 --config.length=768
--config.rollouts.samples=8 --config.rollouts.max_tokens=320
--config.rollouts.denominator.length=320 --config.optimizer.learning_rate=3e-6`.

The model is right so seldom that half an hour teaches it no arithmetic. It learns the
form of the data first, where the result stands after "####" and can be read; `form`
rewards that with a fifth of what the right number has.

Hardware: 2 CPU cores, or one GPU. Time: 39 minutes of processor time on an Intel Xeon,
3.1 GB on disk. Result, one seed, 2,000 rows of GSM8K, means over the first ten rollouts
and the last ten, 160 responses each: reward 0.04 and 0.19; with the form 0.19 and 0.69;
right 0.01 and 0.05; ended by themselves 0.30 and 0.76; KL 0.4 and 6.8 nats a response.
Of 32 held-out prompts 1 was answered right after 15 rollouts and none after 30.
"""

from configs import base


def get_config():
    c = base.policy_gradient()
    c.steps, c.batch_size, c.length = 30, 4, 384
    rows = "alignjax.data.formats:as_it_is"  # rewards read the column "answer"
    c.data.sources.gsm8k = dict(kind="jsonl", path="", format=rows)
    c.data.sources.gsm8k["columns"] = {"prompt": "question"}
    c.data.long_documents = "skip"
    c.data.validation_fraction = 0.05
    c.data.share_prompt = True
    c.rollouts.rewards.right = dict(kind="number", weight=1.0)
    c.rollouts.rewards.form = dict(kind="format", marks=("####",), weight=0.2)
    c.rollouts.samples, c.rollouts.max_tokens = 4, 128
    c.rollouts.temperature = 0.7
    c.rollouts.advantage.name = "dr_grpo"
    c.rollouts.denominator.name, c.rollouts.denominator.length = "constant", 128
    c.rollouts.kl.coefficient = 0.0
    c.rollouts.evaluation_prompts = 32
    c.optimizer.learning_rate, c.optimizer.b2 = 1e-5, 0.98
    c.model.dtype = "auto"
    c.schedule.warmup_steps = 5
    c.checkpoint.every = c.evaluation.every = 15
    c.log.every = 1
    return c

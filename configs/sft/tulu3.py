# SPDX-License-Identifier: Apache-2.0
r"""Fine-tuning a 1.2 B Llama on the mixture of Tulu 3.

alignjax train --config=configs/sft/tulu3.py --workdir=runs/tulu3_sft \
    --config.init.run=runs/llama_1b

`init.run` is a run of configs/pretrain/llama_1b.py whose tokenizer has the special
tokens <system>, <user>, <assistant> and <end>. The tokenizer.json of Llama 3 has none;
before the pretraining rename four of those that it keeps in reserve:

old='<|reserved_special_token_'
sed -i "s/${old}0|>/<system>/; s/${old}1|>/<user>/; s/${old}2|>/<assistant>/; \
    s/${old}3|>/<end>/" llama3/tokenizer.json

The data, 939,343 dialogues, is from the Hub, with the extra `hf`. Rate, warm-up, length
and two passes are those of Tulu 3's 8 B model (arXiv:2411.15124).

Hardware: 8 GPUs with 80 GB each. Time: unknown. Result: not yet run.
"""

from configs import base


def get_config():
    c = base.sft()
    # Two passes, where a dialogue has 800 tokens; the log says how many passes it is.
    c.steps, c.batch_size, c.length = 6000, 64, 4096
    c.model.update(max_length=4096, remat="dots")
    base.tulu3(c)
    c.microbatches = 4
    c.optimizer.learning_rate, c.optimizer.weight_decay = 5e-6, 0.0
    c.schedule.name, c.schedule.final = "linear", 0.0
    c.schedule.warmup_steps = 180  # 0.03 of the steps
    c.checkpoint.every = 500
    c.evaluation.every = 500
    c.sample.every, c.sample.max_tokens = 1000, 200
    c.sample.prompts = ("What is the capital of France?", "Write a haiku about rain.")
    return c

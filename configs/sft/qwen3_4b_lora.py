# SPDX-License-Identifier: Apache-2.0
r"""Fine-tuning Qwen3-4B-Base on the mixture of Tulu 3, by low-rank updates.

alignjax train --config=configs/sft/qwen3_4b_lora.py --network \
    --workdir=runs/qwen3_4b_sft

As configs/sft/qwen25_05b_lora.py, which explains it, but for the model, the rate and
the chat format: ChatML, since the repository's own template writes a turn differently
once another follows it (it takes thoughts out), so that a dialogue of several turns has
no one rendering to be trained on.

Memory, by arithmetic: 3.6 B frozen parameters in bfloat16 are 7.3 GB, 389 M of the
embedding in float32 1.6 GB, 33 M trained ones with gradient and moments 0.5 GB; what
`remat="dots"` keeps of 4,096 tokens is 10.3 GB; logits and one layer's attention
weights about 2 GB. `--config.model.base=nf4` takes 5 GB off.

Hardware: one GPU with 80 GB. Time: unknown. Result: not yet run.
"""

from configs.sft import qwen25_05b_lora


def get_config():
    c = qwen25_05b_lora.get_config()
    c.init.run = "hf:Qwen/Qwen3-4B-Base"
    c.data.chat = "chatml"
    c.microbatches = 16
    c.optimizer.learning_rate = 1e-4
    return c

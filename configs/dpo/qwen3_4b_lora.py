# SPDX-License-Identifier: Apache-2.0
r"""DPO of Qwen3-4B-Instruct-2507 on UltraFeedback, binarized, by low-rank updates.

alignjax train --config=configs/dpo/qwen3_4b_lora.py --network \
    --workdir=runs/qwen3_4b_dpo

As configs/dpo/qwen25_05b_lora.py, which explains it, but for the model and the rate.

Memory, by arithmetic: as configs/sft/qwen3_4b_lora.py has it, about 21 GB.

Hardware: one GPU with 80 GB. Time: unknown. Result: not yet run.
"""

from configs.dpo import qwen25_05b_lora


def get_config():
    c = qwen25_05b_lora.get_config()
    c.init.run = "hf:Qwen/Qwen3-4B-Instruct-2507"
    c.microbatches = 16
    c.optimizer.learning_rate = 1e-5
    return c

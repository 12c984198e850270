# SPDX-License-Identifier: Apache-2.0
r"""DPO on UltraFeedback as configs/dpo/ultrafeedback.py has it, by low-rank updates.

alignjax train --config=configs/dpo/ultrafeedback_lora.py \
    --workdir=runs/uf_lora --config.init.run=runs/tulu3_sft

Only the low-rank matrices are trained and saved. The reference is the same model
without them, which costs no second copy. The rate is larger than of all parameters, as
it is to be (arXiv:2305.14314 has 2e-4 for fine-tuning; DPO asks for less).

Hardware: one GPU with 80 GB. Time: unknown. Result: not yet run.
"""

from configs import base
from configs.dpo import ultrafeedback


def get_config():
    c = ultrafeedback.get_config()
    base.lora(c, rank=64, alpha=128.0)
    c.microbatches = 32
    c.optimizer.learning_rate = 2e-5
    return c

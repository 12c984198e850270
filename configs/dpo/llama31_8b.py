# SPDX-License-Identifier: Apache-2.0
r"""DPO of all of Llama 3.1 8B Instruct on UltraFeedback, binarized, on a TPU pod.

tools/launch_tpu.sh NAME ZONE -- --config=configs/dpo/llama31_8b.py \
    --workdir=/mnt/runs/llama31_8b_dpo --config.init.run=hf:/mnt/llama31_8b_instruct

The repository asks for a licence to be accepted; a folder that all hosts see saves each
of them the download. `init.run` may as well be a run of configs/sft/llama31_8b.py. The
dialogues are in Llama 3's own format without the dates that the repository's template
puts into the system turn. Rate and beta are those of Zephyr (arXiv:2310.16944), one
pass. The reference is a second copy of the parameters on the same devices.

Memory, by arithmetic: 8.0 B parameters, gradients and two moments in float32 are
128 GB and the reference 32 GB, together 5.0 GB on each of the 32 chips; what
`remat="dots"` keeps of 8,192 tokens a chip is 25 GB; logits about 2 GB.

Hardware: v5p-64 or larger. Time: unknown. Result: not yet run.
"""

from configs import base


def get_config():
    c = base.preference()
    c.init.run = "hf:meta-llama/Llama-3.1-8B-Instruct"
    # A pass, where a pair has 800 tokens; the log says how many passes it is.
    c.steps, c.batch_size, c.length = 200, 64, 4096
    c.model.update(max_length=4096, remat="dots")
    c.objective.loss, c.objective.beta = "dpo", 0.01
    base.ultrafeedback(c)
    c.data.chat = "llama3"
    c.optimizer.learning_rate, c.optimizer.weight_decay = 5e-7, 0.0
    c.schedule.warmup_steps, c.schedule.final = 20, 0.0
    c.mesh = dict(data=1, fsdp=-1, tensor=1)
    c.checkpoint.every = 100
    c.evaluation.every = 50
    return c

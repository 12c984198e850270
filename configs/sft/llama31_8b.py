# SPDX-License-Identifier: Apache-2.0
r"""Fine-tuning all of Llama 3.1 8B on the mixture of Tulu 3, on a TPU pod.

tools/launch_tpu.sh NAME ZONE -- --config=configs/sft/llama31_8b.py \
    --workdir=/mnt/runs/llama31_8b_sft --config.init.run=hf:/mnt/llama31_8b

The repository asks for a licence to be accepted; a folder that all hosts see saves each
of them the download. Dialogues are in Llama 3's own format, whose tokens the base model
has, though no template. Rate, warm-up, length, batch and two passes over the 939,343
dialogues are Tulu 3's (arXiv:2411.15124).

Memory, by arithmetic: 8.0 B parameters, gradients and two moments in float32 are
128 GB, 4.0 GB on each of the 32 chips; what `remat="dots"` keeps of 16,384 tokens a
chip is 49 GB; logits about 2 GB.

Hardware: v5p-64 or larger. Time: unknown. Result: not yet run.
"""

from configs import base


def get_config():
    c = base.sft()
    c.init.run = "hf:meta-llama/Llama-3.1-8B"
    # Two passes, where a dialogue has 800 tokens; the log says how many passes it is.
    c.steps, c.batch_size, c.length = 3000, 128, 4096
    c.model.update(max_length=4096, remat="dots")
    c.data.chat = "llama3"
    base.tulu3(c)
    c.optimizer.learning_rate, c.optimizer.weight_decay = 5e-6, 0.0
    c.schedule.name, c.schedule.final = "linear", 0.0
    c.schedule.warmup_steps = 90  # 0.03 of the steps
    c.mesh = dict(data=1, fsdp=-1, tensor=1)
    c.checkpoint.every = 500
    c.evaluation.every = 500
    return c

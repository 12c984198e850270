# SPDX-License-Identifier: Apache-2.0
r"""Dr. GRPO of all of Llama 3.1 8B Instruct on GSM8K's questions, on a TPU pod.

tools/launch_tpu.sh NAME ZONE -- --config=configs/rl/llama31_8b.py \
    --workdir=/mnt/runs/llama31_rl --config.init.run=hf:/mnt/llama31_8b_instruct \
    --config.data.sources.gsm8k.path=/mnt/gsm8k.jsonl

Memory, by arithmetic: 8.0 B parameters, gradients and two moments in float32 are
128 GB, 4.0 GB on each of 32 chips; the reference, which the log compares with, 1 GB.
Planned by

alignjax plan --config=configs/rl/llama31_8b.py --topology=v5p:32 \
    --config.model.family=llama --config.model.name=3.1-8b

(jax 0.11.2, libtpu 0.0.48): an update of 512 responses fits into the 95 GiB of each
chip and should take 6.9 s, at an MFU of 24 %; drawing them comes on top.

Hardware: v5p-64 or larger (32 chips, of two cores each). Time: as planned.
Result: not yet run.
"""

from configs.rl import gsm8k


def get_config():
    c = gsm8k.get_config()
    c.init.run = "hf:meta-llama/Llama-3.1-8B-Instruct"
    c.steps, c.batch_size, c.length = 200, 64, 1024
    c.model.update(max_length=1024, remat="dots", dtype="bfloat16")
    c.data.chat = "llama3"
    c.data.share_prompt = False  # rows of one response each, which kernels read
    c.rollouts.samples = 8
    c.rollouts.max_tokens = c.rollouts.denominator.length = 512
    c.rollouts.evaluation_prompts = 128
    c.optimizer.learning_rate = 1e-6
    c.checkpoint.every = c.evaluation.every = 50
    c.mesh = dict(data=1, fsdp=-1, tensor=1)
    return c

# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning for 1, 4 and 16 epochs on the same 256 demonstrations; README.md."""

from alignjax.world.assessment import benchmarks

EPOCHS = {1: 6, 4: 24, 16: 96}  # steps of each


def get_sweep():
    arms = [{"name": f"sft_{n}", "steps": steps} for n, steps in EPOCHS.items()]
    claim = {
        "base": "sft_4",
        "slices": [f"eval_{kind}" for kind in benchmarks.KINDS],
        "expects": {"sft_16": "below"},
        "text": "further epochs cost reward on prompts unlike the demonstrations",
    }
    fields = {"checkpoint.every": 96, "evaluation.every": 96, "sample.every": None}
    return dict(
        config="configs/sft/world.py",
        arms=arms,
        fields=fields,
        seeds=5,
        prompts=16,
        checkpoints=1,
        claim=claim,
    )

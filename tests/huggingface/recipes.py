# SPDX-License-Identifier: Apache-2.0
"""The recipes of configs/ on what is at hand: golden folders and a few dialogues."""

import importlib
import json
import pathlib

from alignjax import config
from tools import make_golden_runs

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/huggingface"
# Recipe -> the golden folder of the family that it starts from.
STAND_INS = {
    "sft/qwen25_05b_lora": "qwen2",
    "dpo/qwen25_05b_lora": "qwen2",
    "sft/qwen3_4b_lora": "qwen3",
    "dpo/qwen3_4b_lora": "qwen3",
    "sft/llama31_8b": "llama3",
    "dpo/llama31_8b": "llama3",
    "reward/gemma3_1b": "gemma3",
}
ASKED = ["what is the sea", "where is the inn", "who is in the hall", "why is it hot"]
GOOD, BAD = "it is in the north and the other", "the"


def rows(stage: str) -> list[dict]:
    """Rows of the format that a stage's recipes read."""
    found = []
    for i in range(32):
        ask = f"{ASKED[i % 4]} {i}"
        good, bad = f"{GOOD} {i}", f"{BAD} {i}"
        if stage == "sft":
            more = turns("and", BAD) * (i % 2)
            found.append({"messages": [*turns(ask, good), *more]})
        else:
            sides = dict(chosen=turns(ask, good), rejected=turns(ask, bad))
            found.append({"prompt": ask, **sides})
    return found


def turns(asked: str, said: str) -> list[dict]:
    roles = (("user", asked), ("assistant", said))
    return [{"role": role, "content": text} for role, text in roles]


def section(recipe: str, folder: pathlib.Path, **changes) -> dict:
    """The recipe as JSON, small, from its stand-in and with data from `folder`."""
    module = importlib.import_module("configs." + recipe.replace("/", "."))
    c = module.get_config()
    stage = recipe.split("/")[0]
    file = folder / f"{stage}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(stage)))
    source = dict(kind="jsonl", path=str(file), weight=1.0)
    source["format"] = "messages" if stage == "sft" else "preference"
    for sources in (c.data.sources, c.data.validation_sources):
        for name in list(sources):
            sources[name] = source
    c.init.run = f"hf:{GOLDEN / STAND_INS[recipe]}"
    c.steps, c.batch_size, c.length, c.microbatches = 2, 8, 128, 1
    c.cache_dir = str(folder / "cache")
    c.schedule.warmup_steps = 1
    c.optimizer.learning_rate = 1e-2  # so that two steps show
    c.evaluation.every, c.evaluation.batches = 2, 1
    c.sample.every = None
    c.checkpoint.every = 2
    c.log.tensorboard = False
    c.data.on_bad_row, c.data.long_documents = "error", "error"
    c.data.validation_fraction = 0.25 if stage == "sft" else 0.0
    return make_golden_runs.change(config.to_json(c), changes)

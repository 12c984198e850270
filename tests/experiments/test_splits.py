# SPDX-License-Identifier: Apache-2.0
"""What the configs of real dialogues evaluate on, none of their stages trains on."""

import importlib
import json
import re

import pytest

from alignjax import config
from alignjax.data import loader
from alignjax.data.tokenizers import base
from alignjax.data.tokenizers.base import TokenizerConfig

STAGES = {"pretrain": "text", "sft": "text", "reward": "pairs", "dpo": "pairs"}
COUNT = 120


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Two lines for each question: one is answered; in the other it goes on from it."""
    path = tmp_path_factory.mktemp("hh") / "hh.jsonl"
    lines = []
    for i in range(COUNT):
        asked = f"\n\nHuman: ask{i}.\n\nAssistant:"
        further = f"{asked} good{i}.\n\nHuman: and then?\n\nAssistant:"
        lines += [
            {"chosen": f"{asked} good{i}.", "rejected": f"{asked} bad{i}."},
            {"chosen": f"{further} kind{i}.", "rejected": f"{further} rude{i}."},
        ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def questions(stage: str, split: str, file) -> set[str]:
    """The numbers of the questions whose texts are in a split of a stage."""
    section = config.to_json(
        importlib.import_module(f"configs.{stage}.hh").get_config()
    )
    section["data"]["workers"] = 1
    if section["data"]["chat"] == "inherit":  # from a run before
        section["data"] |= {"chat": "roles", "bos": True}
    for source in section["data"]["sources"].values():
        source["path"] = str(file)
    control = ("<system>", "<user>", "<assistant>", "<end>")
    own = TokenizerConfig(kind="bytes", control_tokens=control)
    tok = base.build(own, (), file.parent, "error")
    data = loader.build(
        config.build(loader.DataConfig, section["data"], "data"),
        tok,
        length=section["length"],
        seed=0,
        cache_dir=file.parent / "cache",
        split=split,
        data=STAGES[stage],
    )
    inputs = data.epoch_rows(range(data.num_rows))["inputs"]
    text = " ".join(tok.decode(row.reshape(-1).tolist()) for row in inputs)
    return set(re.findall(r"[a-z](\d+)\.", text))


def test_no_stage_trains_on_what_another_evaluates(file):
    trained, held = (
        {stage: questions(stage, split, file) for stage in STAGES}
        for split in ("train", "validation")
    )
    assert len(set(map(frozenset, held.values()))) == 1
    assert all(len(held[s] | trained[s]) == COUNT for s in STAGES)
    assert 0.1 * COUNT < len(held["reward"]) < 0.4 * COUNT
    for stage, found in trained.items():
        assert not found & held["reward"], stage

# SPDX-License-Identifier: Apache-2.0
"""Pretraining beside rewards: which documents are not read, and two rollouts."""

import json
import pathlib

import pytest

from alignjax import train, world
from alignjax.world import examples
from experiments.ptx import documents, sweep

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "runs"


def test_documents_are_prose_beyond_those_that_are_read():
    town, first = world.build("nano", 0), examples.splits("nano")["pretrain"]
    make = examples.VIEWS[examples.find("nano", "pretrain")].make
    after = [make(town, "pretrain", first + i, "clean") for i in range(8)]
    prose = [x.text for x in after if world.as_chat(x) == x]
    texts = documents.unread()
    assert 0 < len(prose) < len(after) and texts[: len(prose)] == prose
    assert len(texts) == documents.COUNT


@pytest.mark.slow
def test_two_rollouts_of_every_arm(tmp_path):
    plan = sweep.get_sweep()
    brief = {"steps": 2, "schedule.warmup_steps": 1, "checkpoint.every": 2}
    brief |= {"evaluation.every": 2, "batch_size": 8, "data.long_documents": "skip"}
    brief |= {
        "init.run": GOLDEN / "sft",
        "rollouts.rewards.model.run": GOLDEN / "reward_model",
    }
    learned = {}
    for arm in plan["arms"]:
        fields = {**plan["fields"], **arm, **brief}
        workdir = tmp_path / fields.pop("name")
        flags = [f"--config.{name}={value}" for name, value in fields.items()]
        config = f"--config={plan['config']}"
        assert train.main([config, f"--workdir={workdir}", *flags]) == 0
        first = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
        learned[workdir.name] = "ptx/nll" in first
    assert learned == {name: "ptx" in name for name in learned} and len(learned) == 5

# SPDX-License-Identifier: Apache-2.0
"""Policies against learned rewards: ensembles, made-up curves, two rollouts."""

import json
import pathlib
import xml.etree.ElementTree

import numpy as np
import pytest

from alignjax import errors, rewards
from experiments.overoptimisation import ensemble, run

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "runs"


def test_scores_are_standardised_and_combined(tmp_path, monkeypatch):
    """Of scores 5 and 1 in units of 2 and 4 about 1 and 3: 2 and -0.5."""
    for name, mean, std in (("a", 1.0, 2.0), ("b", 3.0, 4.0)):
        (tmp_path / name).mkdir()
        figures = {"eval/score/mean": mean, "eval/score/std": std}
        text = json.dumps({"step": 0}) + "\n" + json.dumps(figures) + "\n"
        (tmp_path / name / "metrics.jsonl").write_text(text)
    raw = {"a": 5.0, "b": 1.0}

    def made_up(path, mean, std):
        value = (raw[pathlib.Path(path).name] - mean) / std
        return lambda responses: [
            rewards.Score(value if r.text else None) for r in responses
        ]

    monkeypatch.setattr(ensemble.run, "make", made_up)
    runs = (str(tmp_path / "a"), str(tmp_path / "b"))
    responses = [rewards.Response((), None, text, 1, True, 8) for text in ("yes", "")]
    for how, value in (("mean", 0.75), ("lowest", -0.5)):
        scores = ensemble.combined(runs, how)(responses)
        assert [score.value for score in scores] == [value, None]
    with pytest.raises(errors.ConfigError, match=r"^how: "):
        ensemble.combined(runs, "highest")
    with pytest.raises(errors.ConfigError, match=r"^runs: "):
        ensemble.combined((str(tmp_path),))


def made_up_curve(gold, kl=(0.0, 1.0, 4.0)):
    proxy = np.arange(3.0)
    return {"kl": np.array(kl), "proxy": proxy, "gold": np.array(gold)}


def test_peaks_ends_and_what_was_expected():
    curves = {arm: [made_up_curve([1.0, 2.0, 2.5])] * 2 for arm in run.ARMS}
    curves["few"] = [made_up_curve([1.0, 1.5, 0.0]), made_up_curve([1.0, 1.7, 0.0])]
    _, _, *lines = run.table(curves)
    rows = dict(line.strip("| ").split(" | ", 1) for line in lines)
    assert rows["few"].startswith("2 | 1.60 (0.33 to 2.87) | 1.00 (1.00 to 1.00)")
    assert "| 2.00 (2.00 to 2.00)" in rows["few"]
    fall, peak, *ends = run.verdicts(curves)
    assert "falls from its peak by 1.60" in fall
    assert "many above few at the peak: 0.90" in peak
    assert all("2.50" in line for line in ends)
    svg = run.figure(curves)
    assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")


def test_each_policy_of_an_ensemble_begins_with_another_reward_model(tmp_path):
    options = run.parser().parse_args(["--sft=sft", f"--out={tmp_path}"])
    assert options.seeds == 5
    commands = dict(run.commands(options))
    models = {
        name: command[3].partition(":")[2].split(",")
        for name, command in commands.items()
        if name.startswith("policy")
    }
    assert len(commands) == 2 * 5 + 4 * 5 and len(models) == 20
    assert models["policy_few_1"] == [str(tmp_path / "few_1"), "mean"]
    last = models["policy_few_lowest_of_3_4"]
    assert [pathlib.Path(x).name for x in last] == ["few_4", "few_0", "few_1", "lowest"]


@pytest.mark.slow
def test_two_rollouts_of_every_policy(tmp_path, capsys):
    """Of a model whose tokens are characters, so that long replies are left out."""
    brief = ["steps=2", "schedule.warmup_steps=1", "checkpoint.every=2"]
    brief += ["data.long_documents=skip"]
    policy = [*brief, "evaluation.every=1", "batch_size=8"]
    models = [*brief, "evaluation.every=2", "log.every=1"]
    options = [f"--policy=--config.{flag}" for flag in policy]
    options += [f"--reward_model=--config.{flag}" for flag in models]
    run.main([f"--sft={GOLDEN / 'sft'}", f"--out={tmp_path}", "--seeds=1", *options])
    out = capsys.readouterr().out
    assert out.count("| 1 |") == 4 and "falls from its peak by" in out
    assert (tmp_path / "figure.svg").exists()

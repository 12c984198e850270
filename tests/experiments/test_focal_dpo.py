# SPDX-License-Identifier: Apache-2.0
"""A loss from outside the package: its numbers, and that it trains as others do."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import config, errors, train
from alignjax.ablation import sweep_file
from alignjax.analysis import open_run
from alignjax.losses import catalogue, preference
from alignjax.types import LogProbs
from configs.smoke import pretrain
from experiments.focal_dpo import config as focal_config
from experiments.focal_dpo import losses

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOSS = "experiments.focal_dpo.losses:focal_dpo"


def pairs(margin_B) -> tuple[LogProbs, LogProbs]:
    """A policy whose log-ratios differ by these margins, and a reference of zeros."""
    chosen = jnp.asarray(margin_B, jnp.float32)
    total = jnp.stack([chosen, jnp.zeros_like(chosen)], -1)
    length = jnp.ones(total.shape, jnp.int32)
    return LogProbs(total, length), LogProbs(jnp.zeros_like(total), length)


MARGIN = np.array([-30.0, -2.0, 0.0, 1.0, 30.0])


def test_focal_is_its_equation_and_dpo_without_gamma():
    p = 1 / (1 + np.exp(-0.5 * MARGIN))
    found = losses.focal_dpo(*pairs(MARGIN), beta=0.5, gamma=2.0)
    np.testing.assert_allclose(found, -((1 - p) ** 2) * np.log(p), rtol=1e-5, atol=1e-7)
    plain = preference.dpo(*pairs(MARGIN), beta=0.5)
    for loss in (losses.focal_dpo, losses.easy_dpo):
        np.testing.assert_allclose(loss(*pairs(MARGIN), beta=0.5, gamma=0.0), plain)


def test_easy_weighs_the_gradient_of_dpo():
    def slope(loss, **options):
        total = lambda m: loss(*pairs(m), beta=0.5, **options).sum()
        return np.asarray(jax.grad(total)(jnp.asarray(MARGIN, jnp.float32)))

    p = 1 / (1 + np.exp(-0.5 * MARGIN))
    np.testing.assert_allclose(
        slope(losses.easy_dpo, gamma=1.0), p * slope(preference.dpo), rtol=1e-5
    )
    # Never away from the chosen response, however wrong it is, at any size.
    for loss in (losses.easy_dpo, losses.focal_dpo):
        assert (slope(loss) <= 0).all() and np.isfinite(slope(loss)).all()
    far = jnp.array([-1e4, 1e4])
    for loss in (losses.easy_dpo, losses.focal_dpo):
        assert np.isfinite(jax.grad(lambda m, f=loss: f(*pairs(m)).sum())(far)).all()


def test_what_is_declared_is_checked():
    assert catalogue.traits(losses.focal_dpo).margin
    with pytest.raises(errors.ConfigError, match="gamma"):
        catalogue.bind(losses.focal_dpo, {"gamma": -1.0}, "objective")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("focal")
    return run(folder, "base", pretrain.get_config(), steps=6)


def run(folder, name, section, documents=64, **changes):
    c = config.to_json(section) | changes
    c["cache_dir"] = str(folder / "cache")
    c["log"]["tensorboard"] = False
    c["evaluation"]["every"] = c["sample"]["every"] = None
    for source in c["data"]["sources"].values():
        source |= dict(data_dir=str(folder / "world"), documents=documents)
    c = json.loads(json.dumps(c))
    assert train.train(c, folder / name) == errors.DONE
    return open_run(folder / name)


@pytest.mark.slow
def test_it_trains_from_outside_of_the_package(base):
    section = focal_config.get_config()
    section.init.run = str(base.path)
    section.objective.loss = LOSS
    section.data.validation_sources = {}
    # The smoke model spells in bytes. Few pairs, which it soon knows by heart.
    changes = dict(steps=8, batch_size=8, length=320, documents=8)
    section.optimizer.learning_rate, section.schedule.warmup_steps = 3e-3, 1
    rows = run(base.path.parent, "focal", section, **changes).metrics()
    # At z = 0: (1/2)^2 log 2.
    assert rows[0]["loss"] == pytest.approx(np.log(2) / 4, rel=1e-4)
    assert rows[0]["loss/at_reference"] == pytest.approx(np.log(2) / 4)
    assert rows[-1]["rewards/margins"] != 0.0
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_an_option_that_it_does_not_take_is_refused(base):
    section = focal_config.get_config()
    section.init.run = str(base.path)
    section.objective.loss, section.objective.penalty = LOSS, 1.0
    with pytest.raises(errors.ConfigError, match=r"objective\.penalty"):
        train.train(config.to_json(section), base.path.parent / "refused")


def test_the_sweep_is_of_losses_that_there_are(base, monkeypatch):
    monkeypatch.chdir(ROOT)
    cache = base.path.parent / "cache"
    flags = [("init.run", str(base.path)), ("cache_dir", str(cache))]
    flags += [
        (f"data.{part}.world.data_dir", str(base.path.parent / "world"))
        for part in ("sources", "validation_sources")
    ]
    plan = sweep_file.load(
        "experiments/focal_dpo/sweep.py", [*flags, ("length", "320")]
    )
    assert plan.arms == ["dpo", "robust", "focal_dpo", "easy_dpo"]
    assert len(plan.runs) == 12
    assert all(run.section["reference"]["store"] for run in plan.runs)

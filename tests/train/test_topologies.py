# SPDX-License-Identifier: Apache-2.0
"""The same losses on any mesh and in any microbatches; state moves exactly."""

import functools
import shutil

import jax
import numpy as np
import pytest

from alignjax import analysis, checkpoint, train, trees
from alignjax.distributed import sharding
from alignjax.experiment import build
from alignjax.training import state
from tests.train import small

TOPOLOGIES = {  # devices, and how they are laid out
    "one device": (1, dict(data=1, fsdp=1, tensor=1)),
    "fsdp 8": (8, dict(data=1, fsdp=8, tensor=1)),
    "2 x 2 x 2": (8, dict(data=2, fsdp=2, tensor=2)),
}
# A document a row, with padding behind it, so that microbatches weigh differently.
RAGGED = {"data.pack": "none", "batch_size": 32, "steps": 6, "evaluation.every": None}
RAGGED |= {"checkpoint.every": 3, "checkpoint.keep_last": 3, "log.every": 1}


@pytest.fixture
def on(monkeypatch):
    """A function that leaves the command only some of the devices."""
    make_mesh = sharding.make_mesh

    def on(devices: int):
        some = jax.devices()[:devices]
        monkeypatch.setattr(
            sharding, "make_mesh", lambda shape, devices=None: make_mesh(shape, some)
        )

    return on


@pytest.fixture(scope="module")
def section(corpus, cache):
    return functools.partial(small.section, corpus, cache, **RAGGED)


def losses(workdir) -> np.ndarray:
    return np.array([row["loss"] for row in analysis.open_run(workdir).metrics()])


@pytest.fixture(scope="module")
def reference(tmp_path_factory, section):
    """The run on one device, in one part."""
    workdir = tmp_path_factory.mktemp("reference")
    make_mesh = sharding.make_mesh
    sharding.make_mesh = lambda shape, devices=None: make_mesh(shape, jax.devices()[:1])
    try:
        assert train.train(section(mesh=TOPOLOGIES["one device"][1]), workdir) == 0
    finally:
        sharding.make_mesh = make_mesh
    return workdir


LATER = pytest.mark.slow  # what is left out loses little: each value is seen above
PAIRS = [
    ("fsdp 8", 4),
    ("2 x 2 x 2", 2),
    pytest.param("one device", 4, marks=LATER),
    pytest.param("fsdp 8", 1, marks=LATER),
    pytest.param("2 x 2 x 2", 1, marks=LATER),
    pytest.param("one device", 2, marks=LATER),
    pytest.param("fsdp 8", 2, marks=LATER),
    pytest.param("2 x 2 x 2", 4, marks=LATER),
]


@pytest.mark.parametrize("topology, microbatches", PAIRS)
def test_same_losses(tmp_path, section, reference, on, topology, microbatches):
    devices, mesh = TOPOLOGIES[topology]
    on(devices)
    c = section(mesh=mesh, microbatches=microbatches)
    assert train.train(c, tmp_path) == 0
    np.testing.assert_allclose(losses(tmp_path), losses(reference), rtol=0, atol=1e-5)


def test_rows_are_ragged(reference):
    weights = [row["loss_weight"] for row in analysis.open_run(reference).metrics()]
    assert len(set(weights)) == 6 and max(weights) < 0.9 * 32 * 32


@pytest.mark.parametrize("topology", ["fsdp 8", "2 x 2 x 2"])
def test_state_moves_exactly_and_goes_on(tmp_path, section, reference, on, topology):
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    shutil.rmtree(workdir / "checkpoints" / "6")
    before = trees.named_leaves(analysis.open_run(workdir).params(3))
    devices, mesh = TOPOLOGIES[topology]
    on(devices)
    moved = restored(section(mesh=mesh), workdir)
    assert int(moved.step) == 3
    for name, leaf in trees.named_leaves(moved.params).items():
        assert np.asarray(leaf).tobytes() == before[name].tobytes(), name
        assert len(leaf.sharding.device_set) == devices
    assert train.train(section(mesh=mesh), workdir) == 0
    np.testing.assert_allclose(losses(workdir), losses(reference), rtol=0, atol=1e-5)


def restored(section, workdir):
    """The state that a run of this config would go on from."""
    run = build.build(section)
    with (
        sharding.use(run.mesh, run.rules),
        checkpoint.Checkpoints(
            workdir,
            config=run.json,
            data_identity=run.identity,
            **vars(run.config.checkpoint),
        ) as checkpoints,
    ):
        abstract = state.abstract_state(run.model, run.optimizer, run.mesh, run.rules)
        return checkpoints.restore_or_init(abstract, None)[0]

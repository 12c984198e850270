# SPDX-License-Identifier: Apache-2.0
"""Every config can be built and its step traced; the base names every field."""

import dataclasses
import importlib
import inspect
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest

from alignjax import experiment, models, objectives, optim, schedules, step
from alignjax.models import settings
from alignjax.types import Frozen, Sequences, TrainState
from configs import base

ROOT = pathlib.Path(__file__).resolve().parent.parent / "configs"
CONFIGS = sorted(p.relative_to(ROOT) for p in ROOT.glob("*/*.py"))


def load(path):
    module = ".".join(["configs", *path.with_suffix("").parts])
    return importlib.import_module(module)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_builds_and_traces(path):
    section = load(path).get_config().to_dict()
    c, _, optimizer, _ = experiment.check(section)
    model = models.build(c.model, c.model.get("vocab_size") or 1000)
    assert c.length <= model.config.max_length
    objective = objectives.build(model, c.objective)
    rows = jax.ShapeDtypeStruct((c.batch_size, c.length), np.int32)
    batch = Sequences(rows, rows, rows.update(dtype=np.float32), rows, rows)
    with pytest.MonkeyPatch.context() as patch:
        # Shapes are the same with any backend; kernels need their own machine.
        patch.setattr(decoder.attention, "resolve", lambda *_: "xla")

        def run(key, batch):
            params = nn.unbox(model.init(key))
            state = TrainState(0, params, optimizer.init(params))
            train_step = step.make_train_step(
                objective, optimizer, microbatches=c.microbatches
            )
            return train_step(state, Frozen(), batch, key)

        state, metrics = jax.eval_shape(run, jax.random.key(0), batch)
    assert metrics["loss"].shape == () and metrics["loss"].dtype == np.float32
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(state.params))


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_docstring_says_how_to_run_it_and_what_comes_of_it(path):
    text = load(path).__doc__
    assert f"--config=configs/{path}" in text
    assert "not yet run" in text or "Result" in text
    if "not yet run" not in text:
        assert "Hardware:" in text and "Time" in text


def test_base_names_every_field_that_a_flag_could_set():
    c = base.language_model()
    fields = lambda cls: {f.name for f in dataclasses.fields(cls)}
    assert set(c) == fields(sections.Config)
    assert set(c.model) == fields(settings.DecoderConfig) | {"family", "name"}
    for name, cls in sections.SECTIONS.items():
        assert set(c[name]) == fields(cls), name

    def options(functions, known):
        for function in functions:
            for p in inspect.signature(function).parameters.values():
                if p.kind is p.KEYWORD_ONLY:
                    known = known | {p.name}
        return known

    own = {"name", "learning_rate", "clip_norm", "decay", "ema"}
    assert set(c.optimizer) == options(optim.OPTIMIZERS.values(), own)
    own = {"name", "warmup_steps", "warmup_tokens"}
    assert set(c.schedule) == options(schedules.SCHEDULES.values(), own)
    assert set(c.objective) == options(objectives.OBJECTIVES.values(), {"name"})


def test_configs_are_data():
    for path in [*CONFIGS, pathlib.Path("base.py")]:
        text = (ROOT / path).read_text()
        for word in ("import jax", "import alignjax", "from alignjax", "\n    if "):
            assert word not in text, path

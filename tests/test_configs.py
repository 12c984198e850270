# SPDX-License-Identifier: Apache-2.0
"""Every config can be built and its step traced."""

import importlib
import pathlib
import types

import flax.linen as nn
import jax
import numpy as np
import pytest

from alignjax import models, objectives
from alignjax.experiment import build, initial
from alignjax.models import attention
from alignjax.rewards import run
from alignjax.training import step
from alignjax.types import Frozen, Responses, Sequences, TrainState
from tests.fixtures import marks

ROOT = pathlib.Path(__file__).resolve().parent.parent / "configs"
CONFIGS = sorted(p.relative_to(ROOT) for p in ROOT.glob("*/*.py"))
# What a config starts from where it does not say: a run of this model.
BEFORE = {"family": "llama", "name": "nano", "max_length": 8192}
# The sizes of the hub's repositories that configs start from. Of a folder there is no
# name, but that is refused elsewhere, and all that is done here is to trace shapes.
PUBLISHED = {
    "hf:Qwen/Qwen2.5-0.5B": ("qwen2", "2.5-0.5b"),
    "hf:Qwen/Qwen2.5-0.5B-Instruct": ("qwen2", "2.5-0.5b"),
    "hf:Qwen/Qwen3-4B-Base": ("qwen3", "4b"),
    "hf:Qwen/Qwen3-4B-Instruct-2507": ("qwen3", "4b"),
    "hf:google/gemma-3-1b-it": ("gemma3", "1b"),
    "hf:meta-llama/Llama-3.1-8B": ("llama", "3.1-8b"),
    "hf:meta-llama/Llama-3.1-8B-Instruct": ("llama", "3.1-8b"),
}


def begun(init):
    """What a run starts from: a repository of the hub, or a run of no matter what."""
    model = BEFORE
    if init.run:
        model = dict(zip(("family", "name"), PUBLISHED[init.run], strict=True))
    fields = dict(digest=lambda: "", chats="roles", full_tokenizer=None)
    return types.SimpleNamespace(config={"model": model}, **fields)


def load(path):
    module = ".".join(["configs", *path.with_suffix("").parts])
    return importlib.import_module(module)


def batch_of(objective, c):
    """The shapes of a batch of packed rows."""
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, np.int32)
    B, T, P, K = c.batch_size, c.length, 3, 2
    rows = (B, T) if objective.needs.data == "text" else (B, 1, T)
    ints, floats = shape(*rows), shape(*rows).update(dtype=np.float32)
    sequences = Sequences(ints, ints, floats, ints, ints)
    if objective.needs.data == "text":
        return sequences
    weights = shape(B, P).update(dtype=np.float32)
    values = dict.fromkeys(objective.needs.values, weights)
    return Responses(sequences, ints, shape(B, P, K), weights, shape(B, P), values)


@pytest.fixture
def built(path, monkeypatch):
    """The checked config, its optimizer, model and objective."""
    section = load(path).get_config().to_dict()
    critic = types.SimpleNamespace(config={"model": BEFORE | {"score_heads": 1}})

    def before(section, path, network):
        if path == "init":
            return begun(section)
        return critic if path == "critic" else None

    monkeypatch.setattr(run, "make", lambda run, **options: list)
    if section["model"].get("family") is None:
        monkeypatch.setattr(initial, "find_run", before)
    checked = build.check(section)
    c = checked.config
    model = models.build(c.model, c.model.get("vocab_size") or 1000)
    return c, checked.optimizer, model, objectives.build(model, c.objective)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_builds(path, built):
    c, _, model, objective = built
    assert c.length <= model.config.max_length
    assert objective.needs.data in ("text", "pairs", "lists", "labels", "prompts")


# One of each objective; each takes seconds.
TRACED = [
    pathlib.Path(name)
    for name in ("pretrain/hh.py", "sft/world.py", "reward/world.py", "dpo/hh.py")
]


# Those of rollouts have their own batches; tests/rollouts trains on them.
READ = [path for path in CONFIGS if path.parts[0] != "rl"]


@pytest.mark.parametrize("path", marks.slow_but(TRACED, READ), ids=str)
def test_traces(built, monkeypatch):
    c, optimizer, model, objective = built
    # Shapes are the same with any backend; kernels need their own machine.
    monkeypatch.setattr(attention, "resolve", lambda *_, **__: "xla")

    def run(key, batch):
        params = nn.unbox(model.init(key))
        state = TrainState(0, params, optimizer.init(params))
        train_step = step.make_train_step(
            objective, optimizer, microbatches=c.microbatches
        )
        frozen = Frozen({}, params if objective.needs.reference else None)
        return train_step(state, frozen, batch, key)

    shapes = jax.random.key(0), batch_of(objective, c)
    state, metrics = jax.eval_shape(run, *shapes)
    assert metrics["loss"].shape == () and metrics["loss"].dtype == np.float32
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(state.params))


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_docstring_says_how_to_run_it_and_what_comes_of_it(path):
    text = load(path).__doc__
    assert f"--config=configs/{path}" in text
    assert "not yet run" in text or "Result" in text
    if "not yet run" not in text:
        assert "Hardware:" in text and "Time" in text


def test_configs_are_data():
    for path in [*CONFIGS, pathlib.Path("base.py")]:
        text = (ROOT / path).read_text()
        for word in ("import jax", "import alignjax", "from alignjax", "\n    if "):
            assert word not in text, path

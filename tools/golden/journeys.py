# SPDX-License-Identifier: Apache-2.0
"""Folders that go through alignjax and come back, as runs and with adapters."""

from __future__ import annotations

import json
import pathlib
import shutil

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import safetensors.numpy

from alignjax import models, trees
from alignjax.analysis import conversion
from alignjax.huggingface import layout, peft, save
from tools.golden import ours

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
ADAPTERS = dict(lora_rank=4, lora_alpha=8.0)


def tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")


def in_dtype(folder: pathlib.Path, target: pathlib.Path, dtype: str) -> pathlib.Path:
    """A copy of the folder with its weights rounded to a dtype."""
    shutil.copytree(folder, target)
    rounded = {name: x.astype(DTYPES[dtype]) for name, x in tensors(folder).items()}
    save_file = safetensors.numpy.save_file
    save_file(rounded, target / "model.safetensors", metadata={"format": "pt"})
    file = target / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dtype": dtype}))
    return target


def there_and_back(
    folder: pathlib.Path, scratch: pathlib.Path, dtype: str
) -> tuple[int, int]:
    """How many tensors are the same, bit for bit, after folder -> run -> folder.

    Args:
      scratch: a folder to make, in which `there` will be a run and `back` a folder.

    Returns: (how many are, how many there are on both sides together).
    """
    scratch.mkdir()
    source = in_dtype(folder, scratch / "source", dtype)
    run = conversion.import_folder(conversion.plan_import(source, scratch / "there"))
    conversion.export_run(conversion.plan_export(run.path, scratch / "back"))
    before, after = tensors(source), tensors(scratch / "back")
    same = [
        name
        for name in before.keys() & after.keys()
        if before[name].dtype == after[name].dtype
        and before[name].shape == after[name].shape
        and before[name].tobytes() == after[name].tobytes()
    ]
    return len(same), len(before.keys() | after.keys())


def with_adapters(run, seed: int = 0):
    """(model, parameters): the run's with random adapters on every projection."""
    section = {**run.config["model"], **ADAPTERS, "attention": "auto"}
    model = models.build(section, 1)
    abstract = nn.unbox(jax.eval_shape(model.init, jax.random.key(0)))
    leaves, rng = trees.named_leaves(run.params()), np.random.default_rng(seed)

    def leaf(name, x):
        if name in leaves:
            return leaves[name]
        return np.float32(0.1 * rng.standard_normal(x.shape))

    return model, trees.map_with_name(leaf, abstract)


def adapted(model, params, tokens: np.ndarray) -> np.ndarray:
    """float32 [B, T, V] of a model with adapters."""
    rows = ours.packed([tokens])
    return np.asarray(model.unembed(params, model.hidden(params, rows)))


def export_merged(run, model, params, target: pathlib.Path) -> pathlib.Path:
    """The folder of a model whose adapters are in its kernels."""
    leaves = layout.merge(trees.named_leaves(params), model.config)
    plan = save.plan(leaves, run.config["model"]["family"], model.config)
    save.write(plan, leaves, target)
    return target


def in_peft(run, model, params, folder: pathlib.Path, target: pathlib.Path, tokens):
    """float32 [B, T, V]: PEFT's logits with the exported adapters.

    Args:
      folder: of the model without adapters.
    """
    import peft as library

    from tools.golden import theirs

    family = run.config["model"]["family"]
    tensors, fields = peft.write(trees.named_leaves(params), family, model.config)
    peft.save(target, tensors, {**fields, "base_model_name_or_path": str(folder)})
    wrapped = library.PeftModel.from_pretrained(theirs.load(folder), target)
    return theirs.logits(wrapped.eval(), tokens)

# SPDX-License-Identifier: Apache-2.0
"""Runs from adapters of PEFT's: what they hold is the adapters, and where the rest is.

run = adapters.import_adapters("adapter-folder", "runs/base", "runs/adapted")
"""

from __future__ import annotations

import json
import pathlib

from alignjax import errors, models
from alignjax.analysis import run
from alignjax.checkpoint import step_folders
from alignjax.huggingface import peft
from alignjax.models import lora
from alignjax.storage import atomic, fingerprint, tensor_files


def import_adapters(
    source: str | pathlib.Path, base: str | pathlib.Path, target: str | pathlib.Path
) -> run.Run:
    """Makes a run that is as if it had trained the adapters in a folder of PEFT's.

    Its other parameters stay in the base, which has to stay where it is. It can be
    opened, exported with its adapters merged, and started from.

    Args:
      source: the folder.
      base: a run, a folder of Hugging Face's, or `hf:` and a repository of the hub.
      target: directory of the run; made, must not have content.

    Raises:
      ConfigError: as `peft.read`; a base that has adapters, a target that is not empty.
      CheckpointError: the base is no run.
    """
    opened = run.open_run(base)
    opened = opened.at(opened.meta()["step"])
    leaves, section = opened.leaves(), opened.config["model"]
    if any("/lora_" in name for name in leaves):
        raise errors.ConfigError(
            f"{opened.path}: has adapters already; export it with these merged, and "
            "import the others onto that"
        )
    c = opened.model.config
    found = peft.read(source, section["family"], c, leaves)
    name = str(base) if str(base).startswith("hf:") else str(opened.path)
    known = {
        **opened.config,
        "model": {**section, **found.fields, "base": "float32"},
        "trainable": lora.TRAINABLE,
        "init": {"run": name, "step": opened.step},
        "imported": {"from": str(source), "path": str(pathlib.Path(source).absolute())},
    }
    models.build(known["model"], c.vocab_size)  # refuses what could not be opened
    target = pathlib.Path(target).absolute()
    with atomic.folder(target, sum(x.nbytes for x in found.leaves.values())) as made:
        path = step_folders.step_path(made / "checkpoints", 0)
        (path / "meta").mkdir(parents=True)
        described = step_folders.describe({"params": found.leaves})
        kinds = {name: (x.dtype, x.shape) for name, x in found.leaves.items()}
        slots = tensor_files.create(path / step_folders.TENSORS, kinds)
        for name, x in found.leaves.items():
            slots[name].write(x)
            digits = fingerprint.of_pieces(x.dtype, [x]).digits
            described[f"params/{name}"]["fingerprint"] = digits
        meta = step_folders.make_meta(
            0,
            described,
            format=step_folders.IMPORTED,
            config=known,
            data={"init": opened.digest()},
            metrics={},
        )
        atomic.write_json(path / "meta" / "data.json", json.loads(json.dumps(meta)))
        (path / step_folders.MARKER).touch()
        if opened.full_tokenizer is not None:
            opened.full_tokenizer.save(made / "tokenizer")
        atomic.write_json(made / "config.json", known)
    return run.open_run(target)

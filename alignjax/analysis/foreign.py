# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder, held as the directory of a run is: one step, number 0."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

from alignjax import errors
from alignjax.checkpoint import step_folders
from alignjax.huggingface import folder as folders
from alignjax.huggingface import leaves
from alignjax.storage import fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class Foreign:
    """A folder that is read where it lies. It is `workdir.Workdir`'s twin."""

    folder: folders.Folder

    @property
    def path(self) -> pathlib.Path:
        return self.folder.path

    @property
    def steps(self) -> list[int]:
        return [0]

    def config(self, step: int | None) -> dict:
        del step
        return as_config(self.folder)

    @property
    def has_tokenizer(self) -> bool:
        return self.folder.has_tokenizer

    def tokenizer(self):
        """Its `data.tokenizer.Tokenizer`."""
        return self.folder.tokenizer()

    def at(self, step: int | None, read: Callable[[Any], Any]):
        """`read` of the one step that there is. Raises CheckpointError for others."""
        if step not in (None, 0):
            raise errors.CheckpointError(f"{self.path} has no step {step}; it has [0]")
        return read(self)

    @functools.cached_property
    def meta(self) -> dict:
        """As of a step; but its leaves have no fingerprints, which take long."""
        described = step_folders.describe({"params": self.folder.leaves})
        return {
            "step": 0,
            "leaves": described,
            "config": self.config(0),
            "data": {},
            "metrics": {},
            "versions": {},
        }

    def read(self, item: str, names=None) -> dict:
        """`{name: numpy array}` of the parameters, all of them or `names`."""
        names = step_folders.names_of(self.meta, item) if names is None else names
        return {name: self.folder.leaves[name][...] for name in names}

    def leaves(self) -> dict[str, leaves.Leaf]:
        """`{name: array that is read when it is sliced}`."""
        return dict(self.folder.leaves)

    def fingerprints(self) -> dict[str, str]:
        """`{name: digits}`; every tensor is read, once."""
        return self._fingerprints

    @functools.cached_property
    def _fingerprints(self) -> dict[str, str]:
        return {
            name: fingerprint.of_pieces(leaf.dtype, fingerprint.pieces(leaf)).digits
            for name, leaf in self.folder.leaves.items()
        }


def as_config(folder: folders.Folder) -> dict:
    """The config of a run that ended with what the folder has."""
    given = {
        "model": folder.section,
        "data": {"chat": "tokenizer" if folder.chat else None, "bos": folder.bos},
    }
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    if known := {k: folder.json[k] for k in ids if folder.json.get(k) is not None}:
        given["token_ids"] = known  # for an export, where no tokenizer tells
    if folder.has_tokenizer:
        given["tokenizer"] = {
            "kind": folders.tokenizer_kind(folder.path),
            "path": str(folder.path),
        }
    return json.loads(json.dumps(given))  # as a config that was read is

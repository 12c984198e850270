# SPDX-License-Identifier: Apache-2.0
"""What the directory of a run holds, step by step; read, never written."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from alignjax import errors
from alignjax.checkpoint import step_folders

log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """One step that is complete.

    Attributes:
      path: of its directory.
      meta: the JSON beside it; see `Run.meta`.
    """

    path: pathlib.Path
    meta: dict

    def read(self, item: str, names=None) -> dict:
        """`{name: numpy array}` of an item, all of it or `names`, verified."""
        return step_folders.read_numpy(self.path, self.meta, item, names)

    def leaves(self) -> dict[str, Any]:
        """`{name: array that is read when it is sliced}` of the parameters."""
        return step_folders.lazy_leaves(self.path, self.meta)

    def fingerprints(self) -> dict[str, str]:
        """`{name: digits}` of the parameters, as they were written."""
        known = step_folders.names_of(self.meta, "params")
        return {n: self.meta["leaves"][f"params/{n}"]["fingerprint"] for n in known}


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The directory of a run, which may be one that still trains."""

    path: pathlib.Path

    @property
    def directory(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def steps(self) -> list[int]:
        """The complete steps, ascending; read anew each time."""
        return step_folders.complete_steps(self.directory)

    def config(self, step: int | None) -> dict:
        """The resolved config: of a step, or the run's own; if damaged, the newest's.

        Raises:
          CheckpointError: there is no such step, or nothing sound to read it from.
        """
        file = self.path / "config.json"
        if step is None and file.is_file():
            try:
                return json.loads(file.read_text())
            except (OSError, ValueError) as error:
                log.warning("%s: %s; taking the config of a step", file, error)
        return self.at(step, lambda stored: stored.meta)["config"]

    @property
    def has_tokenizer(self) -> bool:
        return (self.path / "tokenizer").is_dir()

    def tokenizer(self):
        """The `data.tokenizer.Tokenizer` that the run was trained with."""
        from alignjax.data.tokenizers import base as tokenizer

        return tokenizer.load(self.path / "tokenizer")

    def at(self, step: int | None, read: Callable[[Stored], Any]):
        """`read` of a step, or of the newest for which it succeeds.

        Raises:
          CheckpointError: there is no such step, or none that is sound.
        """
        if step is not None:
            self._check_exists(step)
            return self._read(step, read)
        broken = []
        for candidate in reversed(self.steps):
            try:
                return self._read(candidate, read)
            except errors.BrokenStep as error:
                log.warning("trying the step before, since %s", error)
                broken.append(str(error))
        raise errors.CheckpointError(
            f"{self.path} has no sound checkpoint: {'; '.join(broken) or 'none yet'}"
        )

    def _read(self, step: int, read):
        path = step_folders.step_path(self.directory, step)
        try:
            return read(Stored(path, step_folders.read_meta(path)))
        except errors.BrokenStep as error:
            if not path.is_dir():
                raise errors.BrokenStep(
                    f"{path} was deleted while it was read; the run keeps only some "
                    "steps"
                ) from error
            raise

    def _check_exists(self, step: int) -> None:
        found = step_folders.all_steps(self.directory)
        complete = [s for s, whole in found.items() if whole]
        if step not in found:
            raise errors.CheckpointError(
                f"{self.path} has no step {step}; it has {complete}"
            )
        if not found[step]:
            raise errors.CheckpointError(
                f"step {step} of {self.path} is incomplete, as an interrupted copy "
                f"leaves it; complete are {complete}"
            )

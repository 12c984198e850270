# SPDX-License-Identifier: Apache-2.0
"""Data sets of worlds on disk: made once, found again by all that determines them."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from alignjax.storage import atomic
from alignjax.world import views

# Examples decoded at once when a data set is streamed.
_CHUNK = 1024


def default_data_dir() -> Path:
    """Where data sets are kept unless told otherwise: in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "alignjax" / "world"


def identity(preset: str, seed: int, view: str, sizes: dict[str, int]) -> dict:
    """All that determines a data set."""
    return {
        "preset": preset,
        "seed": seed,
        "view": view,
        "sizes": sizes,
        "generator": views.GENERATOR,
    }


def prepare(
    data_dir: Path, preset: str, seed: int, view: str, sizes: dict[str, int]
) -> Path:
    """The directory of a prepared data set, made on first use.

    It is whole or absent; two processes that want it at once get the same one.
    """
    key = identity(preset, seed, view, sizes)
    directory = data_dir / f"{preset}_{view}-{atomic.digest(key)[:16]}"

    def fill(partial: Path) -> dict[str, Any]:
        # Imported where it is needed: it takes half a second.
        from alignjax.world import builder

        scratch = partial / "scratch"
        config = builder.WorldConfig(
            name=directory.name, preset=preset, view=view, seed=seed, sizes=sizes
        )
        with _quietly():
            made = builder.AlignjaxWorld(
                config=config, data_dir=scratch, file_format=builder.FILE_FORMAT
            )
            made.download_and_prepare()
        for file in Path(made.data_dir).iterdir():
            file.rename(partial / file.name)
        shutil.rmtree(scratch)
        return key

    atomic.obtain(directory, fill, "data_dir")
    return directory


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """TFDS talks of downloads; nothing is downloaded, and it takes seconds."""
    import tensorflow_datasets as tfds

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(verbosity)


def stream(directory: Path, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a prepared split in order, text as str."""
    import tensorflow_datasets as tfds

    examples = tfds.builder_from_directory(directory).as_data_source(split=split)
    for start in range(0, len(examples), _CHUNK):
        indices = range(start, min(start + _CHUNK, len(examples)))
        for example in examples.__getitems__(indices):
            yield {name: _plain(value) for name, value in example.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value

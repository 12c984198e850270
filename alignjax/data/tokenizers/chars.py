# SPDX-License-Identifier: Apache-2.0
"""The characters of a corpus as tokens: a closed vocabulary, for small comparisons."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from alignjax import errors
from alignjax.data.tokenizers import base
from alignjax.storage import json_files

TRAINED = True
OPTIONS = ("control_tokens",)  # of the config, besides its kind
MODEL = "chars.json"


def make(cfg: base.TokenizerConfig, texts: Iterator[str]) -> dict[str, bytes]:
    """The files of a tokenizer that has every character of `texts`."""
    chars: set[str] = set()
    for text in texts:
        chars.update(text)
    model = {"chars": "".join(sorted(chars)), "control": list(cfg.control_tokens)}
    return {MODEL: json.dumps(model).encode()}


def from_files(files: Mapping[str, bytes]) -> base.Tokenizer:
    """The tokenizer of these files: characters, then the start, the end, and control.

    Its `encode_batch` raises a DataError for a character that it does not have.
    """
    model = json_files.parse(files[MODEL], MODEL, dict)
    chars, names = model["chars"], model["control"]
    points = _points(chars)
    table = np.full(points.max(initial=0) + 2, -1, np.int32)  # the last entry: unknown
    table[points] = np.arange(len(points))
    sizes = [len(char.encode()) for char in chars]

    def encode(text: str) -> np.ndarray:
        ids = table[np.minimum(_points(text), len(table) - 1)]
        if len(ids) and ids.min() < 0:
            at = int(np.argmin(ids))
            raise errors.DataError(
                f"character {text[at]!r} at offset {at} is not among the {len(chars)} "
                'of the tokenizer; use kind = "bytes" or "sentencepiece"'
            )
        return ids

    def encode_batch(texts: Sequence[str]) -> list[np.ndarray]:
        return [encode(text) for text in texts]

    def decode(ids: Iterable[int]) -> str:
        return "".join(chars[i] for i in ids if i < len(chars))

    return base.of_units("chars", files, sizes, names, encode_batch, decode)


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)

# SPDX-License-Identifier: Apache-2.0
"""UTF-8 bytes as tokens: any text, no training, 256 ids and the control tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from alignjax.data.tokenizers import base
from alignjax.storage import json_files

TRAINED = False
OPTIONS = ("control_tokens",)  # of the config, besides its kind
MODEL = "bytes.json"


def make(cfg: base.TokenizerConfig, texts: Iterator[str]) -> dict[str, bytes]:
    """The files of a tokenizer; there is nothing to learn from `texts`."""
    del texts
    return {MODEL: json.dumps({"control": list(cfg.control_tokens)}).encode()}


def from_files(files: Mapping[str, bytes]) -> base.Tokenizer:
    """The tokenizer of these files: bytes, then the start, the end, and control."""
    names = json_files.parse(files[MODEL], MODEL, dict)["control"]

    def encode_batch(texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def decode(ids: Iterable[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

    return base.of_units("bytes", files, [1] * 256, names, encode_batch, decode)

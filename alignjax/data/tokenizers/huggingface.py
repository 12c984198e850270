# SPDX-License-Identifier: Apache-2.0
"""A `tokenizer.json`, read by Hugging Face's `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignjax import config
from alignjax.data import records, tokenizer

TRAINED = False
OPTIONS = ("path", "eos_token")  # of the config, besides its kind
MODEL = "tokenizer.json"
NAMES = "names.json"


def make(cfg: tokenizer.TokenizerConfig, texts: Iterator[str]) -> dict[str, bytes]:
    """The files of the tokenizer at `cfg.path`, a tokenizer.json or its directory.

    The names of the tokens that start and end a text come from the config, or from the
    tokenizer_config.json beside it.

    Raises:
      ConfigError: no token that ends a text is named.
      DataError: there is no such file, or it is not a tokenizer.
    """
    del texts
    path = Path(cfg.path).expanduser()
    path = path / MODEL if path.is_dir() else path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise records.DataError(f"tokenizer.path: {path}: {error.strerror}") from error
    beside = path.with_name("tokenizer_config.json")
    known = json.loads(beside.read_bytes()) if beside.exists() else {}
    eos = cfg.eos_token or _name(known.get("eos_token"))
    if eos is None:
        raise config.ConfigError(
            f"eos_token: {path} does not say which token ends a text; name it here"
        )
    names = {"eos": eos, "bos": _name(known.get("bos_token"))}
    files = {MODEL: content, NAMES: json.dumps(names).encode()}
    from_files(files)
    return files


def from_files(files: Mapping[str, bytes]) -> tokenizer.Tokenizer:
    """The tokenizer of these files.

    Raises:
      ConfigError: the token that ends a text is not in the vocabulary.
      DataError: the file is not a tokenizer, or the library is not installed.
    """
    model = _model(files[MODEL])
    names = json.loads(files[NAMES])
    eos_id = model.token_to_id(names["eos"])
    if eos_id is None:
        raise config.ConfigError(
            f"eos_token: {names['eos']!r} is not in the tokenizer's vocabulary"
        )
    added = model.get_added_tokens_decoder()
    control = {token.content: i for i, token in added.items() if token.special}
    control[names["eos"]] = eos_id
    token_bytes = _token_bytes(model, json.loads(files[MODEL]))
    token_bytes[list(control.values())] = 0

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        found = model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(ids: Iterable[int]) -> str:
        hidden = set(control.values())
        kept = [i for i in map(int, ids) if i not in hidden]
        return model.decode(kept, skip_special_tokens=False)

    return tokenizer.Tokenizer(
        kind="huggingface",
        files=dict(files),
        vocab_size=len(token_bytes),
        bos_id=model.token_to_id(names["bos"]) if names["bos"] else None,
        eos_id=eos_id,
        control=control,
        token_bytes=token_bytes,
        encode_batch=encode_batch,
        decode=decode,
    )


def _model(content: bytes):
    try:
        import tokenizers
    except ImportError as error:
        raise records.DataError(
            'tokenizer.kind "huggingface" needs the extra hf: pip install alignjax[hf]'
        ) from error
    try:
        model = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises no type of its own
        raise records.DataError(f"{MODEL}: not a tokenizer ({error})") from error
    model.encode_special_tokens = True  # what text spells stays text
    model.no_truncation()
    model.no_padding()
    return model


def _token_bytes(model, described: Mapping[str, Any]) -> np.ndarray:
    """The bytes of text of each token, by the way the tokenizer writes them."""
    byte_level = '"ByteLevel"' in json.dumps(
        [described.get("decoder"), described.get("pre_tokenizer")]
    )
    vocabulary = model.get_vocab(with_added_tokens=True)
    added = {token.content for token in model.get_added_tokens_decoder().values()}
    sizes = np.zeros(max(vocabulary.values()) + 1, np.int32)
    for piece, i in vocabulary.items():
        if byte_level and piece not in added:
            sizes[i] = len(piece)  # one printable character stands for one byte
        elif len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            sizes[i] = 1
        else:
            sizes[i] = len(piece.replace("\u2581", " ").encode())
    return sizes


def _name(token: Any) -> str | None:
    """A token's name in tokenizer_config.json: text, or an object that has it."""
    return token.get("content") if isinstance(token, dict) else token

# SPDX-License-Identifier: Apache-2.0
"""A `tokenizer.json`, read by Hugging Face's `tokenizers` library."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax import errors, workers
from alignjax.data.tokenizers import base, special_tokens, tokenizer_files
from alignjax.storage import json_files

TRAINED = False
OPTIONS = ("path", "eos_token")  # of the config, besides its kind
MODEL = "tokenizer.json"
NAMES = "names.json"  # there where the config named the end
# There where a model has no rows for the last special tokens: the smallest Gemma 3 has
# the tokenizer of those that see, and no row for the token of an image.
ROWS = "rows.json"


def make(cfg: base.TokenizerConfig, texts: Iterator[str]) -> dict[str, bytes]:
    """The files of the tokenizer at `cfg.path`, a tokenizer.json or its directory.

    They are the file and those beside it that `tokenizer_files` lists. The token that
    ends a text is the config's, or else theirs.
    """
    del texts
    files = tokenizer_files.read(cfg.path, MODEL)
    if cfg.eos_token:
        files[NAMES] = json.dumps({"eos": cfg.eos_token}).encode()
    return files


def from_files(files: Mapping[str, bytes]) -> base.Tokenizer:
    """The tokenizer of these files.

    Raises:
      ConfigError: no token ends a text, or it is not in the vocabulary.
      DataError: the file is not a tokenizer, or the library is not installed.
    """
    model = _model(files)
    model.encode_special_tokens = True  # what text spells stays text
    names = tokenizer_files.names(files)
    described = json_files.parse(files[MODEL], MODEL, dict)
    configured = json_files.parse(files.get(NAMES, b"{}"), NAMES, dict)
    names |= {f"{role}_token": name for role, name in configured.items() if name}
    eos = tokenizer_files.end(files, names.get("eos_token"), model.id_to_token)
    eos_id = None if eos is None else model.token_to_id(eos)
    if eos is None:
        raise errors.ConfigError(
            f"tokenizer.eos_token: neither {MODEL} nor the files beside it name the "
            "token that ends a text; name it here, or as eos_token in "
            f"{tokenizer_files.CONFIG}"
        )
    if eos_id is None:
        reason = f"{eos!r} is not in the tokenizer's vocabulary"
        raise errors.ConfigError(f"tokenizer.eos_token: {reason}")
    names["eos_token"] = eos
    bos = names.get("bos_token")
    added = model.get_added_tokens_decoder()
    control = {token.content: i for i, token in added.items() if token.special}
    control[eos] = eos_id
    rows = json_files.parse(files.get(ROWS, b"{}"), ROWS, dict).get("rows")
    token_bytes = _token_bytes(model, described)[:rows]
    control = {name: i for name, i in control.items() if i < len(token_bytes)}
    token_bytes[list(control.values())] = 0

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        with base.sound("huggingface", texts):
            encodings = model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @functools.cache
    def spelling():
        """The model for which special tokens that are spelt are meant."""
        return _model(files)

    def encode_placed(texts: Sequence[str]) -> list[special_tokens.Placed]:
        with base.sound("huggingface", texts):
            encodings = spelling().encode_batch(list(texts), add_special_tokens=False)
        return [
            special_tokens.Placed(
                np.array(encoding.ids, np.int64),
                *np.array(encoding.offsets, np.int64).reshape(-1, 2).T,
            )
            for encoding in encodings
        ]

    def decode(ids: Iterable[int]) -> str:
        silent = set(control.values())
        ids = [i for i in map(int, ids) if i not in silent]
        with base.sound("huggingface"):
            return model.decode(ids, skip_special_tokens=False)

    return base.Tokenizer(
        kind="huggingface",
        files=dict(files),
        vocab_size=len(token_bytes),
        bos_id=model.token_to_id(bos) if bos else None,
        eos_id=eos_id,
        control=control,
        token_bytes=token_bytes,
        encode_batch=encode_batch,
        decode=decode,
        names=names,
        stop_ids=tokenizer_files.stop_ids(files, eos_id, len(token_bytes)),
        encode_placed=encode_placed,
        unknown_id=_unknown_id(model, described["model"], bos, eos),
    )


def _unknown_id(model, described: Mapping[str, Any], *others: str | None) -> int | None:
    """The id of text that has no tokens.

    None where that is the start or the end as well, as in byte-level vocabularies,
    which never need it: the two could not be told apart.
    """
    unknown = described.get("unk_id")  # of unigrams
    if (name := described.get("unk_token")) is not None:
        unknown = model.token_to_id(name)
    ends = [model.token_to_id(name) for name in others if name]
    return None if unknown in ends else unknown


def _model(files: Mapping[str, bytes]):
    """The library's tokenizer, with the tokens that other files add to it."""
    try:
        import tokenizers
    except ImportError as error:
        raise errors.DataError(
            'tokenizer.kind "huggingface" needs the extra hf: pip install alignjax[hf]'
        ) from error
    content = files[MODEL].decode("utf-8-sig")
    if '"Precompiled"' in content:
        _check_charsmap(content)
    try:
        model = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises no type of its own
        raise errors.DataError(f"{MODEL}: not a tokenizer ({error})") from error
    there = {token.content for token in model.get_added_tokens_decoder().values()}
    for token in tokenizer_files.added(files):
        if token.content in there:
            continue
        described = {k: v for k, v in token._asdict().items() if k != "id"}
        model.add_tokens([tokenizers.AddedToken(**described)])
        if (own_id := model.token_to_id(token.content)) != token.id:
            raise errors.ConfigError(
                f"tokenizer: {token.content!r} is token {token.id} in "
                f"{tokenizer_files.CONFIG} or {tokenizer_files.ADDED}, and {own_id} in "
                f"{MODEL}; the files are not of one tokenizer"
            )
    model.no_truncation()
    model.no_padding()
    return model


def _check_charsmap(content: str) -> None:
    """Reads every character in a worker: of a damaged table the library panics."""
    worker = workers.Worker(
        "alignjax.data.tokenizers.charsmap:answer", workers.Limits(memory_bytes=1 << 32)
    )
    try:
        fault = worker.call(content)
    except workers.WorkerError as error:
        fault = str(error)
    finally:
        worker.close()
    if fault:
        raise errors.DataError(f"{MODEL}: its precompiled_charsmap: {fault}")


def _token_bytes(model, described: Mapping[str, Any]) -> np.ndarray:
    """The bytes of text of each token, by the way the tokenizer writes them."""
    byte_level = '"ByteLevel"' in json.dumps(
        [described.get("decoder"), described.get("pre_tokenizer")]
    )
    vocabulary = model.get_vocab(with_added_tokens=True)
    added = {token.content for token in model.get_added_tokens_decoder().values()}
    base.check_size(max(vocabulary.values(), default=-1) + 1)
    sizes = np.zeros(max(vocabulary.values()) + 1, np.int32)
    for piece, i in vocabulary.items():
        if byte_level and piece not in added:
            sizes[i] = len(piece)  # one printable character stands for one byte
        elif len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            sizes[i] = 1
        else:
            sizes[i] = len(piece.replace("\u2581", " ").encode())
    return sizes

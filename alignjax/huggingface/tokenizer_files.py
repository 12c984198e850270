# SPDX-License-Identifier: Apache-2.0
"""What lies beside the weights of an export: tokenizer, template, what ends a reply."""

from __future__ import annotations

import json
from typing import Any

from alignjax import errors
from alignjax.data.chat import format as chats
from alignjax.data.chat import templates
from alignjax.data.tokenizers import tokenizer_files
from alignjax.models import decoder_config

GENERATION = tokenizer_files.GENERATION
TRAINED = "sentencepiece.model"  # the file of a model that was trained here


def files(
    tok, c: decoder_config.DecoderConfig, *, chat: str | None, bos: bool
) -> tuple[dict[str, bytes], dict[str, Any], list[str]]:
    """(`{name: bytes}`, fields of config.json, what somebody should know).

    Files that came with the tokenizer are given back byte for byte. Only where the
    dialogues of the run end otherwise than its generation_config.json says are these
    stops added to it, and only where it learned another template than the tokenizer's
    is that one written.

    Args:
      tok: a `data.tokenizer.Tokenizer`, or None.
      chat: the format of dialogues that the run learned, or None.
      bos: whether its documents begin with the start token.
    """
    if tok is None:
        return {}, {}, ["there is no tokenizer to go with it"]
    notes: list[str] = []
    kept = {name: tok.files[name] for name in tokenizer_files.KEPT if name in tok.files}
    if tok.kind in ("bytes", "chars"):
        notes.append(
            f"a tokenizer of the kind {tok.kind!r} has no form that transformers "
            "reads: the weights are complete; their tokens are made with alignjax"
        )
    elif TRAINED in tok.files:
        kept["tokenizer.model"] = tok.files[TRAINED]
        kept["tokenizer_config.json"] = _json(_of_sentencepiece(tok, bos))
        notes.append(
            "tokenizer.model is as it was trained here; transformers makes the same "
            "tokens of a text, but for one that spells a control token"
        )
    stops = stop_ids(tok, chat)
    known = {} if GENERATION not in kept else json.loads(kept[GENERATION])
    said = known.get("eos_token_id")
    said = said if isinstance(said, list) else [] if said is None else [said]
    if lacking := [i for i in stops if i not in said]:
        if known:
            notes.append(
                f"{GENERATION}: also ends at {lacking}, as dialogues of this run do"
            )
        ends = {"eos_token_id": [*said, *lacking]}
        begins = {"bos_token_id": tok.bos_id} if tok.bos_id is not None else {}
        kept[GENERATION] = _json({**begins, **known, **ends})
        said = ends["eos_token_id"]
    source = _template(tok, chat, bos)
    if source is not None:
        kept[templates.FILE] = source.encode()
        notes.append(f"{templates.FILE}: the template of data.chat = {chat!r}")
    fields = {"bos_token_id": tok.bos_id, "eos_token_id": _one_or_all(said)}
    pad = tok.names.get("pad_token")
    fields["pad_token_id"] = tok.control.get(pad)
    if c.score_heads and fields["pad_token_id"] is None:
        fields["pad_token_id"] = tok.eos_id  # without it only batches of one are read
    return kept, fields, notes


def stop_ids(tok, chat: str | None) -> list[int]:
    """All tokens that may end what the model says."""
    found = []
    if chat:
        try:
            found = chats.of(tok, chat).stop_ids
        except errors.ConfigError:
            # A template that came along may be one that we do not write with.
            if chat != templates.OWN:
                raise
    return list(dict.fromkeys([*found, *tok.stop_ids, *_known(tok.eos_id)]))


def _template(tok, chat: str | None, bos: bool) -> str | None:
    """The template of a format, where it is not the tokenizer's own.

    Here the start of a document is the data's to give; theirs has to write it.
    """
    if not chat or chat == templates.OWN or tok.kind in ("bytes", "chars"):
        return None
    source = templates.find(tok, chat)
    if bos and tok.bos_id is not None and "bos_token" not in source:
        return "{{- bos_token -}}\n" + source
    return source


def _of_sentencepiece(tok, bos: bool) -> dict[str, Any]:
    """tokenizer_config.json of a sentencepiece model that was trained here."""
    piece = {i: name for name, i in tok.control.items()}
    named = {"bos_token": tok.bos_id, "eos_token": tok.eos_id}
    names = {role: piece[i] for role, i in named.items() if i in piece}
    return {
        "add_bos_token": bos,
        "add_eos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": sorted(
            (name for name in tok.control if name not in names.values()),
            key=tok.control.get,
        ),
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        **names,
    }


def _known(token: int | None) -> list[int]:
    return [] if token is None else [token]


def _one_or_all(tokens: list[int]) -> int | list[int] | None:
    return tokens[0] if len(tokens) == 1 else tokens or None


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()

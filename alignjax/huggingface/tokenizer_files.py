# SPDX-License-Identifier: Apache-2.0
"""The files beside the weights of an export: tokenizer, template, stop tokens."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from alignjax import errors
from alignjax.data.chat import format as chats
from alignjax.data.chat import templates
from alignjax.data.tokenizers import tokenizer_files
from alignjax.models import decoder_config
from alignjax.storage import json_files

GENERATION = tokenizer_files.GENERATION
TRAINED = "sentencepiece.model"  # the file of a model that was trained here


class Files(NamedTuple):
    """Files beside the weights.

    Attributes:
      files: `{name: bytes}`.
      keys: of config.json, about tokens.
      notes: for the user, a sentence each.
    """

    files: dict[str, bytes]
    keys: dict[str, Any]
    notes: list[str]


def files(
    tok, c: decoder_config.DecoderConfig, *, chat: str | None, bos: bool
) -> Files:
    """The files of a tokenizer and its chat template.

    Files that came with the tokenizer are given back byte for byte. Stop tokens are
    added to its generation_config.json only where dialogues of the run end with others,
    and a template is written only where the run learned another than the tokenizer's.

    Args:
      tok: a tokenizer, or None.
      chat: the format of dialogues that the run learned, or None.
      bos: whether its documents begin with the start token.
    """
    if tok is None:
        return Files({}, {}, ["there is no tokenizer to go with it"])
    notes: list[str] = []
    content = {x: tok.files[x] for x in tokenizer_files.KEPT if x in tok.files}
    if tok.kind in ("bytes", "chars"):
        notes.append(
            f"a tokenizer of the kind {tok.kind!r} has no form that transformers "
            "reads: the weights are complete; their tokens are made with alignjax"
        )
    elif TRAINED in tok.files:
        content["tokenizer.model"] = tok.files[TRAINED]
        content["tokenizer_config.json"] = _json(_sentencepiece_config(tok, bos))
        notes.append(
            "tokenizer.model is as it was trained here; transformers makes the same "
            "tokens of a text, but for one that spells a control token"
        )
    generation = json_files.parse(content.get(GENERATION, b"{}"), GENERATION, dict)
    stops = generation.get("eos_token_id")
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    if missing := [i for i in stop_ids(tok, chat) if i not in stops]:
        if generation:
            notes.append(
                f"{GENERATION}: also ends at {missing}, as dialogues of this run do"
            )
        stops = [*stops, *missing]
        begins = {"bos_token_id": tok.bos_id} if tok.bos_id is not None else {}
        content[GENERATION] = _json({**begins, **generation, "eos_token_id": stops})
    source = _template(tok, chat, bos)
    others = tokenizer_files.additional_templates(tok.files)
    beside = tokenizer_files.TEMPLATE_FOLDER
    if source is None:
        content |= {f"{beside}/{name}.jinja": x.encode() for name, x in others.items()}
    else:
        if others:
            notes.append(f"{beside} is left out: the run learned another template")
        content[templates.FILE] = source.encode()
        notes.append(f"{templates.FILE}: the template of data.chat = {chat!r}")
    pad_id = tok.control.get(tok.names.get("pad_token"))
    if c.score_heads and pad_id is None:
        pad_id = tok.eos_id  # without it only batches of one are read
    with contextlib.suppress(errors.ConfigError):  # a template not for use here
        if note := chats.start_note(tok, chat, bos):
            notes.append(note)
    keys = {
        "bos_token_id": tok.bos_id,
        "eos_token_id": stops[0] if len(stops) == 1 else stops or None,
        "pad_token_id": pad_id,
    }
    return Files(content, keys, notes)


def score_notes(tok, chat: str | None, objective: Mapping[str, Any]) -> list[str]:
    """What to feed to transformers so that it gives the scores of a run.

    It reads scores at the last token that is no padding; here a response is scored
    before the token that ends it.

    Args:
      objective: the section of the run's config; others than a reward model have none.
    """
    if objective.get("name") != "reward_model" or tok is None:
        return []
    notes = []
    if objective.get("pooling") == "mean":
        notes.append(
            "score: the run takes the mean over a response's tokens, transformers what "
            "it reads at the last token; no input makes the two equal"
        )
        return notes
    names = {i: name for name, i in tok.control.items()}
    end = (stop_ids(tok, chat) or [None])[0]
    notes.append(
        "score: transformers reads it at the last token that is no padding, the run "
        f"before the terminator {names.get(end, end)!r} of a response; feed the tokens "
        "of prompt and response without the terminator and what follows it"
    )
    if (members := objective.get("members") or 1) > 1:
        how = objective.get("reduce") or "mean"
        notes.append(
            f"score: of the {members} members of an ensemble, of which the run reports "
            f"the {how}; transformers gives them all"
        )
    return notes


def stop_ids(tok, chat: str | None) -> list[int]:
    """All tokens that may end a reply of the model."""
    ids = []
    try:
        ids = chats.of(tok, chat).stop_ids if chat else []
    except errors.ConfigError:
        # A template that came along may be one that cannot be used here.
        if chat != templates.OWN:
            raise
    ids = [*ids, *tok.stop_ids, tok.eos_id]
    return [token for token in dict.fromkeys(ids) if token is not None]


def _template(tok, chat: str | None, bos: bool) -> str | None:
    """The template of a format, where it is not the tokenizer's own.

    Here the data adds the start token of a document; in transformers the template does.
    """
    if not chat or chat == templates.OWN or tok.kind in ("bytes", "chars"):
        return None
    source = templates.find(tok, chat)
    if bos and tok.bos_id is not None and "bos_token" not in source:
        return "{{- bos_token -}}\n" + source
    return source


def _sentencepiece_config(tok, bos: bool) -> dict[str, Any]:
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


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()

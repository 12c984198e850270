# SPDX-License-Identifier: Apache-2.0
"""The files beside a published tokenizer: names, added tokens, what ends a reply.

All of them are kept with the tokenizer, as they are, so that an export is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alignjax import config
from alignjax.data import records

CONFIG, GENERATION = "tokenizer_config.json", "generation_config.json"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"
KEPT = (
    *("tokenizer.json", "tokenizer.model", CONFIG, SPECIAL, ADDED, GENERATION),
    *("chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt"),
)
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class Added(NamedTuple):
    """A token that was added to a vocabulary.

    Attributes:
      id, content: of the token.
      special: whether it is a control token.
      lstrip, rstrip: whether it takes the white space before and after it.
      single_word: whether it is only taken for one where no letters touch it.
      normalized: whether it is looked for in text as the tokenizer normalizes it.
    """

    id: int
    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = True


def read(folder: Path) -> dict[str, bytes]:
    """Those that are there, by name. Raises DataError for one that is no JSON."""
    found = {}
    for name in KEPT:
        path = folder / name
        if path.is_file():
            found[name] = path.read_bytes()
            if name.endswith(".json"):
                _json(found, name, str(path))
    return found


def names(files: Mapping[str, bytes]) -> dict[str, str]:
    """What templates call special tokens: `{"bos_token": "<s>", ...}`."""
    known = {**_json(files, SPECIAL), **_json(files, CONFIG)}
    found = {f"{role}_token": _content(known.get(f"{role}_token")) for role in ROLES}
    extra = known.get("model_specific_special_tokens")
    for source in (known.get("extra_special_tokens"), extra):
        if isinstance(source, Mapping):
            found |= {name: _content(token) for name, token in source.items()}
    return {name: token for name, token in found.items() if token is not None}


def added(files: Mapping[str, bytes]) -> list[Added]:
    """The tokens that tokenizer_config.json or added_tokens.json adds, by id."""
    described = _json(files, CONFIG).get("added_tokens_decoder")
    if described is not None:
        found = []
        for i, token in described.items():
            known = {k: v for k, v in token.items() if k in Added._fields}
            found.append(Added(int(i), **known))
        return sorted(found)
    special = {*names(files).values(), *_extra(files)}
    return sorted(
        Added(i, content, content in special, normalized=content not in special)
        for content, i in _json(files, ADDED).items()
    )


def setting(files: Mapping[str, bytes], name: str) -> Any:
    """An entry of tokenizer_config.json, or None."""
    return _json(files, CONFIG).get(name)


def stop_ids(files: Mapping[str, bytes], eos: int | None, size: int) -> tuple[int, ...]:
    """The end of a document, then the others that generation_config.json names.

    Raises:
      ConfigError: one of them is outside the vocabulary of `size`.
    """
    named = _json(files, GENERATION).get("eos_token_id")
    named = named if isinstance(named, list) else [named]
    found = dict.fromkeys(i for i in (eos, *named) if i is not None)
    if wrong := [i for i in found if not 0 <= i < size]:
        raise config.ConfigError(
            f"tokenizer: {GENERATION} says that {wrong} end a text, where the "
            f"tokenizer has {size:,} tokens; mend eos_token_id there"
        )
    return tuple(found)


def end(
    files: Mapping[str, bytes], given: str | None, piece: Callable[[int], str | None]
) -> str | None:
    """The name of the token that ends a document, if anything tells."""
    if given or (given := names(files).get("eos_token")):
        return given
    ids = _json(files, GENERATION).get("eos_token_id")
    first = ids[0] if isinstance(ids, list) and ids else ids
    return piece(first) if isinstance(first, int) else None


def _extra(files: Mapping[str, bytes]) -> list[str]:
    known = {**_json(files, SPECIAL), **_json(files, CONFIG)}
    found = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        listed = known.get(name) or []
        found += map(
            _content, listed.values() if isinstance(listed, Mapping) else listed
        )
    return found


def _json(files: Mapping[str, bytes], name: str, path: str | None = None) -> Any:
    try:
        return json.loads(files.get(name, b"{}"))
    except ValueError as error:
        raise records.DataError(f"{path or name}: no JSON ({error})") from error


def _content(token: Any) -> str | None:
    """A token's text, which may be that of an object that describes it."""
    return token.get("content") if isinstance(token, Mapping) else token

# SPDX-License-Identifier: Apache-2.0
"""The files beside a published tokenizer: names, added tokens, what ends a reply.

All of them are kept with the tokenizer, as they are, so that an export is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alignjax import config, errors
from alignjax.storage import json_files

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
    tokens = {f"{role}_token": known.get(f"{role}_token") for role in ROLES}
    for name in ("extra_special_tokens", "model_specific_special_tokens"):
        if isinstance(known.get(name), Mapping):
            tokens |= known[name]
    return {
        name: _content(token, f"{CONFIG}.{name}")
        for name, token in tokens.items()
        if token is not None
    }


def added(files: Mapping[str, bytes]) -> list[Added]:
    """The tokens that tokenizer_config.json or added_tokens.json adds, by id."""
    described = _json(files, CONFIG).get("added_tokens_decoder")
    if described is not None:
        where = f"{CONFIG}.added_tokens_decoder"
        found = []
        for i, token in config.expect(described, dict, where).items():
            config.expect(token, dict, f"{where}.{i}")
            flags = {k: v for k, v in token.items() if k in Added._fields[2:]}
            for name, value in flags.items():
                config.expect(value, bool, f"{where}.{i}.{name}")
            if not i.isdecimal():
                raise errors.ConfigError(f"{where}: {i!r:.60} is no token's number")
            found.append(Added(int(i), _content(token, f"{where}.{i}"), **flags))
        return sorted(found)
    special = {*names(files).values(), *_extra(files)}
    ids = _json(files, ADDED)
    return sorted(
        Added(
            config.expect(ids[content], int, f"{ADDED}.{content}"),
            content,
            content in special,
            normalized=content not in special,
        )
        for content in ids
    )


def setting(files: Mapping[str, bytes], name: str) -> Any:
    """An entry of tokenizer_config.json, or None."""
    return _json(files, CONFIG).get(name)


def stop_ids(files: Mapping[str, bytes], eos: int | None, size: int) -> tuple[int, ...]:
    """The end of a document, then the others that generation_config.json names.

    Raises:
      ConfigError: one of them is outside the vocabulary of `size`.
    """
    found = dict.fromkeys(_known([eos, *_ends(files)]))
    if wrong := [i for i in found if not 0 <= i < size]:
        raise errors.ConfigError(
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
    ids = _ends(files)
    return piece(ids[0]) if ids else None


def _ends(files: Mapping[str, bytes]) -> list[int]:
    """The tokens of which generation_config.json says that they end a text."""
    named = _json(files, GENERATION).get("eos_token_id")
    named = _known(named if isinstance(named, list) else [named])
    return [config.expect(i, int, f"{GENERATION}.eos_token_id") for i in named]


def _known(values: list) -> list:
    return [value for value in values if value is not None]


def _extra(files: Mapping[str, bytes]) -> list[str]:
    known = {**_json(files, SPECIAL), **_json(files, CONFIG)}
    found = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        listed = known.get(name) or []
        if isinstance(listed, Mapping):
            listed = list(listed.values())
        config.expect(listed, list, f"{CONFIG}.{name}")
        found += [_content(token, f"{CONFIG}.{name}") for token in listed]
    return found


def _json(files: Mapping[str, bytes], name: str, path: str | None = None) -> dict:
    value = json_files.parse(files.get(name, b"{}"), path or name)
    return config.expect(value, dict, path or name)


def _content(token: Any, where: str) -> str:
    """A token's text, which may be that of an object that describes it."""
    token = token.get("content") if isinstance(token, Mapping) else token
    return config.expect(token, str, where)

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
    """The files of `KEPT` that are there. Raises DataError for one that is no JSON."""
    files = {}
    for name in KEPT:
        path = folder / name
        if path.is_file():
            files[name] = path.read_bytes()
            if name.endswith(".json"):
                _json(files, name, str(path))
    return files


def names(files: Mapping[str, bytes]) -> dict[str, str]:
    """Special tokens by their names in chat templates: `{"bos_token": "<s>", ...}`."""
    settings = {**_json(files, SPECIAL), **_json(files, CONFIG)}
    tokens = {f"{role}_token": settings.get(f"{role}_token") for role in ROLES}
    for name in ("extra_special_tokens", "model_specific_special_tokens"):
        if isinstance(settings.get(name), Mapping):
            tokens |= settings[name]
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
        tokens = []
        for i, token in config.expect(described, dict, where).items():
            config.expect(token, dict, f"{where}.{i}")
            flags = {k: v for k, v in token.items() if k in Added._fields[2:]}
            for name, value in flags.items():
                config.expect(value, bool, f"{where}.{i}.{name}")
            if not i.isdecimal():
                raise errors.ConfigError(f"{where}: {i!r:.60} is no token's number")
            tokens.append(Added(int(i), _content(token, f"{where}.{i}"), **flags))
        return sorted(tokens)
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
    ends = tuple(dict.fromkeys(_without_none([eos, *_ends(files)])))
    if wrong := [i for i in ends if not 0 <= i < size]:
        raise errors.ConfigError(
            f"tokenizer: {GENERATION} ends a text at {wrong}, where the tokenizer has "
            f"{size:,} tokens; mend eos_token_id there"
        )
    return ends


def end(
    files: Mapping[str, bytes], name: str | None, piece: Callable[[int], str | None]
) -> str | None:
    """The name of the token that ends a document: `name`, or that of the files."""
    if name or (name := names(files).get("eos_token")):
        return name
    ids = _ends(files)
    return piece(ids[0]) if ids else None


def _ends(files: Mapping[str, bytes]) -> list[int]:
    """The tokens that end a text by generation_config.json."""
    ids = _json(files, GENERATION).get("eos_token_id")
    ids = _without_none(ids if isinstance(ids, list) else [ids])
    return [config.expect(i, int, f"{GENERATION}.eos_token_id") for i in ids]


def _without_none(values: list) -> list:
    return [value for value in values if value is not None]


def _extra(files: Mapping[str, bytes]) -> list[str]:
    settings = {**_json(files, SPECIAL), **_json(files, CONFIG)}
    contents = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        tokens = settings.get(name) or []
        if isinstance(tokens, Mapping):
            tokens = list(tokens.values())
        config.expect(tokens, list, f"{CONFIG}.{name}")
        contents += [_content(token, f"{CONFIG}.{name}") for token in tokens]
    return contents


def _json(files: Mapping[str, bytes], name: str, path: str | None = None) -> dict:
    value = json_files.parse(files.get(name, b"{}"), path or name)
    return config.expect(value, dict, path or name)


def _content(token: Any, where: str) -> str:
    """A token's text, which may be that of an object that describes it."""
    token = token.get("content") if isinstance(token, Mapping) else token
    return config.expect(token, str, where)

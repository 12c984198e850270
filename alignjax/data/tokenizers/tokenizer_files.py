# SPDX-License-Identifier: Apache-2.0
"""The files beside a published tokenizer: names, added tokens, what ends a reply.

All of them are kept with the tokenizer, as they are, so that an export is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alignjax import config, errors
from alignjax.storage import filenames, json_files

CONFIG, GENERATION = "tokenizer_config.json", "generation_config.json"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"
KEPT = (
    *("tokenizer.json", "tokenizer.model", CONFIG, SPECIAL, ADDED, GENERATION),
    *("chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt"),
)
# Made here, there where it says more than the others: the ends that config.json of the
# model names, and the templates of TEMPLATE_FOLDER.
STOPS, TEMPLATES = "stop_ids.json", "additional_chat_templates.json"
TEMPLATE_FOLDER = "additional_chat_templates"
MODELS = frozenset({"tokenizer.json", "tokenizer.model"})
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


def read(path: str, model: str) -> dict[str, bytes]:
    """The tokenizer's model at a path, as the file `model`, and the files beside it.

    Those are the ones of `KEPT` that are there, with STOPS and TEMPLATES where they
    are due.

    Args:
      path: of the model, or of the folder in which it is called `model`.

    Raises:
      ConfigError: config.json names an end that is no token's number.
      DataError: there is no model; another file is no JSON, or a template no UTF-8.
    """
    file = filenames.expanded(path)
    file = file / model if file.is_dir() else file
    files = {}
    for name in KEPT:
        beside = file.with_name(name)
        if os.path.lexists(beside):  # a broken link or a FIFO is not overlooked
            files[name] = _content_of(beside)
            if name.endswith(".json"):
                _json(files, name, str(beside))
    beside = file.with_name("config.json")
    if os.path.lexists(beside):
        settings = json_files.parse(_content_of(beside), str(beside))
        config.expect(settings, dict, str(beside))
        ends = _ids(settings, str(beside))
        if isinstance(inner := settings.get("text_config"), Mapping):  # models that see
            ends += _ids(inner, str(beside))
        if ends:
            files[STOPS] = json.dumps({"eos_token_id": ends}).encode()
    templates = {}
    for beside in sorted((file.parent / TEMPLATE_FOLDER).glob("*.jinja")):
        try:
            templates[beside.stem] = _content_of(beside).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise errors.DataError(f"{beside}: {error}; save it as UTF-8") from error
    if templates:
        files[TEMPLATES] = json.dumps(templates).encode()
    return {**files, model: _content_of(file)}


def _content_of(path: Path) -> bytes:
    try:
        return filenames.read(path)
    except OSError as error:
        raise errors.DataError(f"tokenizer.path: {path}: {error.strerror}") from error


def without_idle_stops(
    files: Mapping[str, bytes], from_files: Callable[[Mapping[str, bytes]], Any]
) -> Any:
    """`from_files` of these, but for STOPS where the others name all of its ends.

    So the tokenizer of a folder is the same with and without a model beside it.
    """
    tok = from_files(files)
    others = {name: content for name, content in files.items() if name != STOPS}
    with contextlib.suppress(errors.ConfigError):  # where no other names an end
        if STOPS in files and (other := from_files(others)).stop_ids == tok.stop_ids:
            return other
    return tok


def additional_templates(files: Mapping[str, bytes]) -> dict[str, str]:
    """`{name: template}` of the folder of additional chat templates."""
    templates = _json(files, TEMPLATES)
    return {k: config.expect(v, str, f"{TEMPLATES}.{k}") for k, v in templates.items()}


def names(files: Mapping[str, bytes]) -> dict[str, str]:
    """Special tokens by their names in chat templates: `{"bos_token": "<s>", ...}`."""
    settings = _settings(files)
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
            if not i.isdecimal() or len(i) > 9:
                raise errors.ConfigError(f"{where}: {i!r:.60} is no token's number")
            tokens.append(Added(int(i), _content(token, f"{where}.{i}"), **flags))
        return sorted(tokens)
    special, tokens = {*names(files).values(), *_extra(files)}, []
    for content, i in _json(files, ADDED).items():
        i, silent = config.expect(i, int, f"{ADDED}.{content}"), content in special
        tokens.append(Added(i, content, silent, normalized=not silent))
    return sorted(tokens)


def adds_start(files: Mapping[str, bytes]) -> bool:
    """Whether the tokenizer of these files puts its start token before a text."""
    settings = _json(files, CONFIG)
    if settings.get("add_bos_token") is not None:
        return bool(settings["add_bos_token"])
    if "tokenizer.json" not in files:
        return "tokenizer.model" in files  # those of Llama and Gemma do
    token = settings.get("bos_token")
    token = token.get("content") if isinstance(token, Mapping) else token
    processor = _json(files, "tokenizer.json").get("post_processor")
    return token is not None and json.dumps(token) in json.dumps(processor)


def setting(files: Mapping[str, bytes], name: str) -> Any:
    """An entry of tokenizer_config.json, or None."""
    return _json(files, CONFIG).get(name)


def stop_ids(files: Mapping[str, bytes], eos: int | None, size: int) -> tuple[int, ...]:
    """The end of a document, then the others that files about the model name.

    Raises a ConfigError for one that is outside the vocabulary of `size`.
    """
    for name, file in ((GENERATION, GENERATION), (STOPS, "config.json")):
        ids = _ids(_json(files, name), file)
        if wrong := [i for i in ids if not 0 <= i < size]:
            raise errors.ConfigError(
                f"tokenizer: {file} ends a text at {wrong}, where the tokenizer has "
                f"{size:,} tokens; mend eos_token_id there"
            )
    ends = [] if eos is None else [eos]
    return tuple(dict.fromkeys([*ends, *_ends(files)]))


def end(
    files: Mapping[str, bytes], name: str | None, piece: Callable[[int], str | None]
) -> str | None:
    """The name of the token that ends a document: `name`, or that of the files."""
    if name or (name := names(files).get("eos_token")):
        return name
    ids = _ends(files)
    return piece(ids[0]) if ids else None


def _ends(files: Mapping[str, bytes]) -> list[int]:
    """The tokens that end a text by generation_config.json, then by config.json."""
    return [i for name in (GENERATION, STOPS) for i in _ids(_json(files, name), name)]


def _ids(settings: Mapping[str, Any], file: str) -> list[int]:
    """`eos_token_id` of the settings in a file: a number, several, or none."""
    ids = settings.get("eos_token_id")
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    where = f"{file}.eos_token_id"
    return [config.expect(i, int, where) for i in ids if i is not None]


def _settings(files: Mapping[str, bytes]) -> dict[str, Any]:
    return {**_json(files, SPECIAL), **_json(files, CONFIG)}


def _extra(files: Mapping[str, bytes]) -> list[str]:
    settings, contents = _settings(files), []
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

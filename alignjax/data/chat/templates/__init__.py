# SPDX-License-Identifier: Apache-2.0
"""Which chat template a format is: built in, the tokenizer's own, or a file.

The built-in ones are the `.jinja` files beside this one.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

from alignjax import config, errors, registry
from alignjax.data.tokenizers import base, tokenizer_files
from alignjax.storage import filenames, json_files

OWN = "tokenizer"  # the format of the template that came with the tokenizer
FILE, CONFIG = "chat_template.jinja", tokenizer_files.CONFIG
# The file of a tokenizer that keeps the template that a run learned, and its format.
KEPT = "alignjax_chat.json"
CONTROL = ("<system>", "<user>", "<assistant>", "<end>")  # of the world's dialogues


class BuiltIn(NamedTuple):
    """A format that comes with this package.

    Attributes:
      template: the name of its file.
      tokens: the control tokens that it needs, besides start and end.
      literal: whether what turns say is text whatever it spells, and no control token;
        turns are then texts of the system, the user and the assistant, in this order.
    """

    template: str
    tokens: tuple[str, ...] = ()
    literal: bool = False


BUILT_IN = {
    "roles": BuiltIn("world", CONTROL, literal=True),
    "chatml": BuiltIn("chatml", ("<|im_start|>", "<|im_end|>")),
    "gemma": BuiltIn("gemma", ("<start_of_turn>", "<end_of_turn>")),
    "llama3": BuiltIn(
        "llama3", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    ),
    "mistral": BuiltIn("mistral"),
    "world": BuiltIn("world", CONTROL),
}
OTHER = BuiltIn("")  # of the tokenizer, or of a file


def with_template(tok: base.Tokenizer, format: str | None) -> base.Tokenizer:
    """The tokenizer with the template of this format among its files.

    So a run can be read where the path is gone or the built-in one has changed, and
    what depends on the tokenizer depends on the template. Formats that are literal
    never change, and the tokenizer's own is there. ConfigError if there is none.
    """
    if format in (None, OWN) or BUILT_IN.get(format, OTHER).literal:
        return tok
    try:
        template = _read(format)
    except errors.ConfigError:
        if _kept(tok).get("format") == format:  # as the run before read it
            return tok
        raise
    content = json.dumps({"format": format, "template": template}).encode()
    return tok._replace(files={**tok.files, KEPT: content})


def find(tok: base.Tokenizer, format: str, *, tools: bool = False) -> str:
    """The template of a format, or of its dialogues with tools; else ConfigError."""
    if format == OWN:
        return _own(tok, tools)
    kept = _kept(tok)
    return kept["template"] if kept.get("format") == format else _read(format)


def encoding(tok: base.Tokenizer) -> str:
    """A sha256; equal for tokenizers that make the same tokens of any text.

    Another template, or other stops, change neither tokens nor what they stand for.
    """
    ignored = {tokenizer_files.GENERATION, tokenizer_files.STOPS, KEPT}
    ignored.add(tokenizer_files.TEMPLATES)
    matters = lambda n: n not in ignored and not n.startswith("chat_template.")
    files = {name: file for name, file in tok.files.items() if matters(name)}
    return tok._replace(files=files).identity


def has_own(tok: base.Tokenizer) -> bool:
    """Whether a template came with the tokenizer, sound or not."""
    files = {FILE, tokenizer_files.TEMPLATES}
    return not files.isdisjoint(tok.files) or bool(
        tokenizer_files.setting(tok.files, "chat_template")
    )


@functools.cache
def sources() -> frozenset[str]:
    """The built-in templates."""
    return frozenset(map(_source, BUILT_IN.values()))


def _source(entry: BuiltIn) -> str:
    return Path(__file__).with_name(f"{entry.template}.jinja").read_text("utf-8")


def _kept(tok: base.Tokenizer) -> dict[str, str]:
    return json_files.parse(tok.files.get(KEPT, b"{}"), KEPT, dict)


def _read(format: str) -> str:
    if format in BUILT_IN:
        return _source(BUILT_IN[format])
    path = filenames.expanded(format)
    if path.suffix != ".jinja":
        remedy = registry.closest(format, [*BUILT_IN, OWN])
        raise errors.ConfigError(
            f"data.chat: {format!r} is no format nor path of a .jinja file; {remedy}"
        )
    try:
        return filenames.read(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"data.chat: {format}: {error}") from error


def _own(tok: base.Tokenizer, tools: bool) -> str:
    """As transformers chooses: files win over entries, "tool_use" is for tools."""
    where = f"{CONFIG}.chat_template"
    by_name = tokenizer_files.additional_templates(tok.files)
    if FILE in tok.files:
        try:
            by_name["default"] = tok.files[FILE].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise errors.ConfigError(f"{FILE}: {error}; save it as UTF-8") from error
    else:
        setting = tokenizer_files.setting(tok.files, "chat_template")
        several = setting if isinstance(setting, list) else []
        entries = {} if several or setting is None else {"default": setting}
        for entry in several:
            entry = config.expect(entry, dict, where)
            name = config.expect(entry.get("name"), str, where)
            entries[name] = entry.get("template")
        by_name = entries | by_name
    template = (by_name.get("tool_use") if tools else None) or by_name.get("default")
    if not template:
        places = f"neither {FILE} nor chat_template in {CONFIG} has one"
        names = ", ".join(map(repr, by_name))
        others = by_name and "default" not in by_name
        raise errors.ConfigError(
            'data.chat: "tokenizer": the tokenizer came with no template: '
            f"{f'none is named default, but {names}' if others else places}; take "
            f"one of {', '.join(BUILT_IN)}, or a .jinja file"
        )
    return config.expect(template, str, where)

# SPDX-License-Identifier: Apache-2.0
"""Where the chat template of a format is: built in, the tokenizer's own, or a file.

The built-in ones are the `.jinja` files beside this one.
"""

from __future__ import annotations

import json
from pathlib import Path

from alignjax import config, errors, registry
from alignjax.data.tokenizers import base, tokenizer_files

OWN = "tokenizer"  # the format of the template that came with the tokenizer
FILE, CONFIG = "chat_template.jinja", tokenizer_files.CONFIG
_TEMPLATE = f"{CONFIG}.chat_template"
# The file of a tokenizer that keeps the template that a run learned, and its format.
KEPT = "alignjax_chat.json"
# The control tokens that built-in ones need, besides start and end.
NEEDED = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "world": ("<system>", "<user>", "<assistant>", "<end>"),
}


def names() -> list[str]:
    """The built-in ones."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.jinja"))


def keep(tok: base.Tokenizer, format: str | None) -> base.Tokenizer:
    """The tokenizer with the template of this format among its files.

    So a run can be read where the path is gone or the built-in one has changed, and
    what depends on the tokenizer depends on the template. The formats "roles" and
    "tokenizer" need nothing more.

    Raises:
      ConfigError: there is no such template.
    """
    if format in (None, "roles", OWN):
        return tok
    try:
        template = _named(format)
    except errors.ConfigError:
        before = json.loads(tok.files.get(KEPT, b"{}"))
        if before.get("format") == format:  # as the run before read it
            return tok
        raise
    kept = json.dumps({"format": format, "template": template}).encode()
    return tok._replace(files={**tok.files, KEPT: kept})


def kept(tok: base.Tokenizer) -> str | None:
    """The template that a run learned, where that is not the tokenizer's own."""
    found = tok.files.get(KEPT)
    return None if found is None else json.loads(found)["template"]


def find(tok: base.Tokenizer, format: str, *, tools: bool = False) -> str:
    """The template of a format.

    Args:
      tools: whether it is for a dialogue with tools; some tokenizers have one for it.

    Raises:
      ConfigError: there is none.
    """
    if format == OWN:
        return _own(tok, tools)
    if KEPT in tok.files:
        found = json.loads(tok.files[KEPT])
        if found["format"] == format:
            return found["template"]
    return _named(format)


def there(tok: base.Tokenizer) -> bool:
    """Whether a template came with the tokenizer, sound or not."""
    return FILE in tok.files or bool(
        tokenizer_files.setting(tok.files, "chat_template")
    )


def _named(format: str) -> str:
    if format in names():
        return Path(__file__).with_name(f"{format}.jinja").read_text("utf-8")
    path = Path(format).expanduser()
    if path.suffix != ".jinja":
        known = ["roles", OWN, *names()]
        remedy = registry.closest(format, known)
        raise errors.ConfigError(
            f"data.chat: {format!r} is not one of {', '.join(known)}, nor the path of "
            f"a .jinja file; {remedy}"
        )
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"data.chat: {format}: {error}") from error


def _own(tok: base.Tokenizer, tools: bool) -> str:
    if FILE in tok.files:
        try:
            return tok.files[FILE].decode()
        except UnicodeDecodeError as error:
            raise errors.ConfigError(f"{FILE}: {error}; save it as UTF-8") from error
    found, where = tokenizer_files.setting(tok.files, "chat_template"), _TEMPLATE
    if isinstance(found, list):  # several, by name
        entries = [config.expect(entry, dict, where) for entry in found]
        name = lambda entry: config.expect(entry.get("name"), str, where)
        several = {name(entry): entry.get("template") for entry in entries}
        found = several.get("tool_use") if tools else None
        found = found or several.get("default")
    if found:
        config.expect(found, str, where)
    else:
        raise errors.ConfigError(
            'data.chat: "tokenizer", but the tokenizer came with no template: there is '
            f"neither {FILE} nor chat_template in {CONFIG}; say one of "
            f"{', '.join(names())}, or the path of a .jinja file"
        )
    return found

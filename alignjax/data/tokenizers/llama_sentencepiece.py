# SPDX-License-Identifier: Apache-2.0
"""SentencePiece models as published folders mean them: Llama's and Gemma's conventions.

A `.model` alone is read as its library reads it. With a tokenizer_config.json beside it
the ids are those of transformers: tokens are added to the vocabulary, and a space goes
before a text where the model was trained with one (Llama; not Gemma), unless the text
begins with one. `legacy` puts it after every special token as well, and
`add_prefix_space` may leave it out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from alignjax import errors
from alignjax.data.tokenizers import base, special_tokens, tokenizer_files

MODEL = "tokenizer.model"
SPACE = "\u2581"  # how sentencepiece writes a space
# Appended to a serialized model, of which later fields count: normalizer_spec (3) with
# add_dummy_prefix (3) false.
NO_PREFIX = b"\x1a\x02\x18\x00"
NEVER, FIRST, ALWAYS = "never", "first", "always"


def from_files(
    load: Callable[[bytes], object], content: bytes, files: Mapping[str, bytes]
) -> base.Tokenizer:
    """The tokenizer of a model and what is beside it.

    Args:
      load: bytes to the library's model.

    Raises:
      ConfigError: added tokens that do not fit the model, or ends that it lacks.
    """
    own, model = load(content), load(content + NO_PREFIX)
    described = tokenizer_files.CONFIG in files
    prefix = _prefix(own, model, files)
    pieces = model.vocab_size()
    added = _added(own, files)
    names = _names(own, files)
    ids = {token.content: token.id for token in added}
    control = {model.id_to_piece(i): i for i in range(pieces) if model.is_control(i)}
    control |= {token.content: token.id for token in added if token.special}
    bos, eos = (_id(own, ids, names.get(f"{role}_token")) for role in ("bos", "eos"))
    control |= {names["eos_token"]: eos} if eos is not None else {}
    size = max([pieces - 1, *ids.values()]) + 1
    base.check_size(size)
    token_bytes = np.zeros(size, np.int32)
    token_bytes[:pieces] = [piece_bytes(model, i) for i in range(pieces)]
    token_bytes[list(ids.values())] = [len(name.encode()) for name in ids]
    token_bytes[list(control.values())] = 0
    symbols = {token.content: token for token in added if not token.special}
    spelt = dict(control)
    if described:
        spelt |= {name: _id(own, ids, name) for name in names.values()}
    special = symbols | {
        name: tokenizer_files.Added(i, name, special=True)
        for name, i in spelt.items()
        if i is not None
    }
    special |= {token.content: token for token in added}

    # Pieces that the model finds in any text, though they are control tokens.
    loud = [
        name for name, i in control.items() if i < pieces and not model.is_control(i)
    ]

    def encode(
        text: str, tokens: Mapping[str, tokenizer_files.Added]
    ) -> special_tokens.Placed:
        rows = []
        for start, stop, token in _cut(text, tokens):
            if token is not None:
                rows.append(([token.id], [start], [stop]))
                continue
            put = prefix == ALWAYS or (prefix == FIRST and start == 0)
            for part in _broken(text[start:stop], loud):
                put = put and not (described and part.startswith((" ", SPACE)))
                rows.append(_placed(model, part, put, start))
                start, put = start + len(part), False
        columns = zip(*rows, strict=True) if rows else ([], [], [])
        flat = [np.array([x for row in column for x in row], int) for column in columns]
        return special_tokens.Placed(*flat)

    def decode(tokens: Iterable[int]) -> str:
        text, plain, by_id = "", [], {i: name for name, i in ids.items()}
        silent = set(control.values())
        for i in [*map(int, tokens), -1]:
            if i in by_id or i < 0:
                text += model.decode(plain)
                plain = []
                text += "" if i < 0 or i in silent else by_id[i]
            elif i not in silent:
                plain.append(i)
        return text if prefix == NEVER else text.removeprefix(" ")

    return base.Tokenizer(
        kind="sentencepiece",
        files=dict(files),
        vocab_size=size,
        bos_id=bos,
        eos_id=eos,
        control=control,
        token_bytes=token_bytes,
        encode_batch=lambda texts: [encode(text, symbols).ids for text in texts],
        decode=decode,
        names=names,
        stop_ids=tokenizer_files.stop_ids(files, eos, size),
        encode_placed=lambda texts: [encode(text, special) for text in texts],
        unknown_id=unknown_id(model),
    )


def _prefix(own, model, files: Mapping[str, bytes]) -> str:
    """Before which texts a space goes."""
    put = own.encode("a", out_type=str) != model.encode("a", out_type=str)
    if tokenizer_files.CONFIG not in files:
        return ALWAYS if put else NEVER
    gemma = str(tokenizer_files.setting(files, "tokenizer_class")).startswith("Gemma")
    if not put or gemma or tokenizer_files.setting(files, "add_prefix_space") is False:
        return NEVER
    return ALWAYS if tokenizer_files.setting(files, "legacy") else FIRST


def _added(model, files: Mapping[str, bytes]) -> list[tokenizer_files.Added]:
    """The tokens that are found before the model reads a text."""
    size = model.vocab_size()
    tokens = {token.id: token for token in tokenizer_files.added(files)}
    problems = []
    for i, token in tokens.items():
        if i < size and model.id_to_piece(i) != token.content:
            problems.append(f"{i} is {token.content!r}, and {model.id_to_piece(i)!r}")
        if token.single_word:
            problems.append(
                f"{token.content!r} has single_word, which is not supported"
            )
    beyond = [i for i in sorted(tokens) if i >= size]
    if beyond != list(range(size, size + len(beyond))):
        problems.append(f"added ids {beyond[:5]} do not follow the {size} of the model")
    if problems:
        raise errors.ConfigError(
            f"tokenizer: {MODEL} and the tokens that the files beside it add do not go "
            f"together: {'; '.join(problems)}"
        )
    return [tokens[i] for i in sorted(tokens)]


def _names(model, files: Mapping[str, bytes]) -> dict[str, str]:
    """Special tokens by their names in chat templates."""
    ends = {"bos": model.bos_id(), "eos": model.eos_id(), "unk": model.unk_id()}
    own = {f"{k}_token": model.id_to_piece(i) for k, i in ends.items() if i >= 0}
    return own | tokenizer_files.names(files)


def _id(model, added: Mapping[str, int], name: str | None) -> int | None:
    """The id of a token, if there is one of this name."""
    if name is None or name in added:
        return added.get(name)
    piece = model.piece_to_id(name)
    return piece if model.id_to_piece(piece) == name else None


def _cut(text: str, tokens: Mapping[str, tokenizer_files.Added]):
    """(start, stop, token or None) of the parts of a text, in order."""
    if not tokens:
        return [(0, len(text), None)] if text else []
    pattern = _pattern(tuple(sorted(tokens.values(), key=lambda t: -len(t.content))))
    parts, at = [], 0
    for match in pattern.finditer(text):
        token = tokens[match[0] if match[0] in tokens else match[0].strip()]
        if match.start() > at:
            parts.append((at, match.start(), None))
        parts.append((match.start(), match.end(), token))
        at = match.end()
    return parts + ([(at, len(text), None)] if at < len(text) else [])


def _pattern(tokens: Sequence[tokenizer_files.Added]) -> re.Pattern:
    space = ("", r"\s*")
    return re.compile(
        "|".join(
            space[t.lstrip] + re.escape(t.content) + space[t.rstrip] for t in tokens
        )
    )


def _broken(text: str, names: Sequence[str]) -> list[str]:
    """The text in parts, none of which has one of the names."""
    if not any(name in text for name in names):
        return [text]
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    places = [match.start() + 1 for match in re.finditer(pattern, text)]
    return [text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])]


def _placed(model, text: str, put: bool, at: int):
    """(ids, starts, stops) of a text without added tokens, that begins at `at`."""
    whole = f" {text}" if put else text
    ids, names = model.encode(whole), model.encode(whole, out_type=str)
    starts, stops, waiting, done = [], [], b"", 0
    for i, name in zip(ids, names, strict=True):
        if model.is_byte(i):
            waiting += bytes([int(name[3:-1], 16)])
            starts.append(done)
            stops.append(done + 1)  # the bytes of a character all have it
            done += _complete(waiting)
            waiting = b"" if _complete(waiting) else waiting
        else:
            starts.append(done)
            done += len(name)
            stops.append(done)
    if put and text and stops[0] == 1:
        stops[0] = 2  # a space that is put before a text belongs to its first character
    place = lambda places: (np.array(places, int) + at - put).clip(at, at + len(text))
    return ids, place(starts), place(stops)


def _complete(content: bytes) -> bool:
    """Whether these bytes are a character."""
    try:
        return bool(content.decode())
    except UnicodeDecodeError:
        return False


def piece_bytes(model, token: int) -> int:
    """How many bytes of text a piece stands for."""
    if model.is_control(token):
        return 0
    if model.is_byte(token) or model.is_unknown(token):
        return 1
    return len(model.id_to_piece(token).replace(SPACE, " ").encode())


def unknown_id(model) -> int | None:
    """The id of text that has no pieces; None if that is spelt in bytes."""
    spelt = (model.piece_to_id(f"<0x{byte:02X}>") for byte in range(256))
    return None if all(map(model.is_byte, spelt)) else model.unk_id()

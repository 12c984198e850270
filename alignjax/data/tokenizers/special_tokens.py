# SPDX-License-Identifier: Apache-2.0
"""Text in which special tokens are spelt out, as chat templates write it, to tokens.

Elsewhere text never spells a control token; here the text is a template's, so those
that it spells are meant.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data.tokenizers import base


class Placed(NamedTuple):
    """The tokens of a text and where in it they are, all int64 [n].

    Attributes:
      ids: of the tokens.
      starts, stops: characters; a token that stands for none has `start == stop`, and
        those that share one character all have it.
    """

    ids: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    def between(self, start: int, stop: int) -> tuple[int, int]:
        """The first of the tokens that have a part in these characters, and the end."""
        inside = np.flatnonzero((self.starts < stop) & (self.stops > start))
        return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)


def ids_by_name(tok: base.Tokenizer) -> dict[str, int]:
    """The special tokens by how templates spell them."""
    ends = (("bos_token", tok.bos_id), ("eos_token", tok.eos_id))
    ids = {tok.names[k]: i for k, i in ends if i is not None and k in tok.names}
    return ids | dict(tok.control)


def pattern(names: Sequence[str]) -> re.Pattern:
    """Finds any of these names; where several begin at one place, the longest."""
    longest_first = sorted(filter(None, names), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def encode(tok: base.Tokenizer, texts: Sequence[str]) -> list[Placed]:
    """The tokens of texts, the special ones that they spell among them.

    Raises a DataError where the tokenizer cannot spell a text.
    """
    if tok.encode_placed is not None:
        return tok.encode_placed(texts)
    special = ids_by_name(tok)
    rows = _pieces(texts, special)
    pieces = [piece for row in rows for piece in row]
    ids, counts = _encoded(tok, pieces, special)
    sizes = np.asarray(tok.token_bytes[ids], np.int64)
    expected = np.array([len(piece.encode()) for piece in pieces], np.int64)
    named = np.array([piece in special for piece in pieces], bool)
    first = np.cumsum(counts) - counts  # token of each piece
    sizes[first[named]] = expected[named]
    ends = np.cumsum(sizes)
    before = np.concatenate([[0], ends])
    wrong = np.flatnonzero(before[first + counts] - before[first] != expected)
    if len(wrong):
        piece = pieces[wrong[0]]
        if tok.unknown_id in ids[first[wrong[0]] :][: counts[wrong[0]]]:
            raise errors.DataError(
                f"the tokenizer cannot spell all of {piece!r:.40}; take one that "
                "spells in bytes what it has no pieces for"
            )
        raise ValueError(f"the tokens of {piece!r:.40} do not have its bytes")
    content = np.frombuffer("".join(texts).encode(), np.uint8)
    characters = np.cumsum((content & 0xC0) != 0x80) - 1  # the character of each byte
    starts, stops = characters[ends - sizes], characters[ends - 1] + 1
    return _by_text(texts, rows, counts, ids, starts, stops)


def encode_pieces(
    tok: base.Tokenizer, texts: Sequence[str], special: Mapping[str, int]
) -> list[Placed]:
    """The same, but for these special tokens alone; a token has the place of its piece.

    Pieces are what is between special tokens. In them, U+0000 is nothing: it parts a
    name that is not meant.
    """
    rows = _pieces(texts, special)
    pieces = [piece for row in rows for piece in row]
    ids, counts = _encoded(tok, pieces, special)
    lengths = np.array(list(map(len, pieces)), np.int64)
    stops = np.cumsum(lengths)
    places = (np.repeat(at, counts) for at in (stops - lengths, stops))
    return _by_text(texts, rows, counts, ids, *places)


def _pieces(texts: Sequence[str], special: Mapping[str, int]) -> list[list[str]]:
    """The pieces of each text, each a special token or free of them."""
    names = re.compile(f"({pattern(list(special)).pattern})")
    return [[piece for piece in names.split(text) if piece] for text in texts]


def _encoded(
    tok: base.Tokenizer, pieces: Sequence[str], special: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The ids of all pieces, int64, and how many each has."""
    plain = list(dict.fromkeys(piece for piece in pieces if piece not in special))
    encoded = tok.encode_batch([piece.replace("\0", "") for piece in plain])
    by_piece = {name: np.array([i]) for name, i in special.items()}
    by_piece |= {k: np.asarray(ids, int) for k, ids in zip(plain, encoded, strict=True)}
    rows = [by_piece[piece] for piece in pieces]
    ids = np.concatenate([np.zeros(0, np.int64), *rows])
    return ids.astype(np.int64), np.array(list(map(len, rows)), np.int64)


def _by_text(texts, rows, counts, ids, starts, stops) -> list[Placed]:
    """The tokens of all texts together, by text; places begin anew in each."""
    tokens = np.concatenate([[0], np.cumsum(counts)])
    pieces = np.cumsum([0, *map(len, rows)])
    placed, at = [], 0
    bounds = itertools.pairwise(tokens[pieces].tolist())
    for text, (first, last) in zip(texts, bounds, strict=True):
        inside = slice(first, last)
        placed.append(Placed(ids[inside], starts[inside] - at, stops[inside] - at))
        at += len(text)
    return placed

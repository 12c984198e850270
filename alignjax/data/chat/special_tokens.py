# SPDX-License-Identifier: Apache-2.0
"""Text in which special tokens are spelt out, as chat templates write it, to tokens.

Elsewhere text never spells a control token; here the text is a template's, so those
that it spells are meant. What a turn says is looked at before: see `fault_of_text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data.tokenizers import base


class Marked(NamedTuple):
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


def marks(tok: base.Tokenizer) -> dict[str, int]:
    """The special tokens by how templates spell them."""
    named = {"bos_token": tok.bos_id, "eos_token": tok.eos_id}
    found = {
        tok.names[name]: i
        for name, i in named.items()
        if i is not None and name in tok.names
    }
    return found | dict(tok.control)


def encode(tok: base.Tokenizer, texts: Sequence[str]) -> list[Marked]:
    """The tokens of texts, the special ones that they spell among them."""
    if tok.encode_marked is not None:
        return [Marked(*map(np.asarray, row)) for row in tok.encode_marked(texts)]
    special = marks(tok)
    pieces = [split(text, special) for text in texts]
    plain = [piece for row in pieces for piece in row if piece not in special]
    said = iter(tok.encode_batch(plain))
    rows = []
    for row in pieces:
        ids, starts, stops, at = [], [], [], 0
        for piece in row:
            if piece in special:
                found = Marked(*map(np.array, ([special[piece]], [0], [len(piece)])))
            else:
                found = _placed(tok, piece, np.asarray(next(said), np.int64))
            ids.append(found.ids)
            starts.append(found.starts + at)
            stops.append(found.stops + at)
            at += len(piece)
        nothing = np.zeros(0, np.int64)
        rows.append(
            Marked(*(np.concatenate([nothing, *x]) for x in (ids, starts, stops)))
        )
    return rows


def split(text: str, special: Mapping[str, int]) -> list[str]:
    """The text in pieces, each a special token or free of them; the longest wins."""
    if not special:
        return [text] if text else []
    names = sorted(special, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, names))})", text)
    return [piece for piece in pieces if piece]


def _placed(tok: base.Tokenizer, text: str, ids: np.ndarray) -> Marked:
    """Where tokens are, by the bytes that each stands for."""
    ends = np.cumsum(tok.token_bytes[ids])
    if len(ids) and ends[-1] != len(text.encode()):
        if tok.unknown_id in ids:
            raise errors.DataError(
                f"the tokenizer cannot spell all of {text!r:.40}; take one that spells "
                "in bytes what it has no pieces for"
            )
        raise ValueError(f"the tokens of {text!r:.40} do not have its bytes")
    of_byte = np.repeat(np.arange(len(text)), [len(c.encode()) for c in text])
    starts = ends - tok.token_bytes[ids]
    return Marked(ids, of_byte[starts], of_byte[ends - 1] + 1)


def fault_of_text(text: str, special: Iterable[str]) -> str | None:
    """Why a turn may not say this, or None if it may."""
    for name in special:
        if name in text:
            return (
                f"it spells the control token {name!r}, which would be taken for one; "
                "take it out"
            )
    return None

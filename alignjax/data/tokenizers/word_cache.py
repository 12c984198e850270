# SPDX-License-Identifier: Apache-2.0
"""A cache of the tokens of words: several times the speed of sentencepiece.

Where no token reaches from one word into the next, the words of a text can be tokenised
one by one, and most have been met before.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

SPACE = "\u2581"  # how sentencepiece writes a space

# ASCII letters, digits and signs do not join one another in a word, others join all. A
# word has the spaces before it; newlines, tabs and U+2581 stand alone.
_ASCII = "(?:[A-Za-z]+|[0-9]+|[^ \n\tA-Za-z0-9\x80-\U0010ffff]+)"
_OTHERS = f"[^\x00-\x7f{SPACE}]+"
WORD = re.compile(
    f"[\n\t{SPACE}]| *(?:{_ASCII}(?:{_OTHERS}{_ASCII}?)*|(?:{_OTHERS}{_ASCII}?)+)| +"
)

MOST_WORDS = 200_000  # some tens of megabytes
LONGEST = 64


class Memory(dict):
    """A dict that computes what it lacks, and starts anew when it is full."""

    def __init__(self, function: Callable[[str], list[int]]):
        super().__init__()
        self.function = function

    def __missing__(self, word: str) -> list[int]:
        ids = self.function(word)
        if len(word) <= LONGEST:
            if len(self) >= MOST_WORDS:
                self.clear()
            self[word] = ids
        return ids


def independent(pieces: Iterable[str]) -> bool:
    """Whether none of the tokens, as sentencepiece writes them, is of two words."""
    return all(WORD.fullmatch(piece.replace(SPACE, " ")) for piece in pieces)


def encoder(
    encode: Callable[[str], list[int]], special: dict[str, list[int]]
) -> Callable[[Sequence[str]], list[np.ndarray]]:
    """`encode_batch` by words; those of `special` are not left to `encode`."""
    memory = Memory(lambda word: special.get(word) or encode(word))

    def encode_batch(texts: Sequence[str]) -> list[np.ndarray]:
        rows = (map(memory.__getitem__, WORD.findall(text)) for text in texts)
        flat = itertools.chain.from_iterable
        return [np.fromiter(flat(words), np.int32) for words in rows]

    return encode_batch

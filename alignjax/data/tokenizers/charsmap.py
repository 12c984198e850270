# SPDX-License-Identifier: Apache-2.0
"""Whether a tokenizer.json reads every character; the program of a worker.

Its table of characters, `precompiled_charsmap`, is not checked by the library, which
panics in the midst of a text. So all characters are read once where that does no harm.
"""

from __future__ import annotations

import os

SURROGATES = range(0xD800, 0xE000)
END = 0x30000  # of the planes that have letters


def answer(content: str) -> str | None:
    """What is wrong with a tokenizer.json, or None."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a panic writes pages
    import tokenizers

    try:
        normalizer = tokenizers.Tokenizer.from_str(content).normalizer
        for start in range(1, END, 256):
            block = (i for i in range(start, start + 256) if i not in SURROGATES)
            normalizer.normalize_str("".join(map(chr, block)))
    except BaseException as error:  # a panic is no Exception
        return f"{type(error).__name__}: {error}"[:200]
    return None

# SPDX-License-Identifier: Apache-2.0
"""Token ids as texts, and a tokenizer that reads them as these ids again.

TRL's trainers take texts. The word for the id 17 is "w17", so that what they tokenise
is what the other side was given.
"""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
import transformers

PAD, END = "<pad>", "<end>"


def tokenizer(vocab_size: int, end: int, pad: int = 0):
    """Words to the ids that they name, for ids below `vocab_size`.

    Args:
      vocab_size: how many there are.
      end: the id that ends responses.
      pad: the id of padding, which no text has.
    """
    words = {f"w{i}": i for i in range(vocab_size) if i not in (end, pad)}
    words |= {PAD: pad, END: end}
    whole = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=PAD))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=whole, eos_token=END, pad_token=PAD
    )


def text(ids: Iterable[int], end: int) -> str:
    """What the tokenizer reads as these ids; words end in a space."""
    return "".join(END if i == end else f"w{i} " for i in ids)

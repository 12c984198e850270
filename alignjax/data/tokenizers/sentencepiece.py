# SPDX-License-Identifier: Apache-2.0
"""SentencePiece models, trained on the corpus or read from a .model file.

A trained model keeps text as it is: no normalisation, no space put before or taken
away, newlines and tabs as tokens of their own, so decoding undoes encoding; without
`byte_fallback` of all but what becomes the unknown token. How models from elsewhere are
read is in `llama_sentencepiece`.

Where no token of a trained model reaches from one word into the next, the words of a
text are tokenised one by one and remembered: several times the library's speed.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from alignjax import errors
from alignjax.data.tokenizers import base, llama_sentencepiece, tokenizer_files
from alignjax.data.tokenizers.llama_sentencepiece import SPACE

TRAINED = True
OPTIONS = ("path", "vocab_size", "model_type", "byte_fallback", "control_tokens")
OPTIONS += ("train_bytes",)  # of the config, besides its kind
MODEL = "sentencepiece.model"
TRAINING = "training.json"  # there for models that were trained here

# Training reads the corpus in lines of at most so many characters.
LINE_CHARACTERS = 4096
BREAKS = re.compile("[\n\t\u2581]+")

# ASCII letters, digits and signs do not join one another in a word, others join all. A
# word has the spaces before it; newlines, tabs and U+2581 stand alone.
_ASCII = "(?:[A-Za-z]+|[0-9]+|[^ \n\tA-Za-z0-9\x80-\U0010ffff]+)"
_OTHERS = f"[^\x00-\x7f{SPACE}]+"
WORD = re.compile(
    f"[\n\t{SPACE}]| *(?:{_ASCII}(?:{_OTHERS}{_ASCII}?)*|(?:{_OTHERS}{_ASCII}?)+)| +"
)

MOST_WORDS = 200_000  # some tens of megabytes
LONGEST = 64


def make(cfg: base.TokenizerConfig, texts: Iterator[str]) -> dict[str, bytes]:
    """The files of a tokenizer: a model trained on `texts`, or `tokenizer_files.read`.

    Raises a ConfigError where the corpus cannot fill the vocabulary, or overfills it.
    """
    if cfg.path is not None:
        return tokenizer_files.read(cfg.path, llama_sentencepiece.MODEL)
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            model_type=cfg.model_type,
            vocab_size=cfg.vocab_size,
            byte_fallback=cfg.byte_fallback,
            character_coverage=0.9995 if cfg.byte_fallback else 1.0,
            control_symbols=list(cfg.control_tokens),
            user_defined_symbols=["\n", "\t"],
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            max_sentence_length=4 * LINE_CHARACTERS,
            num_threads=4,  # fixed: unigram's sums depend on it
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2].strip() or error
        raise errors.ConfigError(
            f"tokenizer.vocab_size: {cfg.vocab_size} tokens cannot be learned from "
            f"this corpus; change it as sentencepiece asks: {reason}"
        ) from error
    training = {"model_type": cfg.model_type, "trained_by": sentencepiece.__version__}
    return {MODEL: model.getvalue(), TRAINING: json.dumps(training).encode()}


def from_files(files: Mapping[str, bytes]) -> base.Tokenizer:
    """The tokenizer of these files; a DataError if they have no model."""
    if TRAINING not in files:
        content = files.get(llama_sentencepiece.MODEL, files.get(MODEL))
        return llama_sentencepiece.from_files(_load, content, files)
    model = _load(files[MODEL])
    size = model.vocab_size()
    control = {model.id_to_piece(i): i for i in range(size) if model.is_control(i)}
    silent = set(control.values())

    def decode(ids: Iterable[int]) -> str:
        return model.decode([i for i in map(int, ids) if i not in silent])

    return base.Tokenizer(
        kind="sentencepiece",
        files=dict(files),
        vocab_size=size,
        bos_id=model.bos_id() if model.bos_id() >= 0 else None,
        eos_id=model.eos_id() if model.eos_id() >= 0 else None,
        control=control,
        token_bytes=np.array(
            [llama_sentencepiece.piece_bytes(model, i) for i in range(size)], np.int32
        ),
        encode_batch=_encoder(model),
        decode=decode,
        names=base.NAMES,
        stop_ids=(model.eos_id(),) if model.eos_id() >= 0 else (),
        unknown_id=llama_sentencepiece.unknown_id(model),
    )


def _load(content: bytes):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(content)
    except RuntimeError as error:
        raise errors.DataError(
            "not a sentencepiece model; name a .model file"
        ) from error
    return model


def _encoder(model):
    """`encode_batch` of a model that was trained here, as fast as it allows.

    The library reads U+2581 as a space; here it is spelt in bytes, so that it survives,
    or is unknown where there are no bytes to spell it in.
    """
    underline = [model.piece_to_id(f"<0x{b:02X}>") for b in SPACE.encode()]
    if not all(map(model.is_byte, underline)):
        underline = [model.unk_id()]
    others = (model.is_byte, model.is_control, model.is_unknown)
    ids = (i for i in range(model.vocab_size()) if not any(f(i) for f in others))
    flat = itertools.chain.from_iterable
    if independent(map(model.id_to_piece, ids)):
        memory = Memory(lambda word: underline if word == SPACE else model.encode(word))
        words = lambda text: map(memory.__getitem__, WORD.findall(text))
        return lambda texts: [np.fromiter(flat(words(t)), np.int32) for t in texts]

    def encode(text: str) -> list[int]:
        first, *rest = model.encode(text.split(SPACE))
        return [*first, *flat(underline + ids for ids in rest)]

    return lambda texts: [encode(text) for text in texts]


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


def _lines(texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        for line in BREAKS.split(text):
            for start in range(0, len(line), LINE_CHARACTERS):
                yield line[start : start + LINE_CHARACTERS]

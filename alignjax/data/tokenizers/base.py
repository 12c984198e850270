# SPDX-License-Identifier: Apache-2.0
"""One interface over the kinds of tokenizers: trained, loaded, saved, reopened.

A tokenizer is a kind and the bytes of its files; everything else follows from these.
To add a kind, write `alignjax/data/tokenizers/<kind>.py` with two functions:
`make(config, texts) -> files` and `from_files(files) -> Tokenizer`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from alignjax import bounds, errors, registry
from alignjax.data import records, sources
from alignjax.data.tokenizers import tokenizer_files
from alignjax.storage import atomic, filenames, json_files

FORMAT = 1
Kind = Literal["bytes", "chars", "huggingface", "sentencepiece"]
KINDS = get_args(Kind)  # a module of this folder each
MANIFEST = "alignjax_tokenizer.json"
SURROGATE = re.compile("[\ud800-\udfff]")
MAX_TOKENS = 2**24  # whatever ids a file has; the largest vocabularies have 2**18
# How templates spell start and end where a kind has no names for them.
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """The section `tokenizer` of a config.

    Attributes:
      kind: "bytes"; "chars", the characters of the corpus and no others;
        "sentencepiece", trained on the corpus or read from `path`; "huggingface", a
        tokenizer.json read from `path`.
      path: a model to read instead of training one.
      vocab_size: how many tokens a trained sentencepiece model has, all included.
      model_type: of a trained sentencepiece model, "bpe" or "unigram".
      byte_fallback: whether what a trained model has no piece for is spelt in bytes, so
        that any text can be written; otherwise it becomes the unknown token.
      control_tokens: tokens that no text can spell, such as "<user>"; their ids are in
        `Tokenizer.control`. Not for models read from `path`, which have their own.
      eos_token: the token that ends a document, where a tokenizer.json does not tell.
      train_bytes: about how much of a larger corpus a model is trained on.
    """

    kind: Kind = "sentencepiece"
    path: str | None = None
    vocab_size: bounds.Size = 4096
    model_type: Literal["bpe", "unigram"] = "bpe"
    byte_fallback: bool = True
    control_tokens: tuple[str, ...] = ()
    eos_token: str | None = None
    train_bytes: bounds.Count = 32_000_000

    def __post_init__(self):
        problems = []
        if self.path is not None and self.kind in ("bytes", "chars"):
            problems.append(f"path: {self.kind} tokenizers have none; leave it out")
        if self.path is None and self.kind == "huggingface":
            problems.append("path: required for huggingface, a tokenizer.json")
        if self.path is not None and self.control_tokens:
            problems.append("control_tokens: a model read from a path has its own")
        names = self.control_tokens
        if "" in names or len(set(names)) != len(names):
            problems.append(f"control_tokens: {names!r} has an empty or repeated name")
        if problems:
            raise errors.ConfigError(problems)


class Tokenizer(NamedTuple):
    """Text to ids and back.

    Attributes:
      kind: which module made it.
      files: `{name: bytes}`, all that is needed to make it again.
      vocab_size: ids are below this.
      bos_id, eos_id: what starts and ends a document, or None.
      control: `{name: id}` of tokens that stand for no text; `encode_batch` never
        produces one, whatever the text spells.
      token_bytes: int32 [vocab_size], the bytes of text each id stands for.
      encode_batch: texts to as many sequences of ids.
      decode: ids to text; control tokens are left out, and bytes that are not UTF-8
        become U+FFFD.
      names: special tokens by their names in chat templates: `{"bos_token": "<s>"}`.
      stop_ids: all that may end a response, as far as the files name them.
      encode_placed: texts in which special tokens are spelt out to a
        `special_tokens.Placed` of each; None where that module counts bytes for it.
      unknown_id: the id of text that it cannot spell; None if it spells any text, or
        refuses some.
    """

    kind: str
    files: Mapping[str, bytes]
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    control: Mapping[str, int]
    token_bytes: np.ndarray
    encode_batch: Callable[[Sequence[str]], list[Sequence[int]]]
    decode: Callable[[Iterable[int]], str]
    names: Mapping[str, str] = {}
    stop_ids: tuple[int, ...] = ()
    encode_placed: Callable[[Sequence[str]], list[tuple]] | None = None
    unknown_id: int | None = None

    # It is equal to itself alone, so that it can be a key of caches.
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without start or end."""
        return [int(token) for token in self.encode_batch([text])[0]]

    @property
    def identity(self) -> str:
        """A sha256; equal for tokenizers that do the same."""
        return json_files.digest([FORMAT, self.kind, _digests(self.files)])

    def save(self, directory: str | Path) -> None:
        """Writes its files and a manifest, from which `load` makes it again.

        Raises a DataError, before anything is written, if a name is not plain.
        """
        directory = Path(directory)
        _check_names(self.files, directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            with atomic.replace(directory / name) as file:  # not through a link
                file.write(content)
        manifest = {"format": FORMAT, "kind": self.kind, "files": _digests(self.files)}
        atomic.write(directory / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def of_units(
    kind: str,
    files: Mapping[str, bytes],
    sizes: Sequence[int],
    names: Sequence[str],
    encode_batch: Callable[[Sequence[str]], list[Sequence[int]]],
    decode: Callable[[Iterable[int]], str],
) -> Tokenizer:
    """A tokenizer of units of these bytes, then the start, the end, control `names`."""
    start = len(sizes)
    control = {name: start + 2 + i for i, name in enumerate(names)}
    return Tokenizer(
        kind=kind,
        files=dict(files),
        vocab_size=start + 2 + len(control),
        bos_id=start,
        eos_id=start + 1,
        control=control,
        token_bytes=np.array([*sizes, 0, 0, *(0 for _ in control)], np.int32),
        encode_batch=encode_batch,
        decode=decode,
        names=NAMES,
        stop_ids=(start + 1,),
    )


def check_used(section: Mapping[str, Any], path: str = "tokenizer") -> None:
    """Raises ConfigError for options of the section that its kind does not read."""
    kind = section.get("kind") or TokenizerConfig.kind
    options = _module(kind).OPTIONS
    if "path" in options and section.get("path") is not None:
        options = tuple(name for name in options if name in ("path", "eos_token"))
        kind = f"{kind} from a path"
    problems = [
        f"{path}.{name}: {kind} does not read it; leave it out"
        for name, value in section.items()
        if value is not None and name not in ("kind", *options)
    ]
    if problems:
        raise errors.ConfigError(problems)


def from_files(kind: str, files: Mapping[str, bytes]) -> Tokenizer:
    """The tokenizer of this kind and these files.

    Raises:
      ConfigError, DataError: they are no such tokenizer, or one that cannot be used.
    """
    with sound(kind):
        return _module(kind).from_files(files)


@contextlib.contextmanager
def sound(kind: str, texts: Sequence[str] = ()):
    """Turns whatever a library raises for damaged files, or `texts`, into DataError."""
    try:
        yield
    except (errors.AlignError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        for bad in (x for x in texts if not x.isascii() and SURROGATE.search(x)):
            raise errors.DataError(f"{bad!r:.60} is no Unicode text") from error
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise errors.DataError(
            f"tokenizer: its files are not a whole tokenizer of the kind {kind!r} "
            f"({text:.200}); take another copy of them"
        ) from error


def check_size(vocab_size: int) -> None:
    """Raises DataError for a vocabulary of no tokens, or of more than MAX_TOKENS."""
    if not 0 < vocab_size <= MAX_TOKENS:
        raise errors.DataError(
            f"tokenizer: its ids end at {vocab_size - 1:,}, where a tokenizer has 1 to "
            f"{MAX_TOKENS:,} tokens; take another copy of its files"
        )


def load(directory: str | Path) -> Tokenizer:
    """The tokenizer that was saved there.

    Raises:
      DataError: there is none, its files are not the ones that were saved, the name of
        one is not plain, or its kind is not one of `KINDS`.
    """
    path = Path(directory) / MANIFEST
    try:
        manifest = json_files.read(path, dict)
        names, kind, version = (manifest[k] for k in ("files", "kind", "format"))
        _check_names(names, path)
        files = {name: filenames.read(path.with_name(name)) for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.DataError(f"{path}: no saved tokenizer ({error})") from error
    if _digests(files) != names or version != FORMAT:
        reason = f"the tokenizer's files are not those that {MANIFEST} names"
        raise errors.DataError(f"{directory}: {reason}; copy them again")
    if kind not in KINDS:
        remedy = registry.closest(str(kind), KINDS)
        raise errors.DataError(f"{path}: kind: unknown tokenizer {kind!r}; {remedy}")
    return from_files(kind, files)


def build(
    cfg: TokenizerConfig,
    sources: Iterable[records.Source],
    cache_dir: str | Path,
    on_bad_row: str = "error",
) -> Tokenizer:
    """The tokenizer that the config describes, trained on `sources` where it has to be.

    A trained one is kept in `cache_dir` under a digest of the config and of the data.

    Raises:
      ConfigError: a vocabulary that the corpus cannot fill, for instance.
      DataError: bad data or a damaged model file.
    """
    module = _module(cfg.kind)
    if cfg.path is not None or not module.TRAINED:
        files = module.make(cfg, iter(()))
        try:
            make = functools.partial(from_files, cfg.kind)
            return tokenizer_files.without_idle_stops(files, make)
        except errors.DataError as error:
            raise errors.DataError(f"tokenizer.path: {cfg.path}: {error}") from error
    sources = list(sources)
    data = [[source.kind, source.identity] for source in sources]
    key = json_files.digest([FORMAT, dataclasses.asdict(cfg), data, on_bad_row])
    directory = Path(cache_dir) / "tokenizers" / key[:32]

    def fill(partial: Path) -> dict[str, Any]:
        files = module.make(cfg, _texts(cfg, sources, on_bad_row))
        from_files(cfg.kind, files).save(partial)
        return {"config": dataclasses.asdict(cfg)}

    atomic.obtain(directory, fill)
    return load(directory)


def _texts(cfg, corpus, on_bad_row) -> Iterator[str]:
    """The corpus, or an even sample of about `cfg.train_bytes` of a larger one."""
    sizes = [source.size for source in corpus]
    share = 1.0  # "chars" has to see every character
    if cfg.kind != "chars" and None not in sizes:
        share = cfg.train_bytes / max(1, sum(sizes))
    faults = records.Faults(on_bad_row)
    for source in corpus:
        due = 1.0  # a document is taken whenever this reaches 1
        plain = sources.mapped(source, lambda record: [records.plain(record)])
        for _, record in sources.good_rows(plain.documents(), faults):
            due += share
            if due >= 1.0:
                due = min(due - 1.0, 1.0)
                yield record.text
    faults.check()


def _module(kind: str):
    return importlib.import_module(f"alignjax.data.tokenizers.{kind}")


def _check_names(names: Iterable[Any], where: Path) -> None:
    if problems := filenames.not_plain(names):
        raise errors.DataError(
            f"{where}: {', '.join(problems)} is no plain name of a file; the tokenizer "
            "is damaged or hostile: take another copy"
        )


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}

# SPDX-License-Identifier: Apache-2.0
"""The tokenizer and the chat template in the metadata of a GGUF file, both ways.

There are two kinds: `gpt2`, byte-level BPE, where `tokenizer.ggml.pre` is a name for
the way text is split before; and `llama`, the pieces and scores of sentencepiece. They
become the files that a folder of Hugging Face's would have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from alignjax import errors, registry
from alignjax.data.chat import templates
from alignjax.data.tokenizers import base, tokenizer_files
from alignjax.gguf import metadata as model_metadata
from alignjax.huggingface import tokenizer_files as exports
from alignjax.storage import filenames, json_files

U32, F32, BOOL, STRING, I32 = (
    getattr(model_metadata, name) for name in ("U32", "F32", "BOOL", "STRING", "I32")
)
PREFIX = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of tokens
MAX_TEMPLATE = 2**20  # characters; those that are published have up to 30,000
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
LISTS = {"tokens": list, "merges": list, "scores": None, "token_type": None}
# Keys of `tokenizer.ggml.` that are read, and those that change no tokens.
READ = {"model", "pre", "add_bos_token", "add_space_prefix", "remove_extra_whitespaces"}
READ |= {*LISTS, *(f"{x}_token_id" for x in ROLES.values()), "eot_token_id"}
IGNORED = {"add_eos_token", "add_sep_token", "token_type_count", "eom_token_id"}
IGNORED |= {f"{x}_token_id" for x in ("seperator", "separator", "cls", "mask")}
IGNORED |= {f"{x}_token_id" for x in ("prefix", "suffix", "middle")}
IGNORED |= {f"fim_{x}_token_id" for x in ("pre", "suf", "mid", "pad", "rep", "sep")}

_END = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASES = r"[^\r\n\p{L}\p{N}]?" + f"{_UPPER}*{_LOWER}+"
_CASES_2 = r"[^\r\n\p{L}\p{N}]?" + f"{_UPPER}+{_LOWER}*"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Split(NamedTuple):
    """How text is split before byte-level BPE.

    Attributes:
      regex: of the parts; None is that of GPT-2.
      digits: whether each digit is a part before that.
      whole: whether a part that is a token is that token, whatever the merges.
      start: whether the start token goes before a text where the file does not tell.
    """

    regex: str | None = None
    digits: bool = False
    whole: bool = False
    start: bool = False


# By the names that llama.cpp has for them; the first of equals is written.
SPLITS = {
    "gpt-2": Split(),
    "smollm": Split(digits=True),
    "llama-bpe": Split(_WORD + r"\p{N}{1,3}|" + _END, whole=True, start=True),
    "dbrx": Split(_WORD + r"\p{N}{1,3}|" + _END),
    "qwen2": Split(_WORD + r"\p{N}|" + _END),
    "tekken": Split(rf"{_CASES}|{_CASES_2}|\p{{N}}|{_SLASH}", whole=True, start=True),
    "gpt-4o": Split(rf"{_CASES}{_SHORT}|{_CASES_2}{_SHORT}|\p{{N}}{{1,3}}|{_SLASH}"),
}
SPLITS |= dict.fromkeys(("llama3", "llama-v3", "falcon3"), SPLITS["llama-bpe"])
SPLITS |= {"smaug-bpe": SPLITS["dbrx"], "deepseek-r1-qwen": SPLITS["qwen2"]}
SPLITS |= dict.fromkeys(("starcoder", "refact", "command-r"), SPLITS["smollm"])


def read(
    metadata: Mapping[str, Any], architecture: str, where: str
) -> base.Tokenizer | None:
    """The tokenizer of a file, with its chat templates among its files; None if none.

    Raises:
      ConfigError: keys that are unknown or do not fit, another kind, templates that
        are too long or whose names are not plain.
      DataError: it cannot be made.
    """
    fault = lambda key, text: errors.ConfigError(f"{where}: tokenizer.{key}: {text}")
    keys = {
        key.removeprefix(PREFIX): value
        for key, value in metadata.items()
        if key.startswith(PREFIX)
    }
    if unknown := set(keys) - READ - IGNORED:
        raise fault(
            f"ggml.{min(unknown)}", "unknown, so that what it changes would be ignored"
        )
    for key in READ.intersection(keys).difference(LISTS):
        if not isinstance(keys[key], str | int | float):
            raise fault(f"ggml.{key}", "a list, where one value is read")
    kind = keys.get("model", "none")
    if kind in ("none", "no_vocab"):
        return None
    if kind not in ("gpt2", "llama"):
        raise fault("ggml.model", f"{kind!r:.60} is not read, only gpt2 and llama")
    tokens = keys.get("tokens")
    if not isinstance(tokens, list) or len(set(tokens)) < len(tokens):
        raise fault("ggml.tokens", "no list of different strings")
    types = _numbers(keys, "token_type", len(tokens), NORMAL, fault)
    if set(types) - {*range(NORMAL, BYTE + 1)}:
        raise fault("ggml.token_type", f"has {max(types)}, where types are 1 to {BYTE}")
    names = {}
    for role, name in ROLES.items():
        if (i := keys.get(f"{name}_token_id")) is not None:
            if type(i) is not int or not 0 <= i < len(tokens):
                raise fault(f"ggml.{name}_token_id", f"{i!r:.40} is no token")
            names[f"{role}_token"] = tokens[i]
    if kind == "gpt2":
        files = _byte_level(keys, tokens, types, fault)
        start = SPLITS[keys["pre"]].start
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    else:
        scores = _numbers(keys, "scores", len(tokens), 0.0, fault)
        files, start = _pieces(keys, tokens, types, scores), True
        settings = {
            "tokenizer_class": f"{'Gemma' if architecture == 'gemma' else 'Llama'}"
            "Tokenizer",
            "legacy": False,
            "add_prefix_space": keys.get("add_space_prefix", True),
        }
    settings |= {"add_bos_token": bool(keys.get("add_bos_token", start)), **names}
    settings["clean_up_tokenization_spaces"] = False
    files[tokenizer_files.CONFIG] = json.dumps(settings).encode()
    ends = [keys.get("eos_token_id"), keys.get("eot_token_id")]
    ends = [i for i in dict.fromkeys(ends) if i is not None]
    if len(ends) > 1:
        files[tokenizer_files.GENERATION] = json.dumps({"eos_token_id": ends}).encode()
    files |= _templates(metadata, fault)
    kind = {"gpt2": "huggingface", "llama": "sentencepiece"}[kind]
    try:
        return base.from_files(kind, files)
    except errors.AlignError as error:
        raise type(error)(f"{where}: {error}") from error


def _numbers(keys, name: str, count: int, absent, fault) -> list:
    """A list of metadata with a number a token."""
    values = keys.get(name)
    if values is None:
        return [absent] * count
    if isinstance(values, list) or getattr(values, "shape", None) != (count,):
        raise fault(f"ggml.{name}", f"no list of {count:,} numbers, one a token")
    return values.tolist()


def _byte_level(keys, tokens, types, fault) -> dict[str, bytes]:
    """The tokenizer.json of byte-level BPE."""
    if (pre := keys.get("pre")) not in list(SPLITS):
        remedy = registry.closest(str(pre)[:60], SPLITS)
        raise fault("ggml.pre", f"{pre!r:.60} is no way to split text here; {remedy}")
    split, merges = SPLITS[pre], keys.get("merges")
    if not isinstance(merges, list):
        raise fault("ggml.merges", "missing")
    pairs = [merge.split(" ", 1) for merge in merges]
    if odd := [m for m, p in zip(merges, pairs, strict=True) if len(p) != 2]:
        raise fault("ggml.merges", f"{odd[0]!r:.60} is no pair")
    added = [
        dict(id=i, content=token, single_word=False, lstrip=False, rstrip=False)
        | dict(normalized=False, special=kind == CONTROL)
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    content = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _steps(split)},
        "post_processor": None,
        "decoder": _bytes(use_regex=True),
        "model": {
            "type": "BPE",
            "ignore_merges": split.whole,
            "vocab": _without_padding(tokens, types),
            "merges": pairs,
        },
    }
    return {"tokenizer.json": json.dumps(content).encode()}


def _without_padding(tokens, types) -> dict[str, int]:
    """`{token: id}` without those that only fill up the embedding."""
    size = len(tokens)
    while size and types[size - 1] == UNUSED:
        size -= 1
    return {token: i for i, token in enumerate(tokens[:size])}


def _steps(split: Split) -> list[dict]:
    steps = [{"type": "Digits", "individual_digits": True}] if split.digits else []
    if split.regex is not None:
        pattern = {"Regex": split.regex}
        isolated = {"behavior": "Isolated", "invert": False}
        steps.append({"type": "Split", "pattern": pattern, **isolated})
    return [*steps, _bytes(use_regex=split.regex is None)]


def _bytes(use_regex: bool) -> dict:
    options = {"add_prefix_space": False, "trim_offsets": True}
    return {"type": "ByteLevel", **options, "use_regex": use_regex}


def _pieces(keys, tokens, types, scores) -> dict[str, bytes]:
    """The tokenizer.model of sentencepiece."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    count = len(_without_padding(tokens, types))
    for token, kind, score in zip(
        tokens[:count], types[:count], scores[:count], strict=True
    ):
        if kind == USER_DEFINED:  # where spaces are written as such
            token = token.replace(" ", "\u2581")
        model.pieces.add(piece=token, score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = trainer.BPE
    trainer.vocab_size = count
    trainer.byte_fallback = BYTE in types
    for role, name in ROLES.items():
        i = keys.get(f"{name}_token_id", -1)
        setattr(trainer, f"{role}_id", i)
        if i >= 0:
            setattr(trainer, f"{role}_piece", tokens[i])
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = bool(keys.get("add_space_prefix", True))
    normalizer.remove_extra_whitespaces = bool(keys.get("remove_extra_whitespaces"))
    normalizer.escape_whitespaces = True
    return {"tokenizer.model": model.SerializeToString()}


def _templates(metadata: Mapping[str, Any], fault) -> dict[str, bytes]:
    key, files, others = "tokenizer.chat_template", {}, {}
    for name, value in metadata.items():
        if not name.startswith(key) or name == "tokenizer.chat_templates":
            continue
        short = name.removeprefix("tokenizer.")
        if not isinstance(value, str) or len(value) > MAX_TEMPLATE:
            raise fault(short[:80], f"no template of up to {MAX_TEMPLATE:,} characters")
        label = name.removeprefix(key).removeprefix(".")
        if label and not filenames.is_plain(label):
            raise fault(
                "chat_template", f"{label!r:.80} is no plain name of a template"
            )
        if label:
            others[label] = value
        else:
            files[templates.FILE] = value.encode()
    if others:
        files[tokenizer_files.TEMPLATES] = json.dumps(others).encode()
    return files


class Written(NamedTuple):
    """Metadata of a tokenizer, `{key: (type, value)}`, and sentences for the user."""

    metadata: dict[str, tuple[int, Any]]
    notes: list[str]


def write(
    tok: base.Tokenizer | None, rows: int, *, chat: str | None, bos: bool
) -> Written:
    """The metadata of a tokenizer for an embedding of so many rows.

    Args:
      chat, bos: as in `huggingface.save.plan`.

    Raises:
      ConfigError: a tokenizer that has no form in GGUF.
    """
    if tok is None or tok.kind in ("bytes", "chars"):
        reason = (
            "the run has none"
            if tok is None
            else f"the kind {tok.kind!r} has no form in GGUF"
        )
        note = f"no tokenizer goes with it, since {reason}: llama.cpp takes ids alone"
        return Written({f"{PREFIX}model": (STRING, "none")}, [note])
    notes, model = [], tok.files.get("tokenizer.model", tok.files.get(exports.TRAINED))
    entries = _write_pieces(tok, model) if model else _write_byte_level(tok, notes)
    tokens, types = entries["tokens"][1], entries["token_type"][1]
    if "scores" in entries:
        entries["scores"][1].extend([-1000.0] * (rows - len(tokens)))
    types += [UNUSED] * (rows - len(tokens))
    tokens += [f"[PAD{i}]" for i in range(len(tokens), rows)]
    ids = {"bos": tok.bos_id, "unknown": tok.unknown_id}
    ids["padding"] = tok.control.get(tok.names.get("pad_token"))
    ends = list(dict.fromkeys([tok.eos_id, *exports.stop_ids(tok, chat)]))
    # The end of a document, and of a reply where that is another.
    ids |= dict(zip(("eos", "eot"), [i for i in ends if i is not None], strict=False))
    for name, i in ids.items():
        if i is not None:
            entries[f"{name}_token_id"] = (U32, i)
    entries["add_bos_token"] = (BOOL, bos and tok.bos_id is not None)
    entries = {PREFIX + key: value for key, value in entries.items()}
    exported = exports.files(tok, _NO_SCORES, chat=chat, bos=bos)
    template = exported.files.get(templates.FILE)
    if template is None and templates.has_own(tok):
        template = templates.find(tok, templates.OWN).encode()
    if template is not None:
        entries["tokenizer.chat_template"] = (STRING, template.decode("utf-8-sig"))
    return Written(entries, notes)


class _NoScores(NamedTuple):
    score_heads: int = 0


_NO_SCORES = _NoScores()


def _write_pieces(tok: base.Tokenizer, content: bytes) -> dict[str, tuple[int, Any]]:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(content)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if trainer.model_type != trainer.BPE or not trainer.byte_fallback:
        raise errors.ConfigError(
            "tokenizer: only sentencepiece models of the type bpe that spell other "
            "text in bytes have a form in GGUF; export a folder instead"
        )
    if normalizer.precompiled_charsmap:
        raise errors.ConfigError(
            "tokenizer: its model rewrites characters before it reads them "
            "(precompiled_charsmap), which has no form in GGUF; export a folder instead"
        )
    tokens = [piece.piece for piece in model.pieces]
    scores = [piece.score for piece in model.pieces]
    types = [piece.type for piece in model.pieces]
    for token in tokenizer_files.added(tok.files):
        if token.id == len(tokens):
            tokens.append(token.content)
            types.append(CONTROL if token.special else USER_DEFINED)
            scores.append(-1000.0)
    prefix = normalizer.add_dummy_prefix
    if tokenizer_files.setting(tok.files, "add_prefix_space") is False:
        prefix = False
    return {
        "model": (STRING, "llama"),
        "tokens": (STRING, tokens),
        "scores": (F32, scores),
        "token_type": (I32, types),
        "add_space_prefix": (BOOL, prefix),
    }


def _write_byte_level(
    tok: base.Tokenizer, notes: list[str]
) -> dict[str, tuple[int, Any]]:
    content = json_files.parse(tok.files["tokenizer.json"], "tokenizer.json", dict)
    model = content["model"]
    split = _split_of(content)
    name = next((name for name, other in SPLITS.items() if other[:3] == split), None)
    if model.get("type") != "BPE" or name is None:
        raise errors.ConfigError(
            "tokenizer: only byte-level BPE that splits text in one of the ways "
            f"{', '.join(SPLITS)} has a form in GGUF; export a folder instead"
        )
    if (normalizer := content.get("normalizer")) is not None:
        if normalizer.get("type") != "NFC":
            kind = normalizer.get("type")
            raise errors.ConfigError(
                f"tokenizer: its normalizer {kind!r:.40} has no form in GGUF; export a "
                "folder instead"
            )
        notes.append(
            "the tokenizer composes characters (NFC) before it reads them, which a "
            "GGUF file does not say: text that is not composed gets other tokens there"
        )
    added = {x["id"]: x for x in content.get("added_tokens") or []}
    added |= {
        x.id: {"content": x.content, "special": x.special}
        for x in tokenizer_files.added(tok.files)
    }
    by_id = {i: token for token, i in model["vocab"].items()}
    by_id |= {i: x["content"] for i, x in added.items()}
    control = {*tok.control.values()}
    tokens, types = [], []
    for i in range(max(by_id) + 1):
        tokens.append(by_id.get(i, f"[PAD{i}]"))
        special = CONTROL if i in control or added.get(i, {}).get("special") else None
        user = USER_DEFINED if i in added else NORMAL if i in by_id else UNUSED
        types.append(special or user)
    pairs = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return {
        "model": (STRING, "gpt2"),
        "pre": (STRING, name),
        "tokens": (STRING, tokens),
        "token_type": (I32, types),
        "merges": (STRING, pairs),
    }


def _split_of(content: Mapping[str, Any]) -> tuple | None:
    """How a tokenizer.json splits text, as the first fields of a `Split`."""
    step = content.get("pre_tokenizer") or {}
    steps = step.get("pretokenizers") or [step]
    digits, regex = False, None
    if steps[0].get("type") == "Digits" and steps[0].get("individual_digits"):
        digits, steps = True, steps[1:]
    if steps and steps[0].get("type") == "Split":
        if steps[0].get("behavior") != "Isolated" or steps[0].get("invert"):
            return None
        regex, steps = (steps[0].get("pattern") or {}).get("Regex"), steps[1:]
    kinds = [step.get("type") for step in steps]
    if kinds != ["ByteLevel"] or steps[0].get("add_prefix_space"):
        return None
    if steps[0].get("use_regex", True) != (regex is None):
        return None
    return regex, digits, bool(content["model"].get("ignore_merges"))

# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder, opened: all of it checked, and no tensor read.

folder = open_folder("Qwen2.5-0.5B")
folder.section, folder.leaves["layers/q/kernel"][3], folder.tokenizer()
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from alignjax import config, errors, models
from alignjax.data.chat import templates
from alignjax.data.tokenizers import base as tokenizers
from alignjax.data.tokenizers import huggingface
from alignjax.huggingface import layout, leaves, matching
from alignjax.models import names
from alignjax.storage import filenames, json_files, tensor_files

HUB = "hf:"
# What is fetched of a repository: nothing that could be run, nothing pickled, and no
# second copy of the weights.
WANTED = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
UNWANTED = ("*/*", "consolidated*")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# What we compute in where their weights are of another kind: no number of theirs is
# lost. `model.dtype` says otherwise.
COMPUTE = {"bfloat16": "bfloat16", "float32": "float32", "float16": "float32"}
SCORES = "ForSequenceClassification"
HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", SCORES)


@dataclasses.dataclass(frozen=True, eq=False)
class Folder:
    """What a folder holds.

    Attributes:
      path: of the folder.
      json: its config.json.
      section: the section `model` of a config that describes its model.
      leaves: `{path of ours: Leaf}`, every parameter of the model.
      ignored: tensors that no parameter is made of, and that change nothing.
    """

    path: pathlib.Path
    json: dict
    section: dict
    leaves: Mapping[str, leaves.Leaf]
    ignored: tuple[str, ...]

    @property
    def has_tokenizer(self) -> bool:
        return tokenizer_kind(self.path) is not None

    def tokenizer(self) -> tokenizers.Tokenizer:
        """Its tokenizer. Raises ConfigError, DataError where there is none we read."""
        return self._tokenizer

    @functools.cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        return _tokenizer(self.path, self.section["vocab_size"])

    @functools.cached_property
    def chat(self) -> bool:
        """Whether its tokenizer has a chat template."""
        return self.has_tokenizer and templates.with_tokenizer(self.tokenizer())

    @functools.cached_property
    def bos(self) -> bool:
        """Whether its tokenizer puts its start token before a text."""
        known = _json(self.path / "tokenizer_config.json")
        if known.get("add_bos_token") is not None:
            return bool(known["add_bos_token"])
        if not (self.path / "tokenizer.json").is_file():
            return self.has_tokenizer  # sentencepiece models of Llama and Gemma do
        name = known.get("bos_token")
        name = name.get("content") if isinstance(name, dict) else name
        processor = _json(self.path / "tokenizer.json").get("post_processor")
        return name is not None and json.dumps(name) in json.dumps(processor)


def find(name: str) -> pathlib.Path:
    """The folder that `name` means: a path, or a repository of the hub.

    A name that begins with `hf:` may be either; where there is such a folder it wins.
    Of a repository the newest version is fetched, or without a network the one that is
    in the hub's cache.

    Raises:
      ConfigError: it is neither, or the hub cannot be reached.
    """
    asked = name.removeprefix(HUB)
    path = pathlib.Path(asked).expanduser()
    if path.exists():
        return path
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", asked) or not name.startswith(HUB):
        raise errors.ConfigError(
            f"{name}: there is no such folder, and it is no repository's name such as "
            "hf:Qwen/Qwen3-4B; check the path"
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise errors.ConfigError(
            f"{name}: there is no such folder, and fetching a repository needs the "
            "extra hf: pip install alignjax[hf]"
        ) from error
    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                asked, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
            )
        )
    except Exception as error:  # of the library, of its transport, of the network
        text = " ".join(str(error).split())[:300]
        raise errors.ConfigError(
            f"{name}: there is no such folder, and no such repository can be fetched "
            f"({type(error).__name__}: {text}); check the name, the network and "
            "`hf auth login`, or give the path of a copy"
        ) from error


def open_folder(path: str | pathlib.Path) -> Folder:
    """The folder at `path`, once all that is in it fits together.

    Raises:
      ConfigError: every problem that can be seen together: of config.json, of the
        files of weights, of tensors that are missing, too many or of another shape, of
        a tokenizer that the embedding has no rows for.
      DataError: a tokenizer that cannot be read.
    """
    path = pathlib.Path(path).expanduser().absolute()
    known = _config(path)
    _refuse_code(path, known)
    family = _family(path, known)
    try:
        section = dict(family.fields(known))
    except errors.ConfigError as error:
        problems = [f"{path}: {p}" for p in error.problems]
        raise errors.ConfigError(problems) from error
    tensors = weights(path)
    section |= {"family": family.__name__.rpartition(".")[2]}
    section |= {"dtype": _dtype(known, tensors)}
    if _has_scores(path, known):
        section |= matching.scores(path, tensors)
    try:
        model = models.build(section, 1)
    except errors.ConfigError as error:
        problems = [names.in_their_words(family, p) for p in error.problems]
        raise errors.ConfigError([f"{path}: {p}" for p in problems]) from error
    table = layout.table(family, model.config)
    shapes = layout.shapes(model.config)
    found = matching.match(path, family, table, shapes, tensors)
    opened = Folder(path, known, section, found.leaves, found.ignored)
    if opened.has_tokenizer:
        opened.tokenizer()
    return opened


def weights(path: pathlib.Path) -> dict[str, tensor_files.Tensor]:
    """`{name: Tensor}` of all files of weights of a folder.

    Raises:
      ConfigError: there are none, or none that are safe; a file that the index names is
        not there, is damaged, or has other tensors than the index says.
    """
    if (path / SINGLE).is_file():
        return tensor_files.open_file(path / SINGLE)
    if not (path / INDEX).is_file():
        raise errors.ConfigError(_no_weights(path))
    index = _json(path / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise errors.ConfigError(f"{path / INDEX}: has no weight_map; fetch it again")
    problems, found = [], {}
    for name in sorted(set(map(str, index.values()))):
        if not filenames.is_plain(name):
            problems.append(
                f"{path / INDEX}: {name!r:.80} is no plain name of a file in the same "
                "folder; take another copy"
            )
        elif not (path / name).is_file():
            problems.append(
                f"{path / INDEX}: names {name}, which is not there; fetch it again"
            )
        else:
            try:
                found[name] = tensor_files.open_file(path / name)
            except errors.ConfigError as error:
                problems += error.problems
    if problems:
        raise errors.ConfigError(problems)
    lost = [tensor for tensor, name in index.items() if tensor not in found[str(name)]]
    if lost:
        raise errors.ConfigError(
            f"{path / INDEX}: {matching.some(lost)} not in the files that it names for "
            "them; fetch all files of one version"
        )
    return {tensor: found[str(name)][tensor] for tensor, name in index.items()}


def tokenizer_kind(path: pathlib.Path) -> str | None:
    """The kind of tokenizer that a folder has, or None."""
    if (path / "tokenizer.json").is_file():
        return "huggingface"
    return "sentencepiece" if (path / "tokenizer.model").is_file() else None


def _tokenizer(path: pathlib.Path, rows: int) -> tokenizers.Tokenizer:
    """The tokenizer in a folder, for an embedding of so many rows."""
    kind = tokenizer_kind(path)
    if kind is None:
        raise errors.ConfigError(
            f"{path}: has neither tokenizer.json nor tokenizer.model; save the "
            "tokenizer there with transformers' save_pretrained, or name one in the "
            "config's section tokenizer"
        )
    file = path / "tokenizer.model" if kind == "sentencepiece" else path
    section = tokenizers.TokenizerConfig(kind=kind, path=str(file))
    named = lambda line: line if str(path) in line else f"{path}: {line}"
    try:
        tok = tokenizers.build(section, (), path)
    except errors.ConfigError as error:
        raise errors.ConfigError(list(map(named, error.problems))) from error
    except errors.DataError as error:
        raise errors.DataError(named(str(error))) from error
    if tok.vocab_size <= rows:
        return tok
    # Special tokens that no text spells, and that the model never had, do no harm.
    if kind == "huggingface" and {*range(rows, tok.vocab_size)} <= {
        *tok.control.values()
    }:
        kept = {**tok.files, huggingface.ROWS: json.dumps({"rows": rows}).encode()}
        return tokenizers.from_files(kind, kept)
    raise errors.ConfigError(
        f"{path}: its tokenizer has {tok.vocab_size:,} tokens and its embedding "
        f"{rows:,} rows, so that some would be read as others; take the tokenizer that "
        "came with these weights"
    )


def _config(path: pathlib.Path) -> dict:
    if not path.is_dir():
        raise errors.ConfigError(f"{path}: is no folder")
    if (path / "config.json").is_file():
        return _json(path / "config.json")
    if (path / "adapter_config.json").is_file():
        base = _json(path / "adapter_config.json").get("base_model_name_or_path")
        raise errors.ConfigError(
            f"{path}: has adapters of PEFT and no model; open the model ({base}), and "
            "import the adapters onto it"
        )
    raise errors.ConfigError(f"{path}: has no config.json, so it is no model's folder")


def _refuse_code(path: pathlib.Path, known: Mapping[str, Any]) -> None:
    """Raises ConfigError where the folder wants code of its own to be run."""
    beside = _json(path / "tokenizer_config.json")
    files = {"config.json": known, "tokenizer_config.json": beside}
    problems = [
        f"{path / name}: auto_map asks for code of the folder ({found['auto_map']}), "
        "which alignjax never runs; if the model is what transformers itself has under "
        "this model_type, copy the folder and take auto_map out of this file"
        for name, found in files.items()
        if found.get("auto_map")
    ]
    if problems:
        raise errors.ConfigError(problems)


def _family(path: pathlib.Path, known: Mapping[str, Any]):
    try:
        family = names.reader(known)
    except errors.ConfigError as error:
        raise errors.ConfigError([f"{path}: {p}" for p in error.problems]) from error
    if known.get("quantization_config"):
        raise errors.ConfigError(
            f"{path / 'config.json'}: quantization_config: the weights are quantised; "
            "take the folder in bfloat16 that they were made of"
        )
    return family


def _has_scores(path: pathlib.Path, known: Mapping[str, Any]) -> bool:
    """Whether it has heads for scores instead of one for tokens."""
    where = f"{path / 'config.json'}: architectures"
    for name in config.expect(known.get("architectures") or [], list, where):
        if not str(name).endswith(HEADS):
            raise errors.ConfigError(
                f"{path / 'config.json'}: architectures: {name} is none of *"
                f"{', *'.join(HEADS)}; its head is not what alignjax computes"
            )
        return str(name).endswith(SCORES)
    return False


def _dtype(known: Mapping[str, Any], tensors: Mapping[str, tensor_files.Tensor]) -> str:
    text = known.get("text_config") or {}
    for where in (known, text):
        for name in ("dtype", "torch_dtype"):
            if (asked := str(where.get(name)).removeprefix("torch.")) in COMPUTE:
                return COMPUTE[asked]
    kinds = {str(tensor.dtype) for tensor in tensors.values()}
    return "bfloat16" if kinds == {"bfloat16"} else "float32"


def _no_weights(path: pathlib.Path) -> str:
    pickled = sorted(p.name for p in path.glob("*.bin") if p.is_file())
    pickled += sorted(p.name for p in path.glob("*.pt*") if p.is_file())
    if pickled:
        return (
            f"{path}: its weights are pickled ({', '.join(pickled[:3])}), which can "
            "run code when they are read, so they never are. Save those you trust"
            " anew with transformers: "
            "AutoModelForCausalLM.from_pretrained(SRC).save_pretrained(DST)"
        )
    others = sorted(p.name for p in path.glob("*.safetensors"))
    beside = f"; it has {', '.join(others[:3])}" if others else ""
    return f"{path}: has neither {SINGLE} nor {INDEX}{beside}; fetch all of its files"


def _json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a file, empty where there is no file."""
    if not path.exists():
        return {}
    return json_files.read(path, dict, error=errors.ConfigError)

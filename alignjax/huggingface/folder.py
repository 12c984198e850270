# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder, opened: all of it checked, and no tensor read.

folder = open_folder("Qwen2.5-0.5B")
folder.section, folder.leaves["layers/q/kernel"][3], folder.tokenizer
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from alignjax import config, errors, models
from alignjax.data.chat import templates
from alignjax.data.tokenizers import base as tokenizers
from alignjax.data.tokenizers import huggingface, tokenizer_files
from alignjax.huggingface import config_json, layout
from alignjax.models import families
from alignjax.storage import filenames, json_files, lazy, tensor_files

HUB = "hf:"
# What is fetched of a repository: nothing that could be run, nothing pickled, and no
# second copy of the weights.
WANTED = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
UNWANTED = ("*/*", "consolidated*")
TEMPLATES = f"{tokenizer_files.TEMPLATE_FOLDER}/*.jinja"  # fetched as well
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SCORES = "ForSequenceClassification"
HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", SCORES)
TIED = "lm_head.weight"
# Buffers that older versions of transformers saved and every version computes anew, and
# the parts of models that see.
IGNORED = (
    r".*\.rotary_emb\.(inv_freq|cos_cached|sin_cached)",
    r"(.*\.)?h\.\d+\.attn\.(bias|masked_bias)",  # the causal mask of GPT-2
    r".*\bposition_ids",
    r"(model\.)?(vision_tower|vision_model|multi_modal_projector)\..*",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Folder:
    """A folder whose files fit together.

    Attributes:
      path: of the folder.
      json: its config.json.
      section: the section `model` of a config that describes its model.
      leaves: every parameter of the model, by path.
      files: of the weights.
      ignored: names of tensors that no parameter needs.
      tokenizer: None where it has none.
    """

    path: pathlib.Path
    json: dict
    section: dict
    leaves: Mapping[str, lazy.LazyArray]
    files: tuple[pathlib.Path, ...]
    ignored: tuple[str, ...]
    tokenizer: tokenizers.Tokenizer | None

    @functools.cached_property
    def chat(self) -> bool:
        """Whether its tokenizer has a chat template."""
        return self.tokenizer is not None and templates.has_own(self.tokenizer)

    @functools.cached_property
    def bos(self) -> bool:
        """Whether its tokenizer puts its start token before a text."""
        files = {} if self.tokenizer is None else self.tokenizer.files
        return tokenizer_files.adds_start(files)


def is_folder(path: pathlib.Path) -> bool:
    """Whether a directory looks like such a folder, sound or not; a run's does not."""
    if "\0" in str(path) or (path / "checkpoints").is_dir():
        return False
    patterns = ("*.safetensors", "pytorch_model*.bin", "adapter_config.json")
    if any(any(path.glob(pattern)) for pattern in patterns):
        return True
    try:
        keys = _json(path / "config.json")
    except errors.ConfigError:
        return False
    return bool({"model_type", "architectures"}.intersection(keys))


def find(name: str, network: bool = False) -> pathlib.Path:
    """The folder of that name: a path, or a repository of the hub.

    A name that begins with `hf:` may be either; a folder that exists wins. Of a
    repository the one in the hub's cache is taken.

    Args:
      network: whether the newest version of a repository may be fetched.

    Raises:
      ConfigError: it is neither, or the hub cannot be reached.
    """
    repository = name.removeprefix(HUB)
    path = filenames.expanded(repository)
    if repository.strip() and path.exists():  # "" would be the current folder
        return path
    lost = f"{name}: there is no such folder, and"
    plain = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository)
    if not plain or not name.startswith(HUB):
        raise errors.ConfigError(
            f"{lost} that is no repository such as hf:Qwen/Qwen3-4B; check the path"
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise errors.ConfigError(
            f"{lost} fetching one needs the extra hf: pip install alignjax[hf]"
        ) from error
    fetch = functools.partial(
        huggingface_hub.snapshot_download, repository, local_files_only=not network
    )
    try:
        fetch(allow_patterns=[TEMPLATES], ignore_patterns=[])
        path = fetch(allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))
        return pathlib.Path(path)
    except Exception as error:  # of the library, of its transport, of the network
        reason = (
            "the hub's cache does not have it; allow it to be fetched with --network "
            "(in Python: network=True)"
        )
        if network:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            reason = f"it cannot be fetched ({text}); check name, network and hf auth"
        raise errors.ConfigError(
            f"{lost} {reason}, or give the path of a copy"
        ) from error


def open_folder(path: str | pathlib.Path) -> Folder:
    """The folder at `path`, once all files in it fit together.

    Raises:
      ConfigError: every problem that can be seen together: of config.json, of the
        files of weights, of tensors that are missing, too many or of another shape, of
        a tokenizer with more tokens than the embedding has rows.
      DataError: a tokenizer that cannot be read.
    """
    path = filenames.expanded(path).absolute()
    hf = _config(path)
    _refuse_code(path, hf)
    with _naming(path):
        family = config_json.family_of(hf)
        if hf.get("quantization_config"):
            raise errors.ConfigError(
                "config.json.quantization_config: the weights are quantised; take the "
                "folder in bfloat16 that they were made of"
            )
        section = config_json.read(hf, family)
    tensors = weights(path)
    dtypes = {str(tensor.dtype) for tensor in tensors.values()}
    dtype = "bfloat16" if dtypes == {"bfloat16"} else "float32"
    section = {"dtype": dtype, **section, "family": family.name}
    section |= _scores(path, hf, tensors)
    with _naming(path, functools.partial(config_json.naming_keys, family)):
        model = models.build(section, 1)
    shapes = layout.shapes(model.config)
    table = layout.table(family, model.config)
    if (count := layout.count(table, shapes)) > 100 * len(tensors):
        raise errors.ConfigError(
            f"{path}: config.json is of a model with {count:,} tensors, and the files "
            f"have {len(tensors):,}; take the config.json of these weights"
        )
    places = tuple(layout.places(table, shapes))
    leaves, ignored = match(path, family, places, shapes, tensors)
    files = tuple(dict.fromkeys(tensor.path for tensor in tensors.values()))
    tokenizer = _tokenizer(path, section["vocab_size"])
    return Folder(path, hf, section, leaves, files, ignored, tokenizer)


@contextlib.contextmanager
def _naming(path: pathlib.Path, change: Callable[[str], str] = str):
    """Puts `path` before the problems of a ConfigError, after a `change` of each."""
    try:
        yield
    except errors.ConfigError as error:
        problems = [f"{path}: {change(problem)}" for problem in error.problems]
        raise errors.ConfigError(problems) from error


def weights(path: pathlib.Path) -> dict[str, tensor_files.Tensor]:
    """`{name: Tensor}` of all files of weights of a folder.

    Raises:
      ConfigError: there are none, or none that are safe; a file that the index names is
        missing, damaged, or has other tensors than the index lists.
    """
    if os.path.lexists(path / SINGLE):
        return tensor_files.open_file(path / SINGLE)
    if not os.path.lexists(path / INDEX):
        raise errors.ConfigError(_no_weights(path))
    index = _json(path / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise errors.ConfigError(f"{path / INDEX}: has no weight_map; fetch it again")
    problems, files = [], {}
    for name in sorted(set(map(str, index.values()))):
        if not filenames.is_plain(name):
            problems.append(
                f"{path / INDEX}: {name!r:.80} is no plain name of a file in the same "
                "folder; take another copy"
            )
        elif not os.path.lexists(path / name):
            problems.append(
                f"{path / INDEX}: names {name}, which is not there; fetch it again"
            )
        else:
            try:
                files[name] = tensor_files.open_file(path / name)
            except errors.ConfigError as error:
                problems += error.problems
    if problems:
        raise errors.ConfigError(problems)
    lost = [tensor for tensor, name in index.items() if tensor not in files[str(name)]]
    if lost:
        raise errors.ConfigError(
            f"{path / INDEX}: not in the files that it names for them: "
            f"{errors.some(lost)}; fetch all files of one version"
        )
    return {tensor: files[str(name)][tensor] for tensor, name in index.items()}


def _no_weights(path: pathlib.Path) -> str:
    pickled = sorted(p.name for p in path.glob("*.bin") if p.is_file())
    pickled += sorted(p.name for p in path.glob("*.pt*") if p.is_file())
    if pickled:
        return (
            f"{path}: its weights are pickled ({errors.some(pickled)}), which can run "
            "code when they are read, so they never are. Save those you trust anew: "
            "AutoModelForCausalLM.from_pretrained(SRC).save_pretrained(DST)"
        )
    others = sorted(p.name for p in path.glob("*.safetensors"))
    beside = f"; it has {errors.some(others)}" if others else ""
    return f"{path}: has neither {SINGLE} nor {INDEX}{beside}; fetch all of its files"


def tokenizer_kind(path: pathlib.Path) -> str | None:
    """The kind of tokenizer that a folder has, or None."""
    if os.path.lexists(path / "tokenizer.json"):
        return "huggingface"
    return "sentencepiece" if os.path.lexists(path / "tokenizer.model") else None


def _tokenizer(path: pathlib.Path, rows: int) -> tokenizers.Tokenizer | None:
    """The tokenizer in a folder, for an embedding of so many rows."""
    kind = tokenizer_kind(path)
    if kind is None:
        return None
    file = path / "tokenizer.model" if kind == "sentencepiece" else path
    section = tokenizers.TokenizerConfig(kind=kind, path=str(file))
    naming_path = lambda line: line if str(path) in line else f"{path}: {line}"
    try:
        tok = tokenizers.build(section, (), path)
    except errors.ConfigError as error:
        raise errors.ConfigError(list(map(naming_path, error.problems))) from error
    except errors.DataError as error:
        raise errors.DataError(naming_path(str(error))) from error
    if tok.vocab_size <= rows:
        return tok
    # Special tokens that no text spells, and that the model never had, do no harm.
    extra = {*range(rows, tok.vocab_size)}
    if kind == "huggingface" and extra.issubset(tok.control.values()):
        files = {**tok.files, huggingface.ROWS: json.dumps({"rows": rows}).encode()}
        return tokenizers.from_files(kind, files)
    raise errors.ConfigError(
        f"{path}: its tokenizer has {tok.vocab_size:,} tokens and its embedding "
        f"{rows:,} rows, so that some would be read as others; take the tokenizer that "
        "came with these weights"
    )


def _config(path: pathlib.Path) -> dict:
    if not path.is_dir():
        raise errors.ConfigError(f"{path}: is no folder")
    if os.path.lexists(path / "config.json"):
        return _json(path / "config.json")
    if (path / "adapter_config.json").is_file():
        base = _json(path / "adapter_config.json").get("base_model_name_or_path")
        raise errors.ConfigError(
            f"{path}: has adapters of PEFT and no model; open the model ({base}), and "
            "import the adapters onto it"
        )
    raise errors.ConfigError(
        f"{path}: has no config.json, so it is no model's folder; name one, or a file "
        "that ends in .gguf"
    )


def _refuse_code(path: pathlib.Path, hf: Mapping[str, Any]) -> None:
    """Raises ConfigError where the folder wants code of its own to be run."""
    settings = _json(path / "tokenizer_config.json")
    files = {"config.json": hf, "tokenizer_config.json": settings}
    problems = [
        f"{path / name}: auto_map asks for code of the folder ({content['auto_map']}), "
        "which alignjax never runs; if the model is what transformers itself has under "
        "this model_type, copy the folder and take auto_map out of this file"
        for name, content in files.items()
        if content.get("auto_map")
    ]
    if problems:
        raise errors.ConfigError(problems)


def _scores(path: pathlib.Path, hf: Mapping[str, Any], tensors) -> dict:
    """Fields of a model whose head gives scores; it is tied, having no other head."""
    where = f"{path / 'config.json'}: architectures"
    name, *_ = config.expect(hf.get("architectures") or [HEADS[0]], list, where)
    if not str(name).endswith(HEADS):
        raise errors.ConfigError(
            f"{where}: {name} is none of *{', *'.join(HEADS)}; its head is not what "
            "alignjax computes"
        )
    if not str(name).endswith(SCORES):
        return {}
    if layout.SCORES not in tensors or len(tensors[layout.SCORES].shape) != 2:
        raise errors.ConfigError(
            f"{where}: {name} gives scores, and there is no matrix {layout.SCORES}"
        )
    return {"score_heads": tensors[layout.SCORES].shape[0], "tied": True}


def match(
    path: pathlib.Path,
    family: families.Family,
    places: Sequence[layout.Place],
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, tensor_files.Tensor],
) -> tuple[dict[str, lazy.LazyArray], tuple[str, ...]]:
    """(all parameters by path, names of tensors that none needs).

    Raises:
      ConfigError: tensors that are missing, too many, of another shape, or of a dtype
        that is not computed with.
    """
    tensors = _in_names_of(places, tensors)
    expected = {place.name for place in places}
    problems = []
    if missing := [place.name for place in places if place.name not in tensors]:
        problems.append(
            f"{path}: missing tensors: {errors.some(missing)}; fetch all of its files, "
            "or check that config.json is of this model"
        )
    others = [name for name in tensors if name not in expected]
    ignored = [name for name in others if re.fullmatch("|".join(IGNORED), name)]
    extra = [name for name in others if name not in ignored]
    if TIED in extra:
        extra.remove(TIED)
        ignored.append(TIED)
        (embedding,) = (x.name for x in places if x.parts[0].path == "embed")
        if embedding in tensors and not _same(tensors[TIED], tensors[embedding]):
            problems.append(
                f"{path}: {TIED} is not {embedding}, though tie_word_embeddings is "
                "true; set that to false in config.json if the two are to differ, or "
                f"take {TIED} out"
            )
    if extra:
        problems.append(
            f"{path}: no part of a {family.name} model with this config.json: "
            f"{errors.some(extra)}; the model may be of another family, or have "
            "adapters that are to be merged first"
        )
    present = [place for place in places if place.name in tensors]
    if wrong := [p for p in present if tensors[p.name].shape != p.shape]:
        lines = [f"{p.name} is {tensors[p.name].shape}, not {p.shape}" for p in wrong]
        problems.append(
            f"{path}: {errors.some(lines, '; ')}: config.json and the weights are not "
            "of one model"
        )
    dtypes = {place.name: str(tensors[place.name].dtype) for place in present}
    if odd := [f"{n} of {d}" for n, d in dtypes.items() if d not in layout.FLOATS]:
        problems.append(
            f"{path}: {errors.some(odd)}: weights that are quantised or no floats; "
            f"take the folder in one of {', '.join(layout.FLOATS)}"
        )
    if problems:
        raise errors.ConfigError(problems)
    return _leaves(path, places, shapes, tensors), tuple(ignored)


def _leaves(path, places, shapes, tensors) -> dict[str, lazy.LazyArray]:
    pieces = collections.defaultdict(dict)
    for place in places:
        for part in place.parts:
            pieces[part.path][part.index] = (tensors[place.name], place, part)
    leaves, problems = {}, []
    for name, shape in shapes.items():
        kinds = sorted({str(tensor.dtype) for tensor, _, _ in pieces[name].values()})
        if len(kinds) > 1:
            problems.append(
                f"{path}: the tensors of {name} are {' and '.join(kinds)} in "
                "different layers; convert the folder to one of them"
            )
        dtype = jax.numpy.dtype(kinds[0])
        leaves[name] = layout.stacked(tuple(shape), dtype, pieces[name])
    if problems:
        raise errors.ConfigError(problems)
    return leaves


def _in_names_of(
    places: Iterable[layout.Place], tensors: Mapping[str, tensor_files.Tensor]
) -> dict[str, tensor_files.Tensor]:
    """The tensors under the names of the table.

    The same model is saved with and without its prefix, and as a part of one that sees.
    """
    names = [place.name for place in places]
    renamings = (
        lambda name: name,
        lambda name: re.sub(r"^(model|transformer)\.", "", name),
        lambda name: f"language_model.{name}",
        lambda name: re.sub(r"^model\.", "model.language_model.", name),
    )
    hits = lambda rename: sum(rename(name) in tensors for name in names)
    rename = max(renamings, key=hits)  # the first of equals
    back = {rename(name): name for name in (*names, TIED)}
    return {back.get(name, name): tensor for name, tensor in tensors.items()}


def _same(a: tensor_files.Tensor, b: tensor_files.Tensor) -> bool:
    """Whether two tensors are equal bit for bit. Parts of both are read at a time."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    step = max(1, lazy.PIECE_BYTES * a.shape[0] // max(1, a.nbytes))
    bits = lambda tensor, i: tensor[i : i + step].view(np.uint8)
    starts = range(0, a.shape[0], step)
    return all(np.array_equal(bits(a, i), bits(b, i)) for i in starts)


def _json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a file, empty where there is no file."""
    if not os.path.lexists(path):
        return {}
    return json_files.read(path, dict, error=errors.ConfigError)

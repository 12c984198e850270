# SPDX-License-Identifier: Apache-2.0
"""A GGUF file, opened as a folder of Hugging Face's is: checked, and no weight read.

Llama's rows of queries and keys lie in pairs there, as its first code rotated them, and
Gemma's scales of norms have their 1 added; both are undone as a tensor is read.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable

import numpy as np

from alignjax import errors, models
from alignjax.gguf import file, metadata, tokenizer
from alignjax.huggingface import config_json, layout
from alignjax.huggingface import folder as folders
from alignjax.models import families
from alignjax.storage import filenames

PREFIX = "gguf:"
Change = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(eq=False)
class Weight:
    """A tensor as a folder would have it, dequantised when it is read.

    The last one that was read is in memory, so that one which is read in parts is
    dequantised once.

    Attributes:
      dtype: of its values; float32 where others of its kind are stored otherwise.
      last: the weight that is in memory, shared by all of a file.
    """

    tensor: file.Tensor
    dtype: np.dtype
    change: Change | None
    last: list

    @property
    def path(self) -> pathlib.Path:
        return self.tensor.path

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def view(self) -> np.ndarray:
        """Its values, not to be written to."""
        if not self.last or self.last[0] is not self:
            self.last.clear()  # before another is made, so that there is one at a time
            values = self.tensor.read()
            values = values.astype(self.dtype, copy=False)
            values = values if self.change is None else self.change(values)
            self.last[:] = [self, values]
        return self.last[1]


def is_file(name: str) -> bool:
    """Whether a name is that of a GGUF file, there or not."""
    return name.startswith(PREFIX) or name.lower().endswith(".gguf")


def open_file(name: str | os.PathLike) -> folders.Folder:
    """The model, tokenizer and weights of a file, which may begin with `gguf:`.

    Raises:
      ConfigError: every problem that can be seen together: a damaged file, keys that
        are not understood, tensors that are missing, too many or of another shape, a
        vocabulary that is not the embedding's.
      DataError: a tokenizer that cannot be made.
    """
    path = filenames.expanded(os.fspath(name).removeprefix(PREFIX)).absolute()
    opened = file.open_file(path)
    where, tensors = str(path), opened.tensors
    plain = metadata.plain(opened.metadata, where)
    family = metadata.family_of(plain, where)
    read = lambda key: tensors[key].read()
    hf = metadata.read(plain, tensors, read, family, where)
    hf |= _vocabulary(opened, hf)
    if (layers := hf["num_hidden_layers"]) > len(tensors):
        raise errors.ConfigError(
            f"{where}: {family.name}.block_count: {layers:,} layers of "
            f"{len(tensors):,} tensors"
        )
    tok = tokenizer.read(opened.metadata, family.name, where)
    try:
        section = config_json.read(hf, family)
        section |= {"family": family.name, "dtype": "float32"}
        model = models.build(section, 1)
    except errors.ConfigError as error:
        named = [metadata.naming_keys(family, problem) for problem in error.problems]
        raise errors.ConfigError([f"{where}: {line}" for line in named]) from error
    shapes = layout.shapes(model.config)
    places = tuple(layout.places(layout.table(family, model.config), shapes))
    weights = _weights(opened, family, hf)
    leaves, ignored = folders.match(path, family, places, shapes, weights)
    return folders.Folder(path, hf, section, leaves, (path,), ignored, tok)


def _vocabulary(opened: file.File, hf: dict) -> dict[str, int]:
    """`vocab_size`, once the embedding, the tokens and the metadata agree."""
    embedding = opened.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise errors.ConfigError(f"{opened.path}: has no matrix token_embd.weight")
    rows = embedding.shape[0]
    tokens = opened.metadata.get(f"{tokenizer.PREFIX}tokens")
    sizes = {"vocab_size": hf.get("vocab_size", rows)}
    if isinstance(tokens, list):
        sizes["tokenizer.ggml.tokens"] = len(tokens)
    if wrong := {key: size for key, size in sizes.items() if size != rows}:
        lines = [f"{key} has {size:,}" for key, size in wrong.items()]
        raise errors.ConfigError(
            f"{opened.path}: {' and '.join(lines)}, and the embedding {rows:,} rows, "
            "so that tokens would be read as others; take another copy"
        )
    return {"vocab_size": rows}


def _weights(opened: file.File, family: families.Family, hf: dict) -> dict[str, Weight]:
    """The tensors by the names of a folder; unknown ones keep theirs."""
    names = metadata.names(family, hf["num_hidden_layers"])
    kinds, last = {}, []
    for name, tensor in opened.tensors.items():
        kinds.setdefault(_stack(name), set()).add(str(tensor.dtype))
    weights = {}
    for name, tensor in opened.tensors.items():
        if name in (metadata.FACTORS, *metadata.LONG.values()):
            continue  # they are settings
        change = _change(name, family, hf)
        mixed = len(kinds[_stack(name)]) > 1 or family.name == "gemma"
        dtype = np.dtype(np.float32) if mixed else tensor.dtype
        weights[names.get(name, name)] = Weight(tensor, dtype, change, last)
    return weights


def _stack(name: str) -> str:
    """The name without the number of its layer."""
    return re.sub(r"^blk\.\d+\.", "", name)


def _change(name: str, family: families.Family, hf: dict) -> Change | None:
    """What is done to the values of a tensor that a file has, or None."""
    if family.name == "gemma" and name.endswith("_norm.weight"):
        return lambda values: values - np.float32(1)
    heads = {
        "attn_q": hf["num_attention_heads"],
        "attn_k": hf.get("num_key_value_heads") or hf["num_attention_heads"],
    }
    stack = _stack(name).rpartition(".")[0]
    if family.name == "llama" and stack in heads:
        return lambda values: _from_pairs(values, heads[stack])
    return None


def _from_pairs(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of heads in halves, where they lie in pairs."""
    if values.shape[0] % (2 * heads):
        return values  # of another shape than the model, which is said elsewhere
    pairs = values.reshape(heads, -1, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def to_pairs(values: np.ndarray, size: int) -> np.ndarray:
    """Rows of heads of that size in pairs, where they lie in halves."""
    halves = values.reshape(-1, 2, size // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)

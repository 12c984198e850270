# SPDX-License-Identifier: Apache-2.0
"""The tensors of a folder against those that a family's table asks for."""

from __future__ import annotations

import collections
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from alignjax import errors
from alignjax.huggingface import layout, leaves
from alignjax.storage import fingerprint, tensor_files

# Buffers that older versions of transformers saved and every version computes anew. A
# family may have more of its own in `IGNORED`.
IGNORED = (
    r".*\.rotary_emb\.(inv_freq|cos_cached|sin_cached)",
    r"(.*\.)?h\.\d+\.attn\.(bias|masked_bias)",  # the causal mask of GPT-2
    r".*\bposition_ids",
)
# Of models that see, only what they write with is read.
SEEING = r"(model\.)?(vision_tower|vision_model|multi_modal_projector)\..*"
FLOATS = ("float32", "bfloat16", "float16")
TIED = "lm_head.weight"


class Found(NamedTuple):
    """`{path of ours: Leaf}`, and the names of tensors that none is made of."""

    leaves: dict[str, leaves.Leaf]
    ignored: tuple[str, ...]


def match(
    path: pathlib.Path,
    family,
    table: Sequence,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, tensor_files.Tensor],
) -> Found:
    """Our parameters, made of the tensors of the folder `path`.

    Args:
      family: a module of `models`.
      table: its lines.
      shapes: of our parameters.

    Raises:
      ConfigError: tensors that are missing, too many, of another shape, or of a kind
        of number that is not computed with.
    """
    places = list(layout.places(table, shapes))
    tensors = _named_as(places, tensors)
    asked = {place.name for place in places}
    problems = []
    if missing := [place.name for place in places if place.name not in tensors]:
        problems.append(
            f"{path}: {some(missing)} missing; fetch all of its files, or check that "
            "config.json is of this model"
        )
    ignorable = "|".join((*IGNORED, *getattr(family, "IGNORED", ()), SEEING))
    beyond = [name for name in tensors if name not in asked]
    ignored = tuple(name for name in beyond if re.fullmatch(ignorable, name))
    extra = [name for name in beyond if name not in ignored]
    if TIED in extra and not any(place.name == TIED for place in places):
        extra.remove(TIED)
        ignored += (TIED,)
        problems += _of_a_tied_head(path, places, tensors)
    if extra:
        problems.append(
            f"{path}: {some(extra)} no part of a {family.__name__.rpartition('.')[2]} "
            "model with this config.json; the model may be of another family, or have "
            "adapters that are to be merged first"
        )
    there = [place for place in places if place.name in tensors]
    if wrong := [p for p in there if tensors[p.name].shape != p.shape]:
        shown = [f"{p.name} is {tensors[p.name].shape}, not {p.shape}" for p in wrong]
        problems.append(
            f"{path}: {'; '.join(shown[:3])}{_more(shown)}: config.json and the "
            "weights are not of one model"
        )
    kinds = {place.name: str(tensors[place.name].dtype) for place in there}
    if odd := [name for name, kind in kinds.items() if kind not in FLOATS]:
        shown = ", ".join(f"{name} of {kinds[name]}" for name in odd[:3])
        problems.append(
            f"{path}: {shown}{_more(odd)}: weights that are quantised or no floats; "
            f"take the folder in one of {', '.join(FLOATS)}"
        )
    if not problems:
        made, problems = _leaves(path, places, shapes, tensors)
    if problems:
        raise errors.ConfigError(problems)
    return Found(made, ignored)


def scores(path: pathlib.Path, tensors: Mapping[str, tensor_files.Tensor]) -> dict:
    """Fields of the section `model` for a model whose head gives scores.

    It is said to be tied, since it has no head for tokens. Raises ConfigError.
    """
    if layout.SCORES not in tensors or len(tensors[layout.SCORES].shape) != 2:
        raise errors.ConfigError(
            f"{path}: architectures says that it gives scores, and it has no matrix "
            f"{layout.SCORES}"
        )
    return {"score_heads": tensors[layout.SCORES].shape[0], "tied": True}


def some(names: Sequence[str]) -> str:
    """`a, b, c and 5 more are`, or `a is`."""
    return f"{', '.join(names[:3])}{_more(names)} {'is' if len(names) == 1 else 'are'}"


def _more(items: Sequence) -> str:
    return f" and {len(items) - 3} more" if len(items) > 3 else ""


def _named_as(
    places: Iterable[layout.Place], tensors: Mapping[str, tensor_files.Tensor]
) -> dict[str, tensor_files.Tensor]:
    """The tensors under the names of the table.

    The same model is saved with and without its prefix, and as a part of one that sees.
    """
    wanted = [place.name for place in places]
    ways = (
        lambda name: name,
        lambda name: re.sub(r"^(model|transformer)\.", "", name),
        lambda name: f"language_model.{name}",
        lambda name: re.sub(r"^model\.", "model.language_model.", name),
    )
    hits = [sum(way(name) in tensors for name in wanted) for way in ways]
    way = ways[hits.index(max(hits))]
    back = {way(name): name for name in (*wanted, TIED)}
    return {back.get(name, name): tensor for name, tensor in tensors.items()}


def _of_a_tied_head(path, places, tensors) -> list[str]:
    """What is wrong with a head beside the embedding that it is said to be tied to."""
    (place,) = (place for place in places if place.parts[0].ours == "embed")
    if place.name not in tensors or _same(tensors[TIED], tensors[place.name]):
        return []
    problem = (
        f"{path}: {TIED} is not {place.name}, though tie_word_embeddings is true; set "
        f"that to false in config.json if the two are to differ, or take {TIED} out"
    )
    return [problem]


def _same(a: tensor_files.Tensor, b: tensor_files.Tensor) -> bool:
    """Whether two tensors are equal bit for bit. Parts of both are read at a time."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    step = max(1, fingerprint.PIECE_BYTES * a.shape[0] // max(1, a.nbytes))
    bits = lambda tensor, i: tensor[i : i + step].view(np.uint8)
    starts = range(0, a.shape[0], step)
    return all(np.array_equal(bits(a, i), bits(b, i)) for i in starts)


def _leaves(path, places, shapes, tensors):
    """({path: Leaf}, problems), a leaf for each of our parameters."""
    held = collections.defaultdict(dict)
    for place in places:
        for part in place.parts:
            held[part.ours][part.index] = (tensors[place.name], place, part)
    made, problems = {}, []
    for name, pieces in held.items():
        kinds = {str(tensor.dtype) for tensor, _, _ in pieces.values()}
        if len(kinds) > 1:
            problems.append(
                f"{path}: the tensors of {name} are {' and '.join(sorted(kinds))} in "
                "different layers; convert the folder to one of them"
            )
        stacked = len(next(iter(pieces)))
        dtype = jax.numpy.dtype(min(kinds))
        made[name] = leaves.Leaf(tuple(shapes[name]), dtype, stacked, dict(pieces))
    lost = [name for name in shapes if name not in made]
    if lost:
        problems.append(
            f"{path}: {some(lost)} in no line of the family's table, which is a fault "
            "of alignjax"
        )
    return {name: made[name] for name in shapes if name in made}, problems

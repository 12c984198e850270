# SPDX-License-Identifier: Apache-2.0
"""Adapters as PEFT keeps them: adapter_model.safetensors and adapter_config.json.

PEFT has two matrices for each module of theirs, `lora_A` [r, in] and `lora_B` [out, r],
and with DoRA a vector of magnitudes; `names.Tensor` tells which projection of ours a
module is. Some of theirs are several of ours side by side, such as `qkv_proj`. Of those
all parts of ours share the A that is read; of ours each has an A of its own, so what is
written has the ranks of all of them, and B is block by block.
"""

from __future__ import annotations

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.huggingface import matching, peft_config
from alignjax.models import decoder_config, families, names
from alignjax.storage import atomic, json_files, tensor_files

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
_PART = re.compile(
    r"(.+)\.(lora_[AB])(?:\.default)?\.weight|"
    r"(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?"
)


class Module(NamedTuple):
    """A linear layer of theirs, in each layer of the model.

    Attributes:
      theirs: its name, with {layer}.
      ours: the projections that it is, side by side along the outputs.
      transposed: whether its weight is [out, in].
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool

    @property
    def short(self) -> str:
        """What is the same in all layers: `self_attn.q_proj`."""
        return self.theirs.partition("{layer}.")[2]


class Adapters(NamedTuple):
    """What a folder of PEFT's holds.

    Attributes:
      fields: of the section `model`: `lora_rank` and others.
      leaves: `{path: float32 array}`, stacked over layers.
      base: the name of the model that they belong to, as PEFT was told it, or None.
    """

    fields: dict[str, Any]
    leaves: dict[str, np.ndarray]
    base: str | None


def modules(family: str, c: decoder_config.DecoderConfig) -> list[Module]:
    """The modules of a model that may have adapters."""
    kernels = {f"{path}/kernel" for path in c.projections}
    found = []
    for line in names.tensors(families.module(family), c):
        if kernels.issuperset(line.leaves):
            ours = tuple(leaf.removesuffix("/kernel") for leaf in line.leaves)
            theirs = line.theirs.removesuffix(".weight")
            found.append(Module(theirs, ours, line.transposed))
    return found


def export(run, target: str | pathlib.Path, base: str | None = None) -> pathlib.Path:
    """Writes the adapters of a run as a folder of PEFT's, all of it or nothing.

    Args:
      run: a `checkpoint.Run`, of a model with adapters.
      target: made; must not have content.
      base: the name or path of the model in Hugging Face's form that they belong to;
        by default what the run started from, where that is such a model.

    Raises:
      ConfigError: a run without adapters, or one that trained other parameters too; a
        target that is not empty.
    """
    c, leaves = run.model.config, run.leaves()
    _check_run(run, c, leaves)
    if base is None:
        base = _base_of(run)
    tensors, known = write(leaves, run.config["model"]["family"], c)
    return save(target, tensors, {**known, "base_model_name_or_path": base})


def save(
    target: str | pathlib.Path, tensors: Mapping[str, np.ndarray], known: Mapping
) -> pathlib.Path:
    """Writes the two files of a folder of PEFT's. Raises ConfigError, see `export`."""
    target = pathlib.Path(target).absolute()
    with atomic.folder(target, sum(x.nbytes for x in tensors.values())) as made:
        kinds = {name: (x.dtype, x.shape) for name, x in tensors.items()}
        slots = tensor_files.create(made / WEIGHTS, kinds)
        for name, x in tensors.items():
            slots[name].write(x)
        text = json.dumps(known, indent=2, sort_keys=True)
        (made / CONFIG).write_text(text + "\n", encoding="utf-8")
    return target


def _check_run(run, c: decoder_config.DecoderConfig, leaves: Mapping[str, Any]) -> None:
    if not any(name.endswith("/lora_a") for name in leaves):
        raise errors.ConfigError(
            f"{run.path}: has no adapters (model.lora_rank is {c.lora_rank}); export "
            "the whole model"
        )
    trained = run.config.get("trainable", ".*")
    others = [n for n in leaves if "/lora_" not in n and re.fullmatch(trained, n)]
    if others:
        raise errors.ConfigError(
            f"{run.path}: {matching.some(others)} trained too, which a folder of "
            "adapters has no place for; export the whole model, merged"
        )


def _base_of(run) -> str | None:
    """What a run started from, where PEFT would find a model there."""
    known = run.config
    while name := (known.get("init") or {}).get("run"):
        path = pathlib.Path(name)
        if name.startswith("hf:") or not (path / "checkpoints").is_dir():
            return name.removeprefix("hf:")
        known = json_files.read(path / "config.json", dict, allow_nan=True)
        if imported := known.get("imported"):
            return imported["from"].removeprefix("hf:")
        if known.get("trainable", ".*") == ".*":
            return None
    return None


def write(
    leaves: Mapping[str, Any], family: str, c: decoder_config.DecoderConfig
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(the tensors by name, adapter_config.json) of adapters.

    Args:
      leaves: `{path: array, or what is read when it is sliced}`: adapters, and with
        DoRA the kernels too.
      family: a module of `models`, by name.
      c: settings of the model.
    """
    found, ranks, targets = {}, {}, []
    all_modules = modules(family, c)
    for module in all_modules:
        have = [path for path in module.ours if f"{path}/lora_a" in leaves]
        if not have:
            continue
        targets.append(module)
        if len(have) > 1:
            ranks[module.short] = len(have) * c.lora_rank
        for i in range(c.layers):
            name = PREFIX + module.theirs.format(layer=i)
            for part, x in _join(leaves, module, have, i, c).items():
                found[f"{name}.{part}"] = np.ascontiguousarray(x, np.float32)
    known = peft_config.write(
        c,
        targets=_short(targets, all_modules),
        ranks=ranks,
        transposed=all(module.transposed for module in targets),
    )
    return found, known


def _join(leaves, module: Module, have: list[str], i: int, c) -> dict[str, np.ndarray]:
    """The tensors of a module in layer i, `have` being those of ours with adapters."""
    rank = c.lora_rank
    read = lambda path, part: np.asarray(leaves[f"{path}/{part}"][i], np.float32)
    a = [read(path, "lora_a").reshape(-1, rank) for path in have]
    inputs = len(a[0])
    columns, magnitudes = [], []
    for path in module.ours:
        if path in have:
            b = read(path, "lora_b").reshape(rank, -1)
        else:
            size = math.prod(leaves[f"{path}/kernel"].shape[1:])
            b = np.zeros((rank, size // inputs), np.float32)
        at = have.index(path) if path in have else 0
        block = np.zeros((len(have) * rank, b.shape[1]), np.float32)
        block[at * rank : (at + 1) * rank] = b
        columns.append(block)
        if c.lora_dora:
            norm = _norm(read(path, "kernel"), inputs)
            more = read(path, "lora_m").reshape(-1) if path in have else 0
            magnitudes.append(norm + more)
    out = {
        "lora_A.weight": np.concatenate(a, axis=1).T,
        "lora_B.weight": np.concatenate(columns, axis=1).T,
    }
    if c.lora_dora:
        out["lora_magnitude_vector"] = np.concatenate(magnitudes)
    return out


def _norm(kernel: np.ndarray, inputs: int) -> np.ndarray:
    """[O], over the inputs of each output of a kernel of one layer."""
    return np.linalg.norm(kernel.reshape(inputs, -1).astype(np.float32), axis=0)


def _short(targets: list[Module], known: list[Module]) -> list[str]:
    """Names that PEFT finds these modules by and no others: `q_proj`, if that will do.

    Several families call two modules the same, such as `attn.c_proj` and `mlp.c_proj`.
    """
    last = lambda module: module.short.rpartition(".")[2]
    out = set()
    for module in targets:
        same = [other for other in known if last(other) == last(module)]
        fits = all(other in targets for other in same)
        out.add(last(module) if fits else module.short)
    return sorted(out)


def read(
    path: str | pathlib.Path,
    family: str,
    c: decoder_config.DecoderConfig,
    leaves: Mapping[str, Any],
) -> Adapters:
    """The adapters in a folder of PEFT's, for a model.

    Adapters of a rank below the largest get rows of zeros, and where their scale is
    another than that of the largest, B is multiplied with what it is more.

    Args:
      path: of the folder.
      family: a module of `models`, by name.
      c: settings of the model, without adapters.
      leaves: `{path: array, or what is read when it is sliced}` of the model; its
        kernels are read where there are magnitudes.

    Raises:
      ConfigError: every problem that can be seen together: what the adapters have that
        is not computed here, tensors of modules that the model has not, of other
        shapes, or that lack in some layer.
    """
    path = pathlib.Path(path)
    known = peft_config.read(path / CONFIG)
    tensors = _open(path)
    found, problems = _sort(path, tensors, modules(family, c), c)
    asked = {}
    for module in found:
        layers = [module.theirs.format(layer=i) for i in range(c.layers)]
        each = {(known.rank(x), known.scale(x), known.alpha(x)) for x in layers}
        if len(each) > 1:
            problems.append(
                f"{path / CONFIG}: rank_pattern or alpha_pattern tell layers of "
                f"{module.short} apart, which is not computed here"
            )
        asked[module] = min(each)
    problems += _shapes(path, found, asked, known, leaves)
    problems += [
        f"{path / CONFIG}: target_modules: {name!r} has no tensors in {WEIGHTS}"
        for name in known.targets
        if not any(f".{m.short}".endswith(f".{name}") for m in found)
    ]
    if problems:
        raise errors.ConfigError(problems)

    rank, scale, alpha = max(asked.values())
    out: dict[str, list] = {}
    for module, layers in found.items():
        share = asked[module][1] / scale
        for layer, parts in enumerate(layers):
            for name, x in _split(module, parts, leaves, layer, rank, share):
                out.setdefault(name, []).append(x)
    fields = dict(
        lora_rank=rank,
        lora_alpha=float(alpha),
        lora_rslora=known.rslora,
        lora_dora=known.dora,
        lora_dropout=known.dropout,
        lora_targets="|".join(p for module in found for p in module.ours),
    )
    stacked = {name: np.stack(layers) for name, layers in out.items()}
    return Adapters(fields, stacked, known.base)


def _open(path: pathlib.Path) -> dict[str, tensor_files.Tensor]:
    if (path / WEIGHTS).is_file():
        return tensor_files.open_file(path / WEIGHTS)
    pickled = [p.name for p in path.glob("adapter_model.bin")]
    reason = f"; {pickled[0]} is pickled, and never read" if pickled else ""
    raise errors.ConfigError(
        f"{path}: has no {WEIGHTS}{reason}; save the adapters with PEFT's "
        "save_pretrained"
    )


def _sort(path, tensors, known: list[Module], c: decoder_config.DecoderConfig):
    """({module: its tensors by layer}, problems)."""
    where = {
        module.theirs.format(layer=i): (module, i)
        for module in known
        for i in range(c.layers)
    }
    found: dict[Module, list[dict]] = {}
    strange = []
    for name, tensor in tensors.items():
        match = _PART.fullmatch(name.removeprefix(PREFIX))
        owner = match and (match[1] or match[3])
        if owner not in where:
            strange.append(name)
            continue
        module, i = where[owner]
        layers = found.setdefault(module, [{} for _ in range(c.layers)])
        layers[i][match[2] or "m"] = tensor
    problems = []
    if strange:
        problems.append(
            f"{path / WEIGHTS}: {matching.some(strange)} of no projection of this "
            "model; such adapters are not computed here"
        )
    if not found and not strange:
        problems.append(f"{path / WEIGHTS}: has no tensors")
    return found, problems


def _shapes(path, found, asked, known, leaves) -> list[str]:
    """Tensors that lack, are no floats, or have another shape than is said."""
    problems = []
    for module, layers in found.items():
        rank, sizes = asked[module][0], _sizes(module, leaves)
        want = {"lora_A": (rank, sizes[0]), "lora_B": (sum(sizes[1:]), rank)}
        if known.dora:
            want["m"] = (sum(sizes[1:]),)
        for i, parts in enumerate(layers):
            name = module.theirs.format(layer=i)
            shapes = {part: tuple(tensor.shape) for part, tensor in parts.items()}
            if shapes != want:
                problems.append(
                    f"{path / WEIGHTS}: {name} has {shapes or 'nothing'}, and the "
                    f"model and {CONFIG} ask {want} of every layer"
                )
            kinds = {str(tensor.dtype) for tensor in parts.values()}
            if odd := kinds.difference(matching.FLOATS):
                problems.append(
                    f"{path / WEIGHTS}: {name} has numbers of {', '.join(odd)}; save "
                    f"them as one of {', '.join(matching.FLOATS)}"
                )
    return problems[:8]


def _sizes(module: Module, leaves) -> list[int]:
    """Inputs of a module, and outputs of each projection that it is."""
    shapes = [tuple(leaves[f"{path}/kernel"].shape[1:]) for path in module.ours]
    contract = 2 if module.ours[0].endswith("/o") else 1
    inputs = math.prod(shapes[0][:contract])
    return [inputs, *(math.prod(shape) // inputs for shape in shapes)]


def _split(module: Module, parts, leaves, layer: int, rank: int, share: float):
    """(path, array) of the adapters of one layer that a module's tensors are."""
    inputs, *widths = _sizes(module, leaves)
    a = np.zeros((inputs, rank), np.float32)
    b = np.zeros((rank, sum(widths)), np.float32)
    theirs = {
        part: np.asarray(tensor[...], np.float32) for part, tensor in parts.items()
    }
    have = len(theirs["lora_A"])
    a[:, :have] = theirs["lora_A"].T
    b[:have] = theirs["lora_B"].T if share == 1 else theirs["lora_B"].T * share
    ends = np.cumsum(widths)
    for path, end, width in zip(module.ours, ends, widths, strict=True):
        shape = tuple(leaves[f"{path}/kernel"].shape[1:])
        contract = 2 if path.endswith("/o") else 1
        here = slice(end - width, end)
        yield f"{path}/lora_a", a.reshape(*shape[:contract], rank)
        yield f"{path}/lora_b", b[:, here].reshape(rank, *shape[contract:])
        if "m" in theirs:
            kernel = np.asarray(leaves[f"{path}/kernel"][layer], np.float32)
            m = theirs["m"][here] - _norm(kernel, inputs)
            yield f"{path}/lora_m", m.reshape(shape[contract:])

# SPDX-License-Identifier: Apache-2.0
"""Adapters as PEFT stores them: adapter_model.safetensors and adapter_config.json.

PEFT has two matrices for each linear module of a model, `lora_A` [r, in] and `lora_B`
[out, r], and with DoRA a vector of magnitudes. A module is one projection here, or
several side by side, such as `qkv_proj`. Those share the A that is read; here each has
an A of its own, so what is written has the ranks of all of them, and B block by block.
"""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.huggingface import layout, peft_config
from alignjax.models import decoder_config, families
from alignjax.storage import atomic, tensor_files

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = peft_config.PREFIX
_TENSOR = re.compile(
    r"(.+)\.(lora_[AB])(?:\.default)?\.weight|"
    r"(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?"
)


class Module(NamedTuple):
    """A linear layer of a folder's model, in each layer of the model.

    Attributes:
      name: with {layer}.
      projections: paths of the projections that it is, side by side along the outputs.
      transposed: whether its weight is [out, in].
    """

    name: str
    projections: tuple[str, ...]
    transposed: bool

    @property
    def short(self) -> str:
        """The part that is the same in all layers: `self_attn.q_proj`."""
        return self.name.partition("{layer}.")[2]


class Adapters(NamedTuple):
    """The contents of a folder of adapters.

    Attributes:
      fields: of the section `model`: `lora_rank` and others.
      leaves: `{path: float32 array}`, stacked over layers.
    """

    fields: dict[str, Any]
    leaves: dict[str, np.ndarray]


def modules(family: str, c: decoder_config.DecoderConfig) -> list[Module]:
    """The modules of a model that may have adapters."""
    kernels = {f"{path}/kernel" for path in c.projections}
    return [
        Module(
            line.name.removesuffix(".weight"),
            tuple(path.removesuffix("/kernel") for path in line.paths),
            line.transposed,
        )
        for line in layout.table(families.find(family), c)
        if kernels.issuperset(line.paths)
    ]


def save(
    target: str | pathlib.Path, tensors: Mapping[str, np.ndarray], settings: Mapping
) -> pathlib.Path:
    """Writes a folder for PEFT, or nothing; ConfigError if `target` has content."""
    target = pathlib.Path(target).absolute()
    with atomic.folder(target, sum(x.nbytes for x in tensors.values())) as path:
        kinds = {name: (x.dtype, x.shape) for name, x in tensors.items()}
        slots = tensor_files.create(path / WEIGHTS, kinds)
        for name, x in tensors.items():
            slots[name].write(x)
        atomic.write_json(path / CONFIG, settings)
    return target


def write(
    leaves: Mapping[str, Any], family: str, c: decoder_config.DecoderConfig
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(the tensors by name, adapter_config.json) of adapters.

    Args:
      leaves: `{path: array, or leaf that is read when it is sliced}`: adapters, and
        with DoRA the kernels too.
      family: of the model, by name.
      c: of the model.
    """
    tensors, ranks, targets = {}, {}, []
    all_modules = modules(family, c)
    for module in all_modules:
        adapted = [path for path in module.projections if f"{path}/lora_a" in leaves]
        if not adapted:
            continue
        targets.append(module)
        if len(adapted) > 1:
            ranks[module.short] = len(adapted) * c.lora_rank
        for i in range(c.layers):
            name = PREFIX + module.name.format(layer=i)
            for part, x in _join(leaves, module, adapted, i, c).items():
                tensors[f"{name}.{part}"] = np.ascontiguousarray(x, np.float32)
    plain = lambda x: int(x) if x == int(x) else x
    root = 0.5 if c.lora_rslora else 1.0
    alpha = lambda rank: plain(c.lora_alpha * (rank / c.lora_rank) ** root)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": c.lora_rank,
        "lora_alpha": plain(c.lora_alpha),
        "lora_dropout": c.lora_dropout,
        "use_rslora": c.lora_rslora,
        "use_dora": c.lora_dora,
        "target_modules": _short(targets, all_modules),
        "rank_pattern": {re.escape(name): rank for name, rank in ranks.items()},
        "alpha_pattern": {re.escape(name): alpha(r) for name, r in ranks.items()},
        "bias": "none",
        "fan_in_fan_out": not all(module.transposed for module in targets),
        "modules_to_save": None,
        "layers_to_transform": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    return tensors, settings


def _join(
    leaves, module: Module, adapted: list[str], i: int, c
) -> dict[str, np.ndarray]:
    """The tensors of a module in layer i; `adapted` are its projections' adapters."""
    rank = c.lora_rank
    read = lambda path, part: np.asarray(leaves[f"{path}/{part}"][i], np.float32)
    a = [read(path, "lora_a").reshape(-1, rank) for path in adapted]
    inputs = len(a[0])
    columns, magnitudes = [], []
    for path in module.projections:
        if path in adapted:
            b = read(path, "lora_b").reshape(rank, -1)
        else:
            size = math.prod(leaves[f"{path}/kernel"].shape[1:])
            b = np.zeros((rank, size // inputs), np.float32)
        at = adapted.index(path) if path in adapted else 0
        block = np.zeros((len(adapted) * rank, b.shape[1]), np.float32)
        block[at * rank : (at + 1) * rank] = b
        columns.append(block)
        if c.lora_dora:
            norm = _norm(read(path, "kernel"), inputs)
            delta = read(path, "lora_m").reshape(-1) if path in adapted else 0
            magnitudes.append(norm + delta)
    tensors = {
        "lora_A.weight": np.concatenate(a, axis=1).T,
        "lora_B.weight": np.concatenate(columns, axis=1).T,
    }
    if c.lora_dora:
        tensors["lora_magnitude_vector"] = np.concatenate(magnitudes)
    return tensors


def _norm(kernel: np.ndarray, inputs: int) -> np.ndarray:
    """[O], over the inputs of each output of a kernel of one layer."""
    return np.linalg.norm(kernel.reshape(inputs, -1).astype(np.float32), axis=0)


def _short(targets: list[Module], all_modules: list[Module]) -> list[str]:
    """Names by which PEFT finds these modules and no others: `q_proj` where it can.

    Several families call two modules the same, such as `attn.c_proj` and `mlp.c_proj`.
    """
    last = lambda module: module.short.rpartition(".")[2]
    names = set()
    for module in targets:
        same = [other for other in all_modules if last(other) == last(module)]
        fits = all(other in targets for other in same)
        names.add(last(module) if fits else module.short)
    return sorted(names)


def read(
    path: str | pathlib.Path,
    family: str,
    c: decoder_config.DecoderConfig,
    leaves: Mapping[str, Any],
) -> Adapters:
    """The adapters in a folder, for a model.

    Adapters of a rank below the largest get rows of zeros, and where their scale is not
    that of the largest, B is multiplied by the ratio.

    Args:
      path: of the folder.
      family: of the model, by name.
      c: of the model without adapters.
      leaves: `{path: array, or leaf that is read when it is sliced}` of the model; its
        kernels are read where there are magnitudes.

    Raises:
      ConfigError: every problem that can be seen together: adapters that are not
        computed here, tensors of unknown modules, of other shapes, or that are missing
        in some layer.
    """
    path = pathlib.Path(path)
    settings = peft_config.read(path / CONFIG)
    names = {
        module: [module.name.format(layer=i) for i in range(c.layers)]
        for module in modules(family, c)
    }
    by_module, problems = _by_module(path, names)
    numbers = {}  # module: (rank, scale, alpha)
    by_name = settings.numbers([name for module in by_module for name in names[module]])
    for module in by_module:
        by_layer = {by_name[name] for name in names[module]}
        if len(by_layer) > 1:
            problems.append(
                f"{path / CONFIG}: rank_pattern or alpha_pattern tell layers of "
                f"{module.short} apart, which is not computed here"
            )
        numbers[module] = min(by_layer)
    problems += _check_shapes(path, by_module, numbers, settings, leaves)
    stored = [
        name
        for module, by_layer in by_module.items()
        for name, tensors in zip(names[module], by_layer, strict=True)
        if tensors
    ]
    every = [name for in_layers in names.values() for name in in_layers]
    problems += settings.check_modules(stored, every, WEIGHTS)
    if problems:
        raise errors.ConfigError(problems)

    rank, scale, alpha = max(numbers.values())
    layers: dict[str, list] = {}
    for module, tensors_by_layer in by_module.items():
        ratio = numbers[module][1] / scale
        for i, tensors in enumerate(tensors_by_layer):
            for name, x in _split(module, tensors, leaves, i, rank, ratio):
                layers.setdefault(name, []).append(x)
    fields = dict(
        lora_rank=rank,
        lora_alpha=float(alpha),
        lora_rslora=settings.rslora,
        lora_dora=settings.dora,
        lora_dropout=settings.dropout,
        lora_targets="|".join(p for module in by_module for p in module.projections),
    )
    stacked = {name: np.stack(arrays) for name, arrays in layers.items()}
    return Adapters(fields, stacked)


def _by_module(path, names: Mapping[Module, list[str]]):
    """({module: its tensors by layer}, problems), given the names in each layer."""
    if not (path / WEIGHTS).is_file():
        pickled = [p.name for p in path.glob("adapter_model.bin")]
        reason = f"; {pickled[0]} is pickled, and never read" if pickled else ""
        raise errors.ConfigError(
            f"{path}: has no {WEIGHTS}{reason}; save the adapters with PEFT's "
            "save_pretrained"
        )
    owners = {
        name: (module, i)
        for module, in_layers in names.items()
        for i, name in enumerate(in_layers)
    }
    by_module: dict[Module, list[dict]] = {}
    unknown = []
    for name, tensor in tensor_files.open_file(path / WEIGHTS).items():
        match = _TENSOR.fullmatch(name.removeprefix(PREFIX))
        owner = match and (match[1] or match[3])
        if owner not in owners:
            unknown.append(name)
            continue
        module, i = owners[owner]
        layers = by_module.setdefault(module, [{} for _ in names[module]])
        layers[i][match[2] or "m"] = tensor
    problems = []
    if unknown:
        problems.append(
            f"{path / WEIGHTS}: {errors.some(unknown)}: of no projection of this "
            "model; such adapters are not computed here"
        )
    if not by_module and not unknown:
        problems.append(f"{path / WEIGHTS}: has no tensors")
    return by_module, problems


def _check_shapes(
    path, by_module, numbers, settings: peft_config.Settings, leaves
) -> list[str]:
    """Tensors that are missing, no floats, or of another shape than the files say."""
    problems = []
    for module, layers in by_module.items():
        rank, (inputs, *widths) = numbers[module][0], _sizes(module, leaves)
        expected = {"lora_A": (rank, inputs), "lora_B": (sum(widths), rank)}
        if settings.dora:
            expected["m"] = (sum(widths),)
        for i, tensors in enumerate(layers):
            name = module.name.format(layer=i)
            shapes = {part: tuple(tensor.shape) for part, tensor in tensors.items()}
            if shapes != expected:
                problems.append(
                    f"{path / WEIGHTS}: {name} has {shapes or 'nothing'}, and the "
                    f"model and {CONFIG} ask {expected} of every layer"
                )
            dtypes = {str(tensor.dtype) for tensor in tensors.values()}
            if odd := dtypes.difference(layout.FLOATS):
                problems.append(
                    f"{path / WEIGHTS}: {name} has numbers of {', '.join(odd)}; save "
                    f"them as one of {', '.join(layout.FLOATS)}"
                )
    return problems[:8]


def _sizes(module: Module, leaves) -> list[int]:
    """Inputs of a module, and outputs of each of its projections."""
    shapes = [tuple(leaves[f"{p}/kernel"].shape[1:]) for p in module.projections]
    inputs = math.prod(shapes[0][: _contracted(module.projections[0])])
    return [inputs, *(math.prod(shape) // inputs for shape in shapes)]


def _contracted(projection: str) -> int:
    """The number of input axes of a projection's kernel."""
    return 2 if projection.endswith("/o") else 1


def _split(
    module: Module, tensors, leaves, layer: int, rank: int, ratio: float
) -> Iterator[tuple[str, np.ndarray]]:
    """(path, array) of the adapters of one layer in a module's tensors."""
    inputs, *widths = _sizes(module, leaves)
    a = np.zeros((inputs, rank), np.float32)
    b = np.zeros((rank, sum(widths)), np.float32)
    arrays = {part: np.asarray(x[...], np.float32) for part, x in tensors.items()}
    narrow = len(arrays["lora_A"])
    a[:, :narrow] = arrays["lora_A"].T
    b[:narrow] = arrays["lora_B"].T if ratio == 1 else arrays["lora_B"].T * ratio
    ends = np.cumsum(widths)
    for path, end, width in zip(module.projections, ends, widths, strict=True):
        shape = tuple(leaves[f"{path}/kernel"].shape[1:])
        split = _contracted(path)
        columns = slice(end - width, end)
        yield f"{path}/lora_a", a.reshape(*shape[:split], rank)
        yield f"{path}/lora_b", b[:, columns].reshape(rank, *shape[split:])
        if "m" in arrays:
            kernel = np.asarray(leaves[f"{path}/kernel"][layer], np.float32)
            m = arrays["m"][columns] - _norm(kernel, inputs)
            yield f"{path}/lora_m", m.reshape(shape[split:])

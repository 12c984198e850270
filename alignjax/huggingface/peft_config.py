# SPDX-License-Identifier: Apache-2.0
"""adapter_config.json of PEFT: read, or refused by name, and written."""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import config, errors
from alignjax.models import decoder_config
from alignjax.storage import json_files

# They are read, or change nothing about what adapters compute.
_KNOWN = set(
    "peft_type r lora_alpha lora_dropout use_rslora use_dora rank_pattern "
    "alpha_pattern target_modules base_model_name_or_path bias init_lora_weights "
    "auto_mapping inference_mode peft_version revision task_type fan_in_fan_out "
    "qalora_group_size ensure_weight_tying exclude_modules runtime_config eva_config "
    "megatron_core "
    "use_qalora".split()
)
# These leave the weights of the model as they are; "pissa" and others do not.
_STARTS = (True, False, "gaussian", "eva", "orthogonal")
_REFUSED = {
    "layers_to_transform": "adapters of some layers only; write zeros into the others",
    "layers_pattern": "adapters of some layers only",
    "modules_to_save": "whole modules trained beside adapters; merge them into the "
    "model with PEFT's merge_and_unload, and import that",
    "lora_bias": "biases of B",
    "trainable_token_indices": "rows of the embedding",
    "target_parameters": "adapters of parameters that are no modules",
    "layer_replication": "layers that are repeated",
    "use_qalora": "adapters of groups of inputs",
    "loftq_config": "a base that was changed; save it, and import that first",
    "corda_config": "a base that was changed; save it, and import that first",
}


class Known(NamedTuple):
    """What an adapter_config.json says.

    Attributes:
      base: the model, as PEFT was told it.
      targets: names of modules, none where it has a pattern.
      rslora, dora, dropout: as in `settings.DecoderConfig`.
      ranks, alphas: by pattern, of the modules where they differ; "" is of the others.
    """

    base: str | None
    targets: tuple[str, ...]
    rslora: bool
    dora: bool
    dropout: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def rank(self, module: str) -> int:
        return _of(self.ranks, module)

    def alpha(self, module: str) -> float:
        return _of(self.alphas, module)

    def scale(self, module: str) -> float:
        """What the product of A and B of a module is multiplied with."""
        root = 0.5 if self.rslora else 1.0
        return self.alpha(module) / self.rank(module) ** root


def _of(patterns: Mapping[str, Any], module: str):
    """As PEFT: the first pattern that the end of a module's name matches."""
    for pattern, value in patterns.items():
        if pattern and re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return patterns[""]


def read(path: pathlib.Path) -> Known:
    """Raises ConfigError with everything that is not computed here, by name."""
    found = json_files.read(path, dict, error=errors.ConfigError)
    refuse = lambda name, why: f"{path}: {name} = {found.get(name)!r}: {why}"
    problems = [
        refuse(name, f"{why}, which is not computed here")
        for name, why in _REFUSED.items()
        if found.get(name)
    ]
    if found.get("peft_type") != "LORA":
        problems.append(refuse("peft_type", "only LORA is read"))
    if found.get("bias", "none") != "none":
        problems.append(
            refuse("bias", "biases of the model were trained too; merge them into it")
        )
    if found.get("init_lora_weights", True) not in _STARTS:
        problems.append(
            refuse(
                "init_lora_weights",
                "it changed the weights of the model; save the adapters with PEFT's "
                "path_initial_model_for_weight_conversion",
            )
        )
    problems += [
        refuse(name, "an unknown field, which may change what adapters compute")
        for name, value in found.items()
        if name not in _KNOWN and name not in _REFUSED and value
    ]
    pattern = lambda name: config.expect(found.get(name) or {}, dict, f"{path}: {name}")
    ranks = {"": found.get("r")} | pattern("rank_pattern")
    alphas = {"": found.get("lora_alpha")} | pattern("alpha_pattern")
    if bad := [x for x in ranks.values() if type(x) is not int or x < 1]:
        problems.append(refuse("r", f"{bad[0]!r} is no positive whole number"))
    if bad := [x for x in alphas.values() if not _is_number(x) or x <= 0]:
        problems.append(refuse("lora_alpha", f"{bad[0]!r} is no positive number"))
    dropout = found.get("lora_dropout") or 0.0
    if not _is_number(dropout) or not 0 <= dropout < 1:
        problems.append(refuse("lora_dropout", "it is not in [0, 1)"))
    for name in (*ranks, *alphas):
        try:
            re.compile(name)
        except re.error as error:
            problems.append(f"{path}: the pattern {name!r}: {error}")
    if problems:
        raise errors.ConfigError(problems)
    targets = found.get("target_modules")
    return Known(
        base=found.get("base_model_name_or_path"),
        targets=tuple(targets) if isinstance(targets, list) else (),
        rslora=bool(found.get("use_rslora")),
        dora=bool(found.get("use_dora")),
        dropout=float(dropout),
        ranks=ranks,
        alphas=alphas,
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def write(
    c: decoder_config.DecoderConfig,
    *,
    targets: Sequence[str],
    ranks: Mapping[str, int],
    transposed: bool,
) -> dict[str, Any]:
    """What PEFT needs to know of adapters.

    Args:
      c: settings of the model.
      targets: names of the modules that have adapters.
      ranks: by name, of modules whose rank is not `c.lora_rank`.
      transposed: whether weights of modules are [out, in].
    """
    plain = lambda x: int(x) if x == int(x) else x
    root = 0.5 if c.lora_rslora else 1.0
    more = lambda rank: c.lora_alpha * (rank / c.lora_rank) ** root
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": c.lora_rank,
        "lora_alpha": plain(c.lora_alpha),
        "lora_dropout": c.lora_dropout,
        "use_rslora": c.lora_rslora,
        "use_dora": c.lora_dora,
        "target_modules": list(targets),
        "rank_pattern": {re.escape(name): rank for name, rank in ranks.items()},
        "alpha_pattern": {re.escape(n): plain(more(r)) for n, r in ranks.items()},
        "bias": "none",
        "fan_in_fan_out": not transposed,
        "modules_to_save": None,
        "layers_to_transform": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }

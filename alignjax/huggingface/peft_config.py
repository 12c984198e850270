# SPDX-License-Identifier: Apache-2.0
"""The contents of PEFT's adapter_config.json, or why they are not computed here."""

from __future__ import annotations

import itertools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import config, errors, patterns
from alignjax.storage import json_files

PREFIX = "base_model.model."
MOST_PATTERNS = 1000
ALL = "all-linear"  # as `target_modules`: every linear module but the heads
# Fields of adapter_config.json that are read, or change nothing that adapters compute.
_KNOWN = set(
    "peft_type r lora_alpha lora_dropout use_rslora use_dora rank_pattern "
    "alpha_pattern target_modules base_model_name_or_path bias init_lora_weights "
    "auto_mapping inference_mode peft_version revision task_type fan_in_fan_out "
    "qalora_group_size ensure_weight_tying exclude_modules runtime_config eva_config "
    "megatron_core".split()
)
# Ways to start that leave the weights of the model as they are; "pissa" does not.
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


class Settings(NamedTuple):
    """The contents of an adapter_config.json.

    Attributes:
      targets, excluded: names of modules, or their ends; or a pattern of whole names.
        None of either where the file leaves it to the tensors.
      ranks, alphas: by pattern, of modules that differ; "" is for all others.
      where: the file, for messages.
    """

    targets: tuple[str, ...] | str | None
    excluded: tuple[str, ...] | str | None
    rslora: bool
    dora: bool
    dropout: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    where: str

    def numbers(self, modules: Sequence[str]) -> dict[str, tuple[int, float, float]]:
        """`{module: (rank, factor of the product of A and B, alpha)}`."""
        ranks, alphas = (
            _by_module_name(patterns, modules, f"{self.where}: {name}")
            for name, patterns in (
                ("rank_pattern", self.ranks),
                ("alpha_pattern", self.alphas),
            )
        )
        root = 0.5 if self.rslora else 1.0
        rows = zip(modules, ranks, alphas, strict=True)
        return {name: (r, alpha / r**root, alpha) for name, r, alpha in rows}

    def check_modules(
        self, stored: Sequence[str], modules: Sequence[str], weights: str
    ) -> list[str]:
        """Targets without tensors, and tensors of modules that are no targets.

        Args:
          stored: the modules that have tensors.
          modules: those that the model has.
          weights: the name of the file with the tensors.
        """
        targets = self._named("target_modules", self.targets, modules)
        excluded = self._named("exclude_modules", self.excluded, modules) or set()
        odd = {"target_modules: leaves out": set(stored) - (targets or set(stored))}
        odd |= {"exclude_modules: names": excluded.intersection(stored)}
        problems = [
            f"{self.where}: {how} {errors.some(sorted(names))}, whose tensors PEFT "
            "would ignore; mend the field, or save the adapters anew"
            for how, names in odd.items()
            if names
        ]
        ends = self.targets if isinstance(self.targets, tuple) else ()
        accounted = excluded.union(stored)
        return problems + [
            f"{self.where}: target_modules: {end!r:.80} has no tensors in {weights}"
            for end in ends
            if not any(_is_end(name, end) for name in accounted)
        ]

    def _named(self, field: str, value, modules: Sequence[str]) -> set[str] | None:
        if isinstance(value, str):
            (flags,) = patterns.matching([value], modules, f"{self.where}: {field}")
            return set(itertools.compress(modules, flags))
        if value is None:
            return None
        return {x for x in modules if any(_is_end(x, end) for end in value)}


def _is_end(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end.removeprefix(PREFIX)}")


def _by_module_name(
    by_pattern: Mapping[str, Any], modules: Sequence[str], where: str
) -> list[Any]:
    """As PEFT: of the first pattern that matches the end of a module's name."""
    values = {rf"(.*\.)?({x})": value for x, value in by_pattern.items() if x}
    matches = patterns.matching(list(values), modules, where)
    first = lambda *flags: next(
        (value for flag, value in zip(flags, values.values(), strict=True) if flag),
        by_pattern[""],
    )
    return list(map(first, *matches)) if matches else [by_pattern[""]] * len(modules)


def read(path: pathlib.Path) -> Settings:
    """An adapter_config.json.

    Raises:
      ConfigError: every field that asks for what is not computed here.
    """
    hf = json_files.read(path, dict, error=errors.ConfigError)
    reasons = {
        name: f"{reason}, which is not computed here"
        for name, reason in _REFUSED.items()
        if hf.get(name)
    }
    if hf.get("peft_type") != "LORA":
        reasons["peft_type"] = "only LORA is read"
    if hf.get("bias", "none") != "none":
        reasons["bias"] = "biases of the model were trained too; merge them into it"
    if hf.get("init_lora_weights", True) not in _STARTS:
        reasons["init_lora_weights"] = (
            "it changed the weights of the model; save the adapters with PEFT's "
            "path_initial_model_for_weight_conversion"
        )
    for name in hf.keys() - _KNOWN - _REFUSED.keys():
        if hf[name]:
            reasons[name] = "an unknown field, which may change what adapters compute"
    targets, excluded = hf.get("target_modules"), hf.get("exclude_modules") or None
    for name, value in (("target_modules", targets), ("exclude_modules", excluded)):
        several = isinstance(value, list) and all(isinstance(x, str) for x in value)
        if not isinstance(value, str | None) and not (several and value):
            reasons[name] = "it is no list of names, and no pattern"
    numbers = lambda name: config.expect(hf.get(name) or {}, dict, f"{path}: {name}")
    ranks = {"": hf.get("r")} | numbers("rank_pattern")
    alphas = {"": hf.get("lora_alpha")} | numbers("alpha_pattern")
    number = lambda x: type(x) in (int, float) and abs(x) <= sys.float_info.max
    for pattern, x in ranks.items():
        if type(x) is not int or not 1 <= x <= 2**16:
            name = "rank_pattern" if pattern else "r"
            reasons[name] = f"{x!r:.60} is no positive whole number up to 65,536"
    for pattern, x in alphas.items():
        if not number(x) or x <= 0:
            name = "alpha_pattern" if pattern else "lora_alpha"
            reasons[name] = f"{x!r:.60} is no positive number"
    dropout = hf.get("lora_dropout") or 0.0
    if not number(dropout) or not 0 <= dropout < 1:
        reasons["lora_dropout"] = "it is not in [0, 1)"
    problems = [
        f"{path}: {k} = {hf.get(k)!r:.60}: {reasons[k]}" for k in sorted(reasons)
    ]
    for field, by_pattern in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
        if len(by_pattern) > MOST_PATTERNS:
            problems.append(
                f"{path}: {field}: has {len(by_pattern):,} patterns, of "
                f"{MOST_PATTERNS:,} at most; give them for kinds of modules"
            )
        try:
            patterns.matching(list(by_pattern), (), f"{path}: {field}")
        except errors.ConfigError as error:
            problems += error.problems
    if problems:
        raise errors.ConfigError(problems)
    if targets == ALL or (isinstance(targets, list) and ALL in targets):
        targets = None
    return Settings(
        targets=tuple(targets) if isinstance(targets, list) else targets,
        excluded=tuple(excluded) if isinstance(excluded, list) else excluded,
        rslora=bool(hf.get("use_rslora")),
        dora=bool(hf.get("use_dora")),
        dropout=float(dropout),
        ranks=ranks,
        alphas=alphas,
        where=str(path),
    )

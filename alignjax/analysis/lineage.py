# SPDX-License-Identifier: Apache-2.0
"""Whether several runs are one model, trained on: what sums of them ask for.

Sums mean something where runs have the same shapes, tokens and positions, and come from
the same weights: two models that began apart have no units in common.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from alignjax import errors
from alignjax.analysis import leaves
from alignjax.analysis import run as runs
from alignjax.data.chat import templates
from alignjax.huggingface import layout

# Fields of a model that change how it computes or learns, not what parameters mean.
_IGNORED = frozenset(
    """dtype attention remat unroll dropout embedding_noise router_loss router_z_loss
    init_std max_length context""".split()
)


class Origin(NamedTuple):
    """Digests and folders of a run and those before it.

    `known` is False where the first of them is not: it was imported or merged, or is
    gone.
    """

    names: frozenset[str]
    known: bool


def origin(run: runs.Run) -> Origin:
    """Where a run's weights come from, as far as that can be followed."""
    names: set[str] = set()
    while str(run.path) not in names:
        names |= {str(run.path), run.digest()}
        settings = run.config
        if merged := settings.get("merged"):
            others = [merged[name] for name in ("base", "onto") if name in merged]
            names |= {parent["digest"] for parent in [*merged["runs"], *others]}
        if merged or settings.get("imported") or not run.directory.is_dir():
            return Origin(frozenset(names), False)
        section = settings.get("init") or {}
        if section.get("run") is None:
            return Origin(frozenset(names), True)
        names.add(run.meta()["data"].get("init"))
        try:
            run = runs.open_run(section["run"], section.get("step")).at()
        except (errors.CheckpointError, errors.ConfigError):
            return Origin(frozenset(names), False)
    return Origin(frozenset(names), True)


def check(opened: Sequence[runs.Run]) -> None:
    """Raises ConfigError for runs that are not of one model, with all that differs."""
    first, *others = opened
    shapes = merged_leaves(first)
    problems = []
    for other in others:
        where = f"{other.path} and {first.path}"
        lines = leaves.mismatches(merged_leaves(other), shapes)
        lines += _other_model(other, first)
        lines += _other_texts(other, first)
        problems += [f"{where}: {line}" for line in lines]
    if problems:
        raise errors.ConfigError(
            [*problems, "runs to be merged have one shape, tokenizer and chat format"]
        )


def merged_leaves(run: runs.Run) -> dict[str, Any]:
    """The parameters, read when they are sliced, with adapters in their kernels."""
    return layout.merge(run.leaves(), run.model.config)


def _other_model(other: runs.Run, first: runs.Run) -> list[str]:
    sides = [
        dataclasses.asdict(run.model.config.without_extras()) for run in (other, first)
    ]
    return [
        f"model.{name}: {value!r} and {sides[1][name]!r}"
        for name, value in sides[0].items()
        if name not in _IGNORED and value != sides[1][name]
    ]


def _other_texts(other: runs.Run, first: runs.Run) -> list[str]:
    lines = []
    tokenizers = [run.full_tokenizer for run in (other, first)]
    kinds = [None if tok is None else templates.encoding(tok) for tok in tokenizers]
    if kinds[0] != kinds[1]:
        shown = ["none" if kind is None else kind[:12] for kind in kinds]
        lines.append(f"tokenizer: {shown[0]} and {shown[1]}")
    # A model of texts is where models of dialogues come from.
    if None not in (other.chats, first.chats) and other.chats != first.chats:
        lines.append(f"data.chat: {other.chats!r} and {first.chats!r}")
    starts = [(run.config.get("data") or {}).get("bos", True) for run in (other, first)]
    if starts[0] != starts[1]:
        lines.append(f"data.bos: {starts[0]} and {starts[1]}")
    return lines


def check_origins(
    opened: Sequence[runs.Run], base: runs.Run | None = None
) -> list[str]:
    """Lines about runs of which it cannot be told whether they belong together.

    Args:
      base: of which the others must have started; without it they must have one origin.

    Raises:
      ConfigError: runs that began apart, or that did not start from the base.
    """
    origins = [origin(run) for run in opened]
    start = None if base is None else {base.digest(), str(base.path)}
    problems, notes = [], []
    for run, one in zip(opened, origins, strict=True):
        apart = start or origins[0].names
        if not apart.isdisjoint(one.names):
            continue
        other = opened[0] if base is None else base
        if one.known and (base is not None or origins[0].known):
            start_of = other.path if base else f"what {other.path} did"
            problems.append(f"{run.path} did not start from {start_of}")
        else:
            notes.append(
                f"it cannot be told whether {run.path} started from {other.path}"
            )
    if problems:
        remedy = "their sum is no model of either; --any_base merges them all the same"
        raise errors.ConfigError([*problems, remedy])
    return notes

# SPDX-License-Identifier: Apache-2.0
"""The fastest way to run a step on some devices: microbatches, remat and meshes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from alignjax import errors
from alignjax.models import decoder
from alignjax.plan import memory, outcome, step, topology


def run(
    section: Mapping,
    where: topology.Topology,
    options: Mapping[str, Any],
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Every mesh and remat policy, each with the fewest microbatches that fit.

    More microbatches than that only cost time. What does not fit by its arguments alone
    is not compiled.

    Args:
      section: the whole config.
      where: the devices.
      options: of `step.plan`.
      report: is told each that was tried, in a line.

    Returns:
      Rows of settings and figures, those that fit first, the fastest first.

    Raises:
      ConfigError: nothing that could be compiled.
    """
    rows, refused = [], []
    for mesh, remat in itertools.product(_meshes(where), decoder.REMAT_POLICIES):
        for microbatches in _divisors(section["batch_size"]):
            model = {**(section.get("model") or {}), "remat": remat}
            fields = {"mesh": mesh, "model": model, "microbatches": microbatches}
            settings = {"mesh": mesh, "remat": remat, "microbatches": microbatches}
            try:
                planned = step.plan({**section, **fields}, where.devices, **options)
            except errors.ConfigError as error:
                refused.append(f"{_words(settings)}: {error.problems[0]}")
                break
            if (
                sum(memory.of_arguments(planned).values())
                > memory.USABLE * where.card.memory
            ):
                report(f"{_words(settings)}: its arguments alone do not fit")
                break
            try:
                compiled = step.compile(planned, where.options)
            except errors.ConfigError:
                report(f"{_words(settings)}: the compiler refuses it, it does not fit")
                continue
            figures = outcome.measure(planned, compiled, where)
            row = {**settings, "fits": figures["fits"]}
            row |= {
                "memory": figures["memory"]["total"],
                **figures.get("predicted", {}),
            }
            report(_line(row))
            rows.append(row)
            if row["fits"]:
                break
    if not rows and refused:
        raise errors.ConfigError(refused)
    # Where no time is known, in the order tried: what recomputes least comes first.
    return sorted(rows, key=lambda row: (not row["fits"], row.get("step_s", 0)))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    return "\n".join(map(_line, rows)) or "nothing fits; see above"


def _line(row: Mapping[str, Any]) -> str:
    parts = [f"{_words(row)}: {row['memory'] / 2**30:,.1f} GiB"]
    parts += [] if row["fits"] else ["does not fit"]
    if "step_s" in row:
        rates = f"{row['tokens_per_second']:,.0f} tokens/s, MFU {row['mfu']:.1%}"
        parts += [f"{row['step_s'] * 1e3:,.1f} ms", rates]
    return ", ".join(parts)


def _words(settings: Mapping[str, Any]) -> str:
    mesh = ",".join(f"{axis}={size}" for axis, size in settings["mesh"].items())
    return f"mesh {mesh} remat {settings['remat']} x{settings['microbatches']}"


def _meshes(where: topology.Topology) -> Iterator[dict[str, int]]:
    """Powers of two along fsdp and data; tensor of 1, which one host seldom wants."""
    n = len(where.devices)
    for data in _divisors(n):
        yield {"data": data, "fsdp": n // data, "tensor": 1}


def _divisors(n: int) -> list[int]:
    """The powers of two that divide n, from 1."""
    return [2**k for k in range(n.bit_length()) if n % 2**k == 0]

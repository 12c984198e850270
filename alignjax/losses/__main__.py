# SPDX-License-Identifier: Apache-2.0
"""Prints every loss by kind: its options with their defaults, paper and equation."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from alignjax.losses import catalogue, links, scores

MOVING = """\
no loss, but with any that has a reference
  TR-DPO, arXiv:2404.09656, whose reference follows the policy:
      soft: --config.reference.update_every=1 --config.reference.update_share=0.6
      hard: --config.reference.update_every=512"""


def describe(name: str, function: Callable) -> str:
    """What it is, what it takes and what it asks for, a line each."""
    asked = catalogue.traits(function)
    lines = [f"  {name}", f"      {first_line(function)}"]
    options = [
        name if p.default is p.empty else f"{name}={p.default!r}"
        for name, p in catalogue.options(function).items()
    ]
    if options:
        lines.append(f"      options: {', '.join(options)}")
    if asked.inputs:
        lines.append(f"      reads of the batch: {', '.join(asked.inputs)}")
    if asked.needs:
        lines.append(f"      reads of a response: {', '.join(asked.needs)}")
    if asked.coupled:
        lines.append("      batch-coupled: wants a statistic of the whole batch")
    return "\n".join(lines)


def first_line(function: Callable) -> str:
    return inspect.getdoc(function).splitlines()[0]


def table() -> str:
    """All of the catalogue, as text."""
    parts = []
    for kind, losses in catalogue.CATALOGUE.items():
        free = [n for n, f in losses.items() if not catalogue.traits(f).reference]
        parts.append(f"{kind} losses ({len(losses)})")
        parts += [describe(name, losses[name]) for name in sorted(losses)]
        if kind == "preference":
            parts.append(f"  without a reference: {', '.join(sorted(free))}")
    for kind, known in {
        "links": links.LINKS,
        "divergences": scores.DIVERGENCES,
    }.items():
        parts.append(f"{kind} ({len(known)})")
        parts += [f"  {name}: {first_line(known[name])}" for name in sorted(known)]
    parts.append(MOVING)
    return "\n".join(parts)


if __name__ == "__main__":
    print(table())

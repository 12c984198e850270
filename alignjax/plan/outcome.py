# SPDX-License-Identifier: Apache-2.0
"""All that a compiled step tells about a card, as plain data and as a page."""

from __future__ import annotations

from typing import Any

import jax

from alignjax.plan import cards, floors, memory, program, step, topology
from alignjax.tracking import throughput

PREALLOCATED = 0.75  # of a GPU's memory, by jax unless it is told otherwise
# Kernels in a language of their own: of them only the bytes are known.
OPAQUE = {"tpu_custom_call", "__gpu$xla.gpu.triton", "mosaic_gpu"}


def measure(
    planned: step.Planned, compiled: Any, where: topology.Topology
) -> dict[str, Any]:
    """The figures of a step on its devices; seconds, bytes and operations of each.

    Those of `_of_program` are left out where the compiler shows no program, as some
    versions of TPUs' do.

    Args:
      planned: the step.
      compiled: it, `jax.stages.Compiled`.
      where: the devices that it is compiled for.
    """
    card, devices = where.card, len(where.devices)
    kinds = memory.by_kind(planned, compiled.memory_analysis())
    total = sum(kinds.values())
    notes = list(planned.notes)
    figures = {
        "topology": where.name,
        "device": f"{devices} x {card.kind}",
        "mesh": dict(planned.run.mesh.shape),
        "jax": jax.__version__,
        "notes": notes,
        "tokens": planned.tokens,
        "fits": total <= memory.USABLE * card.memory,
        "memory": {"card": card.memory, "total": total, **kinds},
    }
    if card.gpu and figures["fits"] and total > PREALLOCATED * card.memory:
        setting = f"XLA_PYTHON_CLIENT_MEM_FRACTION={memory.USABLE}"
        notes.append(f"more than the 75 % that jax takes by itself: set {setting}")
    if (text := step.text(compiled)) is None:
        notes.append("the compiler shows no program, so only memory is known")
        return figures
    parsed = program.parse(text)
    kernels = program.kernels(parsed)
    if unknown := sorted({x.root for x in kernels} & OPAQUE):
        notes.append(f"{', '.join(unknown)}: kernels whose operations nobody counts")
    return figures | _of_program(planned, parsed, kernels, card)


def _of_program(planned, parsed, kernels, card: cards.Card) -> dict[str, Any]:
    """Temporaries, operations, floors, collectives, and the time to expect."""
    devices = planned.run.mesh.size
    transfers = floors.collectives(kernels, card, dict(planned.run.mesh.shape))
    parts = floors.by_part(kernels, card)
    moving = sum(row.seconds for row in transfers)
    computing = sum(x.seconds for x in parts.values()) - moving
    exposed = card.factor * computing + moving
    return {
        "largest": [
            {"array": x.shape, "of": x.place, "count": n, "bytes": n * x.nbytes}
            for x, n in memory.largest(parsed)
        ],
        "flops": {
            "analytic": planned.flops / devices,
            "counted": sum(x.times * x.flops for x in kernels),
        },
        "floors": {name: part._asdict() for name, part in parts.items()},
        "collectives": [row._asdict() for row in transfers],
        "predicted": {
            "factor": card.factor,
            "factor_measured_on": card.measured,
            "step_s": exposed,
            "step_s_if_collectives_hide": max(card.factor * computing, moving),
            "tokens_per_second": planned.tokens / exposed,
            "mfu": planned.flops
            / exposed
            / (throughput.peak_flops(card.kind) * devices),
        },
    }


def advice(figures: dict[str, Any]) -> str:
    """What to change where a step does not fit, by what takes most."""
    sizes = {k: v for k, v in figures["memory"].items() if k not in ("card", "total")}
    most = max(sizes, key=sizes.get)
    if most == "temporaries":
        return "raise microbatches, choose model.remat, or lower batch_size or length"
    if most == "reference":
        return "set reference.store, which keeps its log-probs in its place"
    return "split it over more devices by mesh.fsdp, or train adapters (model.lora_*)"


def page(figures: dict[str, Any]) -> str:
    """The figures for a terminal."""
    mesh = " x ".join(f"{k} {n}" for k, n in figures["mesh"].items() if n > 1)
    head = f"{figures['device']}, jax {figures['jax']}"
    sections = [
        [*figures["notes"], head + (f", mesh {mesh}" if mesh else "")],
        _memory_lines(figures),
    ]
    if "predicted" in figures:
        sections += [
            [_operations(figures["flops"])],
            _floor_lines(figures["floors"]),
            _collective_lines(figures["collectives"]),
            _predicted_lines(figures),
        ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _memory_lines(figures: dict[str, Any]) -> list[str]:
    sizes = dict(figures["memory"])
    card, total = sizes.pop("card"), sizes.pop("total")
    gib = lambda n: f"{n / 2**30:,.2f} GiB"
    verdict = "it fits" if figures["fits"] else "IT DOES NOT FIT"
    lines = [f"memory of each device: {gib(total)} of {gib(card)}: {verdict}"]
    lines += [f"  {name:22} {gib(size):>12}" for name, size in sizes.items()]
    if "largest" in figures:
        lines.append("  the largest temporaries at the fullest moment:")
    for row in figures.get("largest", ()):
        array = f"{row['count']:>3} x {row['array']:30}"
        lines.append(f"    {array} {gib(row['bytes']):>12}  {row['of']}")
    return lines


def _operations(flops: dict[str, float]) -> str:
    counted, analytic = (flops[name] / 1e12 for name in ("counted", "analytic"))
    return (
        f"operations of each device: {counted:,.2f} TFLOP in the program, "
        f"{analytic:,.2f} by the model's mathematics"
    )


def _floor_lines(parts: dict[str, dict]) -> list[str]:
    lines = [f"{'part':26} {'floor ms':>9} {'kernels':>8} {'TFLOP':>8} {'GB':>8}"]
    for name, x in parts.items():
        ms, tera, giga = x["seconds"] * 1e3, x["flops"] / 1e12, x["nbytes"] / 1e9
        lines.append(
            f"{name:26} {ms:9.2f} {x['kernels']:8,.0f} {tera:8.2f} {giga:8.1f}"
        )
    total = sum(x["seconds"] for x in parts.values())
    return [*lines, f"{'sum':26} {total * 1e3:9.2f}"]


def _collective_lines(rows: list[dict]) -> list[str]:
    if not rows:
        return []
    lines = [f"{'collectives':26} {'ms':>9} {'times':>8} {'GB':>8}"]
    for x in rows:
        name, ms, giga = f"{x['opcode']} {x['axes']}", x["seconds"] * 1e3, x["nbytes"]
        lines.append(f"{name:26} {ms:9.2f} {x['times']:8,.0f} {giga / 1e9:8.2f}")
    total = sum(x["nbytes"] for x in rows)
    return [*lines, f"{'sum':44} {total / 1e9:8.2f}"]


def _predicted_lines(figures: dict[str, Any]) -> list[str]:
    x = figures["predicted"]
    count = x["factor_measured_on"]
    source = f"measured on {count} steps" if count else "that of the h200, not measured"
    hidden = x["step_s_if_collectives_hide"] * 1e3
    rates = f"{x['tokens_per_second']:,.0f} tokens/s, MFU {x['mfu']:.1%}"
    step = f"{x['step_s'] * 1e3:,.1f} ms a step of {figures['tokens']:,} tokens"
    how = f"floors x {x['factor']} ({source}), then collectives"
    return [
        f"predicted: {step}, {rates}",
        f"  {how}; {hidden:,.1f} ms where those hide behind it",
    ]

# SPDX-License-Identifier: Apache-2.0
"""Where the memory of a step goes: arguments by kind, and the largest temporaries.

What is live at the fullest moment follows from the order in which the program runs.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from alignjax.experiment import initial
from alignjax.plan import program
from alignjax.plan.step import Planned

# Of a GPU's memory; the driver and its libraries take the rest.
USABLE = 0.92
# Segments of a path that say how a value is computed, and not what it is.
_HOW = re.compile(
    r"^$|^(jit|jvp|transpose|vmap|shard_map|checkpoint|remat)\b|^\w+\._\w+$|"
    r"^(while|body|cond|eval_jaxpr|rematted_computation|closed_call|remat2|Decoder\b.*)"
)


class Buffer(NamedTuple):
    """A temporary: its array as in the text, and the path of what computes it."""

    shape: str
    place: str

    @property
    def nbytes(self) -> int:
        return program.nbytes(self.shape)


def by_kind(planned: Planned, stats: Any) -> dict[str, int]:
    """Bytes on each device, by what they hold.

    Args:
      planned: the step.
      stats: `Compiled.memory_analysis()`.
    """
    sizes = {
        **of_arguments(planned),
        "new outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }
    return {name: size for name, size in sizes.items() if size}


def of_arguments(planned: Planned) -> dict[str, int]:
    """Those of the arguments of a step alone, which need no compiler."""
    state, frozen, batch, _ = planned.arguments
    sizes = {
        "parameters": _nbytes(state.params),
        "optimizer": _nbytes(state.opt_state),
        "moving copies": _nbytes(state.extra),
        "untrained parameters": _nbytes(frozen.base),
        "reference": _nbytes(frozen.reference),
        "batch": _nbytes(batch),
    }
    if frozen.reference is not None and _shares(planned):
        sizes["reference"] -= sizes["untrained parameters"]
    return sizes


def _shares(planned: Planned) -> bool:
    """Whether the reference is the model that the policy starts from."""
    run = planned.run
    if run.parent is None:
        return run.config.reference.run in (None, run.config.init.run)
    return initial.same_parameters(run.reference, run.parent)


def _nbytes(tree: Any) -> int:
    shard = lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    return sum(map(shard, jax.tree.leaves(tree)))


def largest(parsed: program.Program, count: int = 10) -> list[tuple[Buffer, int]]:
    """The temporaries that take most at the fullest moment, alike ones together.

    Returns:
      `(buffer, how many)`, the largest together first.
    """
    _, live = fullest(parsed, parsed.entry)
    alike = collections.Counter(live)
    size = lambda item: -item[0].nbytes * item[1]
    return sorted(alike.items(), key=size)[:count]


def fullest(parsed: program.Program, name: str) -> tuple[int, list[Buffer]]:
    """The bytes of the temporaries of a computation at their peak, and which."""
    body = list(parsed.computations[name].values())
    by_name = parsed.computations[name]
    buffers: list[Buffer] = []
    values: dict[str, Any] = {}  # numbers of buffers, or lists of them for tuples
    born: list[int] = []
    last: dict[int, int] = {}
    inner: dict[int, tuple[int, list[Buffer]]] = {}

    def new(i: int, shape: str, place: str) -> Any:
        if shape.startswith("("):
            return [new(i, part, place) for part in _parts(shape)]
        buffers.append(Buffer(shape.partition("{")[0], place))
        born.append(i)
        return len(buffers) - 1

    for i, x in enumerate(body):
        operands = [values.get(operand) for operand in x.operands]
        if x.opcode == "get-tuple-element":
            index = int(re.search(r"index=(\d+)", x.attributes)[1])
            whole = operands[0]
            values[x.name] = whole[index] if isinstance(whole, list) else None
            continue
        for number in _flat(operands):
            last[number] = i
        if x.opcode == "tuple":
            values[x.name] = operands
        elif x.opcode in ("bitcast", "while", "opt-barrier"):
            values[x.name] = operands[0]
        elif x.opcode in ("parameter", "constant") or x.opcode.endswith("-start"):
            values[x.name] = None
        elif x.opcode.endswith("-done"):
            start = by_name[x.operands[0]]
            operands = [values.get(operand) for operand in start.operands]
            for number in _flat(operands):
                last[number] = i
            values[x.name] = _result(parsed, by_name, start, operands, new, i, x.shape)
        else:
            values[x.name] = _result(parsed, by_name, x, operands, new, i, x.shape)
        if x.opcode in ("while", "call", "conditional"):
            called = x.called
            if x.opcode == "while":
                called = [re.search(r"body=%?([\w.\-]+)", x.attributes)[1]]
                _name_stacks(parsed, called[0], by_name[x.operands[0]], values, buffers)
            inner[i] = max(fullest(parsed, c) for c in called)
    root = next(x for x in body if x.root)
    results = set(_flat([values.get(root.name)]))  # they are in other buffers
    changes = [0] * (len(body) + 1)
    for number, buffer in enumerate(buffers):
        if number in last and number not in results:
            changes[born[number]] += buffer.nbytes
            changes[last[number] + 1] -= buffer.nbytes
    total, best, where = 0, -1, 0
    for i in range(len(body)):
        total += changes[i]
        if (size := total + inner.get(i, (0, []))[0]) > best:
            best, where = size, i
    live = [
        buffer
        for number, buffer in enumerate(buffers)
        if born[number] <= where <= last.get(number, -1) and number not in results
    ]
    return best, live + inner.get(where, (0, []))[1]


def _result(parsed, by_name, x, operands, new, i: int, shape: str) -> Any:
    """The buffers of what an instruction gives; those that it updates are the same."""
    if not x.opcode.startswith("fusion"):
        if x.opcode in program.IN_PLACE:
            return operands[0]
        return new(i, shape, place(x.op_name))
    inside = parsed.computations[x.called[0]]
    root = next(y for y in inside.values() if y.root)
    roots = [inside[name] for name in root.operands] if root.opcode == "tuple" else []
    shapes = _parts(shape) if roots else [shape]
    values = [
        _updated(inside, y, operands, new, i, part, place(x.op_name))
        for y, part in zip(roots or [root], shapes, strict=True)
    ]
    return values if roots else values[0]


def _updated(inside, root, operands, new, i: int, shape: str, where: str) -> Any:
    while root.opcode in program.SAME and root.operands[0] in inside:
        root = inside[root.operands[0]]
    if root.opcode in program.IN_PLACE:
        target = inside[root.operands[0]]
        while target.opcode in program.SAME:
            target = inside[target.operands[0]]
        if target.opcode == "parameter":
            return operands[target.number]
    return new(i, shape, where)


def _name_stacks(parsed, body_name: str, start, values, buffers) -> None:
    """Buffers that a loop fills, by what it puts there; they begin as zeros."""
    body = parsed.computations[body_name]
    root = next(x for x in body.values() if x.root)
    numbers = values.get(start.name)
    if root.opcode != "tuple" or not isinstance(numbers, list):
        return
    for number, name in zip(numbers, root.operands, strict=True):
        x = body[name]
        if x.opcode.endswith("-done"):
            x = body[x.operands[0]]
        if not isinstance(number, int) or "dynamic_update_slice" not in x.op_name:
            continue
        sources = [body[operand] for operand in x.operands[1:] if operand in body]
        source = max(sources, key=lambda y: program.nbytes(y.shape), default=None)
        while source is not None and source.opcode in ("get-tuple-element", "bitcast"):
            source = body.get(source.operands[0])
        if source is not None and source.op_name:
            buffers[number] = buffers[number]._replace(place=place(source.op_name))


def place(op_name: str) -> str:
    """The names of modules and operations in a path, such as `layers/mlp/up`."""
    parts = [x for x in op_name.split("/") if not _HOW.match(x)]
    return "/".join(dict.fromkeys(parts[-4:])) or "?"


def _parts(shape: str) -> list[str]:
    """The shapes of the elements of a tuple."""
    parts, depth, start = [], 0, 1
    for i, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or not depth:
            part = re.sub(r"/\*.*?\*/", "", shape[start:i]).strip()
            parts, start = [*parts, part] if part else parts, i + 1
    return parts


def _flat(value: Any) -> Sequence[int]:
    if isinstance(value, list):
        return [number for part in value for number in _flat(part)]
    return [] if value is None else [value]

# SPDX-License-Identifier: Apache-2.0
"""A compiled program, read from its scheduled text: the kernels that a step launches.

Of each kernel, how often it runs, the operations of its matrix products, and the bytes
that it must read and write at least: a fusion reads each operand once, only the slice
where it takes one, and writes its result once, only the update where it is one in
place.
"""

from __future__ import annotations

import functools
import gzip
import math
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from alignjax.storage import filenames

BITS = {"pred": 8, "token": 0, "opaque": 0}  # of an element; others end in a number
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
ELSEWHERE = re.compile(r"S\([1-9]")  # in a layout: on the chip, or on the host
NAME = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(r"\b(?:calls|to_apply|body|branch_computations)=\{?([^,}]+)")
TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:"?(\d+)')
TARGET = re.compile(r'custom_call_target="([^"]+)"')
OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
GROUPS = re.compile(
    r"replica_groups=(\{\{.*?\}\}|\[[\d,]+\]<=[^ ]+|mesh\[.*?\{[^}]*\})"
)
INTERMEDIATE = re.compile(r'intermediate_tensor_shape": \{.*?"dimensions": \[([^\]]*)')
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
MOST_BYTES = 2**28  # of a text
FILE = "program.txt.gz"  # of a run, beside its trace
DEVICE, MODULE = "// device: ", "HloModule "
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")

NOTHING = {  # they move no bytes
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "iota",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
COLLECTIVES = {
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
}
IN_PLACE = ("dynamic-update-slice", "scatter")
SLICES = ("dynamic-slice", "gather", "slice")
SAME = ("bitcast", "copy", "reshape")  # inside a fusion, another view of its operand


class Instruction(NamedTuple):
    """One line of the text; `shape` and `attributes` as they stand there.

    `number` is that of a parameter, or the value of an integer.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    attributes: str
    root: bool
    number: int = -1

    @property
    def op_name(self) -> str:
        """The path of the source that it comes from; empty where it has none."""
        match = OP_NAME.search(self.attributes)
        return match[1] if match else ""

    @property
    def called(self) -> list[str]:
        """The computations that it calls."""
        match = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        names = match[1].split(",") if match else CALLED.findall(self.attributes)
        return [name.strip().lstrip("%") for name in names]


class Program(NamedTuple):
    """Instructions of computations by name, each in the order in which they run.

    Attributes:
      computations: those.
      entry: the name of the one that runs first.
      name: of the whole, as traces have it.
      device: the kind that it is compiled for, where `write` noted it.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str
    name: str = ""
    device: str = ""


class Attention(NamedTuple):
    """What a fused kernel of attention computes: heads of H, T queries, S keys."""

    head: int
    queries: int
    keys: int
    masked: bool


class Kernel(NamedTuple):
    """What is launched.

    Attributes:
      name, opcode: in the text; the opcode of a fusion is "fusion".
      op_name: the path of the source.
      root: the opcode of the last instruction of a fusion, the target of a custom call,
        or its own opcode.
      times: how often it runs in a step.
      flops: of matrix products, each time.
      read, written: bytes, each time.
      attention: where it is a fused one.
      groups: the replica groups of a collective, as in the text.
    """

    name: str
    opcode: str
    op_name: str
    root: str
    times: float
    flops: float = 0.0
    read: int = 0
    written: int = 0
    attention: Attention | None = None
    groups: str = ""


def write(path: pathlib.Path, text: str, device: str) -> None:
    """Writes a text under a line with the kind of device that it is for.

    It is compressed where the name ends in .gz.
    """
    data = f"{DEVICE}{device}\n{text}".encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def read(path: pathlib.Path) -> str:
    """The text that `write` wrote.

    Raises:
      OSError, EOFError, ValueError: no regular file, a damaged one, or a large one.
    """
    with filenames.open_file(path) as file:
        stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        try:
            data = stream.read(MOST_BYTES + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
    if len(data) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    return data.decode()


def parse(text: str) -> Program:
    """The program of a text. Raises ValueError for one that is none."""
    computations, entry, current, name, device = {}, None, None, "", ""
    for line in text.splitlines():
        if line.startswith(DEVICE):
            device = line.removeprefix(DEVICE)
        elif line.startswith(MODULE):
            name = line.removeprefix(MODULE).partition(",")[0]
        elif header := HEADER.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif current is not None and (head := INSTRUCTION.match(line)):
            instruction = _instruction(line, head)
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("no text of a compiled program: it has no ENTRY computation")
    return Program(computations, entry, name, device)


def _instruction(line: str, head: re.Match) -> Instruction:
    rest = line[head.end() :]
    size = _closing(rest, 0) + 1 if rest[0] == "(" else rest.index(" ")
    shape, rest = rest[:size], rest[size:].lstrip()
    start = rest.index("(")
    stop = _closing(rest, start)
    operands = tuple(NAME.findall(rest[start:stop]))
    opcode, number = rest[:start], -1
    literal = rest[start + 1 : stop]
    if opcode in ("parameter", "constant") and literal.isdecimal():
        number = int(literal)
    return Instruction(
        head[2], opcode, shape, operands, rest[stop + 1 :], bool(head[1]), number
    )


def _closing(text: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise ValueError(f"no closing bracket: {text:.80}")


@functools.lru_cache(maxsize=1 << 16)
def nbytes(shape: str, anywhere: bool = False) -> int:
    """The bytes of an array, or of all arrays of a tuple, in the device's memory.

    With `anywhere` those too that lie on the chip, or on the host.
    """
    total = 0
    for dtype, dims, layout in ARRAY.findall(shape):
        if ELSEWHERE.search(layout) and not anywhere:
            continue
        bits = BITS.get(dtype) if dtype in BITS else int(re.search(r"\d+", dtype)[0])
        total += math.prod(map(int, filter(None, dims.split(",")))) * bits
    return total // 8


def sizes(shape: str) -> list[int]:
    """The sizes of the axes of an array."""
    return [int(x) for x in ARRAY.search(shape)[2].split(",") if x]


def kernels(program: Program) -> list[Kernel]:
    """What a step launches, in order."""
    return list(_walk(program, program.entry, 1.0))


def _walk(program: Program, name: str, times: float) -> Iterator[Kernel]:
    body = program.computations[name]
    for x in body.values():
        opcode = x.opcode.removesuffix("-start")
        if opcode in NOTHING or opcode.endswith(("-done", "-update")):
            continue
        if opcode == "while":
            inner = re.search(r"body=%?([\w.\-]+)", x.attributes)[1]
            yield from _walk(program, inner, times * _trips(program, x))
        elif opcode in ("call", "async", "conditional"):
            for called in x.called:  # of branches, one runs: which, only a run tells
                share = len(x.called) if opcode == "conditional" else 1
                yield from _walk(program, called, times / share)
        elif opcode in COLLECTIVES:
            yield _collective(body, x, opcode, times)
        else:
            yield _kernel(program, body, x, opcode, times)


def _trips(program: Program, loop: Instruction) -> int:
    """How often a loop runs: as it says, or until its counter is at a constant."""
    if match := TRIPS.search(loop.attributes):
        return int(match[1])
    name = re.search(r"condition=%?([\w.\-]+)", loop.attributes)[1]
    condition = program.computations.get(name, {})
    root = next((x for x in condition.values() if x.root), None)
    if root is None or "direction=LT" not in root.attributes:
        return 1
    operands = [condition[x] for x in root.operands if x in condition]
    limit = max([1, *(x.number for x in operands)])
    step = max([1, *(_step(program, loop, x) for x in operands)])
    return -(-limit // step)


def _step(program: Program, loop: Instruction, counter: Instruction) -> int:
    """What a turn adds to a counter: more than 1 where it does the work of several."""
    place = re.match(r", index=(\d+)", counter.attributes)
    name = re.search(r"body=%?([\w.\-]+)", loop.attributes)[1]
    body = program.computations[name]
    root = next(x for x in body.values() if x.root)
    if place is None or root.opcode != "tuple":
        return 1
    after = body.get(root.operands[int(place[1])])
    if after is None or after.opcode != "add":
        return 1
    return max([1, *(body[x].number for x in after.operands if x in body)])


def _kernel(program, body, x: Instruction, opcode: str, times: float) -> Kernel:
    operands = [body[name] for name in x.operands if name in body]
    if opcode == "fusion":
        inside = program.computations[x.called[0]]
        read, written = _traffic(inside)
        root = _root(inside)
        op_name = x.op_name or root.op_name
        return Kernel(
            x.name,
            opcode,
            op_name,
            root.opcode,
            times,
            flops=_flops_inside(program, inside),
            read=read,
            written=written,
        )
    if opcode in IN_PLACE:
        read = written = nbytes(operands[1 if opcode != "scatter" else -1].shape)
    else:
        result = _result(x)
        read = sum(nbytes(operand.shape) for operand in operands)
        if opcode in SLICES:
            read = min(read, nbytes(result, anywhere=True))
        written = nbytes(result)
    attention, flops = _attention(x, body)
    if attention is None:
        flops = _flops(x, body)
    target = TARGET.search(x.attributes)
    root = target[1] if target else opcode
    return Kernel(
        x.name, opcode, x.op_name, root, times, flops, read, written, attention
    )


def _result(x: Instruction) -> str:
    """The shape of what is written; the start of a copy or slice has more in its own.

    A copy has `(to, from, context)` there, a slice `((from), to, context)`.
    """
    place = {"copy-start": 0, "slice-start": 1}.get(x.opcode)
    if place is None:
        return x.shape
    return [match[0] for match in ARRAY.finditer(x.shape)][place]


def _collective(body, x: Instruction, opcode: str, times: float) -> Kernel:
    """`read` is what a device sends, or of a gather what it has at the end."""
    operands = [body[name].shape for name in x.operands if name in body]
    size = sum(nbytes(shape, anywhere=True) for shape in operands)
    match = GROUPS.search(x.attributes)
    groups = match[1].rstrip(",") if match else ""
    if opcode == "all-gather":
        size *= len(first_group(groups))
    return Kernel(x.name, opcode, x.op_name, opcode, times, read=size, groups=groups)


def first_group(groups: str) -> list[int]:
    """The devices of the first replica group, in any notation; [0] for none.

    `{{0,1},{2,3}}` lists them. `[4,2]<=[2,4]T(1,0)` numbers devices over an array of
    2 x 4, transposes it, and cuts it into four groups of two. `mesh['a'=2,'b'=4],
    device_ids=([2,4]T(1,0)) {'b'}` makes a mesh of it, and groups go along its axes.
    """
    if groups.startswith("{{"):
        return _numbers(groups[: groups.index("}")])
    if groups.startswith("["):
        shape, _, order = groups.partition("<=")
        return _devices(order).reshape(_numbers(shape))[0].tolist()
    if groups.startswith("mesh["):
        mesh, _, along = groups.rpartition("{")
        mesh, _, order = mesh.partition("]")
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh)}
        numbered = f"[{math.prod(sizes.values())}]"
        devices = _devices(order if "[" in order else numbered)
        index = tuple(slice(None) if f"'{x}'" in along else 0 for x in sizes)
        return devices.reshape(list(sizes.values()))[index].ravel().tolist()
    return [0]


def _devices(order: str) -> np.ndarray:
    """The numbers of devices in the order `[2,4]T(1,0)`."""
    dims, _, axes = order.partition("T(")
    dims = _numbers(dims)
    devices = np.arange(math.prod(dims)).reshape(dims)
    return devices.transpose(_numbers(axes)) if axes else devices


def _numbers(text: str) -> list[int]:
    return [int(i) for i in re.findall(r"\d+", text)]


def _root(inside: dict[str, Instruction]) -> Instruction:
    """The last instruction of a fusion that is no other view of its operand."""
    root = next(x for x in inside.values() if x.root)
    while root.opcode in SAME and root.operands[0] in inside:
        before = inside[root.operands[0]]
        if before.opcode == "parameter":
            break
        root = before
    return root


def _traffic(inside: dict[str, Instruction]) -> tuple[int, int]:
    """The bytes that a fusion reads and writes."""
    users: dict[str, list[tuple[Instruction, int]]] = {}
    for x in inside.values():
        for place, operand in enumerate(x.operands):
            users.setdefault(operand, []).append((x, place))

    def read(name: str, shape: str) -> int:
        """Of a parameter, or of another view of it."""
        total = 0
        for user, place in users.get(name, ()):
            if user.opcode in SAME:
                total += read(user.name, shape)
            elif user.opcode in IN_PLACE and place == 0:
                continue
            elif user.opcode in SLICES and place == 0:
                total += nbytes(user.shape)
            else:
                return nbytes(shape)
        return min(total, nbytes(shape))

    def written(x: Instruction) -> int:
        while x.opcode in SAME and inside[x.operands[0]].opcode != "parameter":
            x = inside[x.operands[0]]
        if x.opcode in IN_PLACE:
            update = inside[x.operands[1 if x.opcode != "scatter" else -1]]
            return nbytes(update.shape) * (2 if x.opcode == "scatter" else 1)
        return nbytes(x.shape)

    root = next(x for x in inside.values() if x.root)
    roots = [inside[name] for name in root.operands] if root.opcode == "tuple" else []
    parameters = (x for x in inside.values() if x.opcode == "parameter")
    return (
        sum(read(x.name, x.shape) for x in parameters),
        sum(map(written, roots or [root])),
    )


def _flops_inside(program: Program, inside: dict[str, Instruction]) -> float:
    """Of all matrix products of a fusion, nested ones included."""
    total = 0.0
    for x in inside.values():
        total += _flops(x, inside)
        if x.opcode in ("fusion", "call"):
            for name in x.called:
                total += _flops_inside(program, program.computations[name])
    return total


def _flops(x: Instruction, body: dict[str, Instruction]) -> float:
    """Of one matrix product: 2 for each multiply and add; 0 for anything else."""
    if x.opcode == "dot" or "__cublas$" in x.attributes:
        left = sizes(body[x.operands[0]].shape)
        pattern = r'lhs_contracting_dim(?:ension)?s"?[=:]\s*[\[{]([\d,"\s]*)'
        match = re.search(pattern, x.attributes)
        axes = [int(i) for i in re.findall(r"\d+", match[1])] if match else []
        return 2.0 * math.prod(sizes(x.shape)) * math.prod(left[i] for i in axes)
    if x.opcode == "convolution":
        return _convolution_flops(x, body)
    return 0.0


def _convolution_flops(x: Instruction, body: dict[str, Instruction]) -> float:
    """Of a product as compilers of TPUs write it: axes may slide over each other.

    What falls on padding, or between the elements of an axis that is spread out, is
    no operation.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.attributes).groups()
    shapes = [sizes(body[name].shape) for name in x.operands[:2]] + [sizes(x.shape)]
    data, kernel, out = (
        dict(zip(names, shape, strict=True))
        for names, shape in zip(labels, shapes, strict=True)
    )
    window = re.search(r"window=\{([^}]*)\}", x.attributes)
    options = dict(re.findall(r"(\w+)=(\S+)", window[1] if window else ""))
    pairs = 1
    for i, axis in enumerate(sorted(filter(str.isdigit, out))):
        part = lambda name, i=i: options[name].split("x")[i]
        of = lambda name, part=part: int(part(name)) if name in options else 1
        low = int(part("pad").partition("_")[0]) if "pad" in options else 0
        at = np.arange(out[axis])[:, None] * of("stride") - low
        at = at + np.arange(kernel[axis]) * of("rhs_dilate")
        inside = (at >= 0) & (at < data[axis] * of("lhs_dilate"))
        pairs *= int((inside & (at % of("lhs_dilate") == 0)).sum())
    return 2.0 * out["b"] * kernel["i"] * kernel["o"] * pairs


def _attention(x: Instruction, body: dict[str, Instruction]):
    """(the shape of a kernel of cuDNN's, its operations); `(None, 0)` of others.

    Two products forwards, five backwards, of the pairs that a causal mask keeps.
    """
    if "__cudnn$fmha" not in x.attributes:
        return None, 0.0
    match = INTERMEDIATE.search(x.attributes)
    B, N, T, S = (int(i) for i in re.findall(r"\d+", match[1]))
    head = sizes(body[x.operands[0]].shape)[-1]
    products = 5 if "Backward" in x.attributes else 2
    share = 0.5 if "CAUSAL" in x.attributes else 1.0
    flops = 2.0 * products * B * N * T * S * head * share
    return Attention(head, T, S, "ScaleBias" in x.attributes), flops

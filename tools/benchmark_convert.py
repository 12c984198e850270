# SPDX-License-Identifier: Apache-2.0
r"""Measures how much memory conversion and `inspect` take, on random checkpoints.

    python tools/benchmark_convert.py --folder=/tmp/convert

The checkpoint has the layers, the shapes' proportions and the number of files of an 8B
Llama in bfloat16, with `--d_model` a quarter of it and the whole vocabulary; it takes
1.4 GB, and the whole measurement 14 GB. With `--only=open,import --d_model=4096
--d_ff=14336` it is of the size itself, and takes 33 GB.

Each line is a process of its own: its peak of resident memory, beside that of the same
command on a checkpoint of two tiny layers, which is what Python, jax and the command
itself take. The difference is what a model costs, in multiples of its largest tensor.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

from alignjax import analysis

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from alignjax import checkpoint, types
from alignjax.huggingface import folder, layout, save
from alignjax.models import decoder_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONVERT = [sys.executable, "-m", "alignjax", "convert"]
TINY = dict(vocab_size=256, d_model=64, layers=2, heads=4, kv_heads=2, d_ff=128)

# Reads a slice of each parameter, as a device of a mesh would.
SLICES = """
import sys
import alignjax
run = alignjax.open_run(sys.argv[1])
for name, leaf in run.leaves().items():
    for i in range(leaf.shape[0] if name.startswith("layers/") else 1):
        leaf[i, :8] if name.startswith("layers/") else leaf[:64]
"""
DIGEST = """
import sys
import alignjax
alignjax.open_run(sys.argv[1]).digest()
"""

# A process begins with the peak of whoever started it, so something small has to.
LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(peak * (1 if sys.platform == "darwin" else 1024))
"""


class Random:
    """A parameter of random numbers, drawn when it is sliced."""

    def __init__(self, shape: tuple[int, ...], dtype: str, seed: int):
        self.shape, self.dtype, self.seed = shape, jax.numpy.dtype(dtype), seed
        self.ndim, self.size = len(shape), int(np.prod(shape))

    def __getitem__(self, index) -> np.ndarray:
        shape = np.broadcast_to(np.int8(0), self.shape)[index].shape
        out = np.empty(shape, self.dtype)
        for row in out if out.ndim > 1 else [out]:
            row[...] = np.random.default_rng([self.seed, row.size]).standard_normal(
                row.shape
            )
        return out


class Measured(NamedTuple):
    """A process: its peak of memory in bytes, and its seconds."""

    peak: int
    seconds: float


def make(path: pathlib.Path, fields: dict, dtype: str, files: int, seed=0) -> int:
    """Writes a random checkpoint of Llama; the bytes of its largest tensor."""
    c = decoder_config.DecoderConfig(max_length=8192, tied=False, **fields)
    leaves = {name: Random(s, dtype, seed) for name, s in layout.shapes(c).items()}
    size = sum(x.size * x.dtype.itemsize for x in leaves.values())
    plan = save.plan(leaves, "llama", c, max_shard_bytes=size // files + 2**20)
    save.write(plan, leaves, path)
    return max(t.nbytes for t in folder.weights(path).values())


def save_a_run(source: pathlib.Path, path: pathlib.Path) -> None:
    """A run as training leaves it, which Orbax wrote."""
    opened = analysis.open_run(source)
    config = json.loads(json.dumps(opened.config))
    state = types.TrainState(jax.numpy.int32(1), jax.device_put(opened.params()), ())
    with checkpoint.Checkpoints(path, config=config, data_identity={}, every=1) as made:
        made.maybe_save(1, state)


def measure(command: list) -> Measured:
    """Runs a command. Raises CalledProcessError where it fails."""
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    launcher = [sys.executable, "-S", "-c", LAUNCHER, *map(str, command)]
    options = dict(check=True, stdout=subprocess.PIPE, text=True)
    result = subprocess.run(launcher, env=environment, **options)
    return Measured(int(result.stdout.split()[-1]), time.monotonic() - began)


def commands(root: pathlib.Path) -> dict[str, list]:
    """What is measured of the checkpoint in `root`, in the order in which it can be."""
    source, imported, trained = root / "hf", root / "run", root / "trained"
    other = root / "other"
    inspect = [sys.executable, "-m", "alignjax", "inspect"]
    script = lambda text, path: [sys.executable, "-c", text, path]
    export = [*CONVERT, "export"]
    return {
        "open, and read slices of each parameter": script(SLICES, source),
        "digest": script(DIGEST, source),
        "import": [*CONVERT, "import", source, imported],
        "another import": [*CONVERT, "import", root / "hf2", other],
        "inspect slice": [*inspect, "slice", imported, "layers/q/kernel[1, :2, :3]"],
        "inspect diff": [*inspect, "diff", imported, other, "--layers"],
        "export what was imported": [*export, imported, root / "back"],
        "export it in float32": [*export, imported, root / "wide", "--dtype=float32"],
        "export what was trained": [*export, trained, root / "out"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--folder", required=True, type=pathlib.Path, help="emptied before and after")
    add("--layers", type=int, default=32)
    add("--d_model", type=int, default=1024)
    add("--d_ff", type=int, default=3584)
    add("--heads", type=int, default=32)
    add("--kv_heads", type=int, default=8)
    add("--vocab_size", type=int, default=128_256)
    add("--dtype", choices=save.DTYPES, default="bfloat16")
    add("--files", type=int, default=4)
    add("--only", help="the beginnings of what is measured: open,digest,import")
    add("--keep", action="store_true", help="leave the checkpoints there")
    args = parser.parse_args()
    fields = {name: getattr(args, name) for name in TINY}
    begins = tuple((args.only or "").split(","))
    names = [name for name in commands(args.folder) if name.startswith(begins)]
    if not names:
        known = list(commands(args.folder))
        parser.error(f"--only: {args.only!r} begins none of {known}")
    largest = {}
    for name, shape in {"tiny": TINY, "large": fields}.items():
        root = args.folder / name
        shutil.rmtree(root, ignore_errors=True)
        largest[name] = make(root / "hf", shape, args.dtype, args.files)
        if any(root / "hf2" in commands(root)[name] for name in names):
            make(root / "hf2", shape, args.dtype, args.files, seed=1)
        if any(root / "trained" in commands(root)[name] for name in names):
            save_a_run(root / "hf", root / "trained")
    tensors = folder.weights(args.folder / "large" / "hf")
    total, unit = sum(t.nbytes for t in tensors.values()), largest["large"]
    stacked = analysis.open_run(args.folder / "large" / "hf").leaves()
    stack = max(x.size * np.dtype(x.dtype).itemsize for x in stacked.values())
    print(
        f"{total / 1e9:.2f} GB in {len(tensors)} tensors and {args.files} files; the "
        f"largest tensor {unit / 1e6:.0f} MB, the largest parameter over all layers "
        f"{stack / 1e6:.0f} MB"
    )
    for name in names:
        command = commands(args.folder / "large")[name]
        small = measure(commands(args.folder / "tiny")[name])
        large = measure(command)
        more = large.peak - small.peak
        print(
            f"{name:<42} {large.peak / 1e6:6.0f} MB at most, {small.peak / 1e6:.0f} "
            f"without a model: {more / 1e6:.0f} MB, {more / unit:.2f} of the largest "
            f"tensor; {large.seconds:.1f} s",
            flush=True,
        )
    if not args.keep:
        shutil.rmtree(args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

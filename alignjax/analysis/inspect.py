# SPDX-License-Identifier: Apache-2.0
r"""Lists, verifies and compares the checkpoints of a run; changes nothing.

    alignjax inspect RUN                   # its steps
    alignjax inspect RUN tree [STEP]       # every leaf of one step
    alignjax inspect RUN metrics [STEP]    # all that was measured when it was saved
    alignjax inspect RUN verify [STEP...]  # is it what was written?
    alignjax inspect RUN diff STEP STEP    # what changed between two steps

Leaves are read one at a time, so the largest one is what must fit in memory. `verify`
ends with exit code 1 if a step is not what was written, or there is none. Leaves below
`layers` have one layer after the other on their first axis; `diff` tells them apart.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from alignjax import cli, config, errors
from alignjax.analysis import run as runs
from alignjax.checkpoint import step_folders
from alignjax.tracking import progress

MOST_METRICS = 3  # in the line of a step


def show_steps(run: runs.Run) -> Iterator[str]:
    """A line for each step: when, how large, what the parameters are of it, metrics."""
    yield f"{run.path}: {len(run.steps)} complete steps"
    for step, complete in step_folders.all_steps(run.directory).items():
        path = run.directory / str(step)
        if not complete:
            yield f"{step:>10}  incomplete"
            continue
        try:
            meta = run.meta(step)
        except errors.BrokenStep as error:
            yield f"{step:>10}  broken: {error}"
            continue
        marker = (path / step_folders.MARKER).stat()
        saved = datetime.datetime.fromtimestamp(marker.st_mtime)
        on_disk = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        params = step_folders.nbytes(step_folders.leaves_of(meta, "params"))
        yield (
            f"{step:>10}  {saved:%Y-%m-%d %H:%M:%S}  {progress.short(on_disk)}B on "
            f"disk, parameters {progress.short(params)}B{_summary(meta['metrics'])}"
        )
    for path in sorted((run.path / "quarantine").glob("*")):
        yield f"set aside as broken: {path}"


def _summary(metrics: Mapping[str, float | None]) -> str:
    """The evaluation's loss and the next few metrics, and how many more there are."""
    names = sorted(metrics, key=lambda name: (name != "eval/loss", name))
    shown = [f"{name} {_short(metrics[name])}" for name in names[:MOST_METRICS]]
    shown += [f"{len(names) - MOST_METRICS} more"] * (len(names) > MOST_METRICS)
    return "".join(f"  {text}" for text in shown)


def _short(value: float | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_metrics(run: runs.Run, step: int | None) -> Iterator[str]:
    """A line for each metric of a step."""
    meta = run.meta(step)
    yield f"step {meta['step']}: {len(meta['metrics'])} metrics"
    width = max(map(len, meta["metrics"]), default=0)
    for name, value in sorted(meta["metrics"].items()):
        yield f"{name:<{width}}  {_short(value)}"


def show_tree(run: runs.Run, step: int | None) -> Iterator[str]:
    """A line for each leaf: its name, dtype, shape and fingerprint."""
    meta = run.meta(step)
    versions = ", ".join(f"{name} {v}" for name, v in meta["versions"].items())
    yield f"step {meta['step']}, saved by {versions}"
    width = max(map(len, meta["leaves"]))
    for name, leaf in meta["leaves"].items():
        kind = f"{leaf['dtype']}{leaf['shape']}"
        yield f"{name:<{width}}  {kind:<24}  {leaf.get('fingerprint', '')}"
    nbytes, count = step_folders.nbytes(meta["leaves"]), len(meta["leaves"])
    yield f"{progress.short(nbytes)}B in {count} leaves"


def verify(run: runs.Run, steps: list[int]) -> Iterator[tuple[str, bool]]:
    """A line for each step, and whether it is sound; without `steps` for all."""
    complete = step_folders.all_steps(run.directory)
    incomplete = ", ".join(str(step) for step, whole in complete.items() if not whole)
    if not steps and not run.steps:
        others = f"; incomplete: {incomplete}" if incomplete else ""
        yield f"{run.path}: no complete step{others}", False
    elif not steps and incomplete:
        yield f"incomplete, and passed over: {incomplete}", True
    for step in steps or run.steps:
        bad = []
        try:
            names = run.meta(step)["leaves"]
        except errors.CheckpointError as error:
            kinds = {None: "absent", False: "incomplete", True: "broken"}
            yield f"step {step}: {kinds[complete.get(step)]}: {error}", False
            continue
        for name in names:
            item, _, leaf = name.partition("/")
            try:
                run.leaf(leaf, step, item=item)
            except errors.BrokenStep:
                bad.append(name)
        if bad:
            yield f"step {step}: broken in {len(bad)} leaves: {', '.join(bad)}", False
        else:
            yield f"step {step}: all {len(names)} leaves are what was written", True


def diff(run: runs.Run, old: int, new: int) -> Iterator[str]:
    """A line for each leaf that differs, and for each field of the config."""
    before, after = run.meta(old), run.meta(new)
    for line in config.differences(before["config"], after["config"]):
        yield f"config {line}"
    same = 0
    for name in {**before["leaves"], **after["leaves"]}:
        a, b = before["leaves"].get(name), after["leaves"].get(name)
        if a == b:
            same += 1
        elif a is None or b is None:
            yield f"{name}: only in step {new if a is None else old}"
        elif a["shape"] != b["shape"]:
            yield f"{name}: {a['shape']} -> {b['shape']}"
        else:
            item, _, leaf = name.partition("/")
            x, y = (np.float64(run.leaf(leaf, step, item=item)) for step in (old, new))
            norm, moved = np.linalg.norm(x), np.linalg.norm(y - x)
            share = f"{moved / norm:.3e} of its norm" if norm else "all of it"
            yield f"{name}: changed by {share}, by {np.abs(y - x).max():.3e} at most"
            if "layers" in name.split("/") and x.ndim:
                yield from _by_layer(x, y)
    yield f"{same} leaves are the same in both"


def _by_layer(x: np.ndarray, y: np.ndarray) -> Iterator[str]:
    """Lines with the change of each layer, a share of its norm, eight to a line."""
    flat_LX, moved_LX = x.reshape(len(x), -1), (y - x).reshape(len(x), -1)
    norms = np.linalg.norm(flat_LX, axis=1), np.linalg.norm(moved_LX, axis=1)
    shares = [
        f"{moved / norm:.1e}" if norm else "all"
        for norm, moved in zip(*norms, strict=True)
    ]
    for first in range(0, len(shares), 8):
        own = shares[first : first + 8]
        yield f"    layers {first} to {first + len(own) - 1}: {' '.join(own)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = cli.parser("inspect", __doc__)
    parser.add_argument("run", help="a workdir, or a Hugging Face folder")
    parser.add_argument("--network", action="store_true", help=cli.NETWORK)
    add = parser.add_subparsers(dest="command").add_parser
    add("tree").add_argument("step", type=int, nargs="?")
    add("metrics").add_argument("step", type=int, nargs="?")
    add("verify").add_argument("steps", type=int, nargs="*")
    add("diff").add_argument("steps", type=int, nargs=2)
    options = parser.parse_args(arguments)

    def show() -> int:
        run = runs.open_run(options.run, network=options.network)
        if options.command == "verify":
            faults = 0
            for line, sound in verify(run, options.steps):
                print(line, flush=True)
                faults += not sound
            return min(1, faults)
        lines = show_steps(run)
        if options.command == "tree":
            lines = show_tree(run, options.step)
        if options.command == "metrics":
            lines = show_metrics(run, options.step)
        if options.command == "diff":
            lines = diff(run, *options.steps)
        for line in lines:
            print(line, flush=True)
        return errors.DONE

    return cli.exit_code(show)

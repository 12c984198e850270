# SPDX-License-Identifier: Apache-2.0
r"""Lists, shows, verifies and compares runs and their checkpoints; changes nothing.

    alignjax inspect ls RUN ...              # their steps
    alignjax inspect show RUN                # parameters, and what is beside them
    alignjax inspect stats RUN --layers      # norm, mean, std, extremes of each leaf
    alignjax inspect slice RUN 'layers/q/kernel[0, :2, 0]'
    alignjax inspect diff RUN RUN --layers   # what changed, and in which layer
    alignjax inspect verify RUN              # is it what was written?
    alignjax inspect lens RUN --text=TEXT    # what each layer would say next
    alignjax inspect tokens RUN RUN --data=FILE --out=page.html

RUN is a workdir or DIR@STEP, a run of adapters, a Hugging Face folder, or `hf:` and a
repository of its hub. Two steps of one run are two RUNs. Leaves are read in pieces, so
a laptop can look into any model; only `lens` and `tokens` compute with one. Leaves
below `layers` have one layer after the other on their first axis. `verify` ends with
exit code 1 if a step is not what was written, or there is none.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from alignjax import cli, config, errors, patterns, registry
from alignjax.analysis import leaves, lens, scoring, token_page
from alignjax.analysis import run as runs
from alignjax.checkpoint import step_folders
from alignjax.data import records
from alignjax.huggingface import layout
from alignjax.storage import atomic
from alignjax.tracking import progress

MOST_METRICS = 3  # in the line of a step
_INDEX = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<index>[^\[\]]*)\])?")


def list_steps(run: runs.Run) -> Iterator[str]:
    """A line for each step: when, how large, what the parameters are of it, metrics."""
    count = len(run.steps)
    yield f"{run.path}: {count} complete step{'s' if count != 1 else ''}"
    if not run.directory.is_dir() and count:
        yield f"{0:>10}  a Hugging Face folder, parameters {_params_size(run.meta())}"
        return
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
        yield (
            f"{step:>10}  {saved:%Y-%m-%d %H:%M:%S}  {progress.short(on_disk)}B on "
            f"disk, parameters {_params_size(meta)}{_summary(meta['metrics'])}"
        )
    for path in sorted((run.path / "quarantine").glob("*")):
        yield f"set aside as broken: {path}"


def _params_size(meta: dict) -> str:
    nbytes = step_folders.nbytes(step_folders.leaves_of(meta, "params"))
    return f"{progress.short(nbytes)}B"


def _summary(metrics: Mapping[str, float | None]) -> str:
    """The evaluation's loss and the next few metrics, and how many more there are."""
    names = sorted(metrics, key=lambda name: (name != "eval/loss", name))
    shown = [f"{name} {_short(metrics[name])}" for name in names[:MOST_METRICS]]
    shown += [f"{len(names) - MOST_METRICS} more"] * (len(names) > MOST_METRICS)
    return "".join(f"  {text}" for text in shown)


def _short(value: float | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show(run: runs.Run, pattern: str | None, train: bool) -> Iterator[str]:
    """The parameters of a step, the metrics saved with it, and what else it has."""
    meta = run.meta()
    versions = ", ".join(f"{name} {v}" for name, v in meta["versions"].items())
    yield f"step {meta['step']}" + (f", saved by {versions}" if versions else "")
    own = step_folders.leaves_of(meta, "params")
    parameters = _selected(run.leaves(), pattern)
    width = max(map(len, parameters), default=0)
    for name, leaf in parameters.items():
        kind = f"{leaf.dtype}{list(leaf.shape)}"
        note = own[name].get("fingerprint", "") if name in own else "of its base"
        yield f"{name:<{width}}  {kind:<24}  {note}".rstrip()
    size = sum(leaf.size for leaf in parameters.values())
    yield f"{size:,} parameters in {len(parameters)} leaves"
    others = step_folders.leaves_of(meta, "train")
    if others:
        nbytes = progress.short(step_folders.nbytes(others))
        hint = "" if train else "; list them with --train"
        yield f"train/: {nbytes}B in {len(others)} leaves, the optimizer's{hint}"
    for name, leaf in others.items() if train else ():
        kind = f"{leaf['dtype']}{leaf['shape']}"
        yield f"train/{name}  {kind}  {leaf['fingerprint']}"
    if meta["metrics"]:
        yield f"{len(meta['metrics'])} metrics"
        width = max(map(len, meta["metrics"]))
        for name, value in sorted(meta["metrics"].items()):
            yield f"{name:<{width}}  {_short(value)}"


def _selected(named: Mapping[str, Any], pattern: str | None) -> dict[str, Any]:
    """The leaves whose whole path matches. Raises ConfigError where none does."""
    if pattern is None:
        return dict(named)
    (matches,) = patterns.matching([pattern], list(named), "leaves")
    chosen = {n: x for (n, x), m in zip(named.items(), matches, strict=True) if m}
    if not chosen:
        remedy = registry.closest(pattern, named)
        raise errors.ConfigError(f"leaves: {pattern!r} matches no leaf; {remedy}")
    return chosen


def stats(run: runs.Run, pattern: str | None, by_layer: bool) -> Iterator[dict]:
    """`{leaf, layer, ...}` of `leaves.Summary.figures`, for each leaf or layer."""
    for name, leaf in _selected(run.leaves(), pattern).items():
        total = leaves.Summary()
        for layer, index in leaves.units(name, leaf):
            part = leaves.summarise(leaf, index)
            total = total.plus(part)
            if by_layer and layer is not None:
                yield {"leaf": name, "layer": layer, **part.figures()}
        yield {"leaf": name, "layer": None, **total.figures()}


def diff(
    first: runs.Run,
    second: runs.Run,
    pattern: str | None = None,
    by_layer: bool = False,
    rank: int | None = None,
    item: str = "params",
) -> Iterator[dict]:
    """`{leaf, layer, ...}` of what changed from one run to another; a total at the end.

    Where one has adapters and the other has none, they are merged into its kernels. A
    leaf that only one has, or of another shape, has a `note` instead of figures.
    """
    both = (first, second)
    sides = [run.leaves(item=item) for run in both]
    adapted = [any("/lora_" in name for name in side) for side in sides]
    if adapted[0] != adapted[1] and item == "params":
        configs = [run.model.config for run in both]
        sides = list(map(layout.merge, sides, configs))
    sides = [_selected(side, pattern) for side in sides]
    for line in leaves.mismatches(*sides):
        name, _, note = line.partition(": ")
        yield {"leaf": name, "layer": None, "note": note}
    whole = leaves.Difference()
    for name, parts in leaves.differences(*sides, rank):
        whole = whole.plus(parts[-1].difference)
        for part in parts if by_layer else parts[-1:]:
            yield {"leaf": name, "layer": part.layer, **part.figures()}
    yield {"leaf": "all of them", "layer": None, **whole.figures()}


def slice_of(run: runs.Run, text: str) -> np.ndarray:
    """A part of a leaf, such as `layers/q/kernel[0, :2, -1]`, or of `train/...`.

    Raises:
      ConfigError: an index that is none of integers and slices, or does not fit.
      CheckpointError: there is no such leaf.
    """
    match = _INDEX.fullmatch(text.strip())
    if match is None:
        raise errors.ConfigError(f"leaf: {text!r:.80} is not NAME or NAME[INDEX]")
    name, index = match["name"], ...
    try:
        if match["index"] is not None:
            index = tuple(map(_index, match["index"].split(",")))
        in_train = name.startswith("train/")
        named = run.leaves(item="train" if in_train else "params")
        if (leaf := named.get(name.removeprefix("train/"))) is None:
            raise errors.CheckpointError(
                f"{run.path}: no leaf {name!r}; {registry.closest(name, named)}"
            )
        return np.asarray(leaf[index])
    except (IndexError, ValueError) as error:
        raise errors.ConfigError(f"leaf: {text!r:.80}: {error}") from error


def _index(text: str) -> Any:
    if text.strip() == "...":
        return ...
    numbers = [int(x) if x.strip() else None for x in text.split(":")]
    if len(numbers) == 1 and numbers[0] is not None:
        return numbers[0]
    if not 1 < len(numbers) < 4:
        raise ValueError(f"{text!r} is neither an integer nor a slice")
    return slice(*numbers)


def verify(run: runs.Run, step: int | None = None) -> Iterator[tuple[str, bool]]:
    """A line for a step, by default for each, and whether it is sound."""
    if not run.directory.is_dir():
        yield _verify_folder(run)
        return
    complete = step_folders.all_steps(run.directory)
    incomplete = ", ".join(str(step) for step, whole in complete.items() if not whole)
    if step is None and not run.steps:
        others = f"; incomplete: {incomplete}" if incomplete else ""
        yield f"{run.path}: no complete step{others}", False
    elif step is None and incomplete:
        yield f"incomplete, and passed over: {incomplete}", True
    for own in run.steps if step is None else [step]:
        try:
            names, bad = run.meta(own)["leaves"], []
            for item in ("params", "train"):
                bad += [f"{item}/{name}" for name in _broken(run, own, item)]
        except errors.CheckpointError as error:
            kinds = {None: "absent", False: "incomplete", True: "broken"}
            yield f"step {own}: {kinds[complete.get(own)]}: {error}", False
            continue
        if bad:
            yield f"step {own}: broken in {len(bad)} leaves: {', '.join(bad)}", False
        else:
            yield f"step {own}: all {len(names)} leaves are what was written", True


def _broken(run: runs.Run, step: int, item: str) -> Iterator[str]:
    """The leaves that a step stored, and that are not what was written."""
    stored = run.store.from_step(step, lambda stored: stored.leaves(item))
    for name, leaf in stored.items():
        try:
            leaf[(0,) * leaf.ndim]  # the first look at a leaf verifies all of it
        except errors.BrokenStep:
            yield name


def _verify_folder(run: runs.Run) -> tuple[str, bool]:
    summary = leaves.Summary()
    for leaf in run.leaves().values():
        summary = summary.plus(leaves.summarise(leaf))
    unsound = summary.size - summary.finite
    line = f"{run.path}: a Hugging Face folder has no fingerprints; all "
    line += f"{summary.size:,} parameters can be read, {unsound} of them not finite"
    return line, not unsound


STATS = ("size", "norm", "mean", "std", "min", "max", "zeros", "nonfinite")
CHANGES = ("share", "largest", "cosine", "changed")
RANKS = ("energy", "stable_rank", "entropy_rank")


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Lines of rows that have a `leaf`, a `layer` and figures; as they come."""
    yield f"{'leaf':<28} layer " + "".join(f"{name:>13}" for name in columns)
    for row in rows:
        layer = "" if row["layer"] is None else row["layer"]
        cells = "".join(f"{_cell(row.get(name)):>13}" for name in columns)
        yield f"{row['leaf']:<28} {layer:>5} {row.get('note') or cells}".rstrip()


def _cell(value: Any) -> str:
    return "" if value is None else str(value) if type(value) is int else f"{value:.4g}"


def _json(row: Mapping[str, Any]) -> str:
    """A line of JSON, which has no infinity and no NaN: these are null."""
    finite = lambda x: None if isinstance(x, float) and not math.isfinite(x) else x
    return json.dumps({name: finite(value) for name, value in row.items()})


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("inspect", __doc__)
    commands = out.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, does: str, *runs: str):
        one = commands.add_parser(name, help=does, description=does)
        for run in runs:
            many = "+" if run == "runs" else None
            one.add_argument(run, nargs=many, metavar="RUN", help="DIR or DIR@STEP")
        one.add_argument("--network", action="store_true", help=cli.NETWORK)
        return one.add_argument

    command("ls", "the steps of runs", "runs")
    add = command("show", "the parameters and metrics of a step", "run")
    add("--leaves", metavar="REGEX", help="of whole paths, such as layers/q/.*")
    add("--train", action="store_true", help="list the state of the optimizer too")
    add = command("stats", "norm, mean, std, extremes of each leaf", "run")
    add("--leaves", metavar="REGEX", help="of whole paths, such as layers/q/.*")
    add("--layers", action="store_true", help="of each layer too")
    add("--json", action="store_true", help="a line of JSON for each row")
    add = command("slice", "elements of a leaf", "run")
    add("leaf", help="NAME or NAME[INDEX], such as 'layers/q/kernel[0, :2, -1]'")
    add("--out", metavar="FILE", help="write it as .npy instead of printing it")
    add = command("diff", "what changed from one run to another", "first", "second")
    add("--leaves", metavar="REGEX", help="of whole paths, such as layers/q/.*")
    add("--layers", action="store_true", help="of each layer too")
    add("--rank", type=int, metavar="R", help="the rank of each change: the share of "
        "the first R singular values, stable and entropy rank")  # fmt: skip
    add("--train", action="store_true", help="compare the optimizers' states instead")
    add("--json", action="store_true", help="a line of JSON for each row")
    command("verify", "is each step what was written?", "runs")
    add = command("lens", "what each layer would say next", "run")
    add("--text", required=True, help="whose tokens are read")
    add("--json", action="store_true", help="a line of JSON for each token and layer")
    add = command("tokens", "a page of a text, token by token, under two runs",
                  "first", "second")  # fmt: skip
    add("--text", action="append", default=[], help="may be given several times")
    add("--data", metavar="FILE", help="rows of any format that training reads")
    add("--most", type=int, default=50, help="rows of the data (%(default)s)")
    add("--out", required=True, metavar="FILE", help="the HTML page")
    return out


def show_all(options: argparse.Namespace) -> int:
    """Does what the options say; returns the exit code."""
    opened = lambda text: runs.open_run(*cli.at_step(text), network=options.network)
    faults, lines = 0, []
    if options.command == "ls":
        lines = (line for text in options.runs for line in list_steps(opened(text)))
    elif options.command == "verify":
        for text in options.runs:
            folder, step = cli.at_step(text)
            run = runs.open_run(folder, network=options.network)
            for line, sound in verify(run, step):
                print(line, flush=True)
                faults += not sound
    elif options.command == "show":
        lines = show(opened(options.run), options.leaves, options.train)
    elif options.command == "stats":
        rows = stats(opened(options.run).at(), options.leaves, options.layers)
        lines = map(_json, rows) if options.json else table(rows, STATS)
    elif options.command == "slice":
        lines = _slice(opened(options.run), options)
    elif options.command in ("diff", "tokens"):
        both = [opened(text).at() for text in (options.first, options.second)]
        lines = {"diff": _diff, "tokens": _tokens}[options.command](*both, options)
    elif options.command == "lens":
        rows = lens.rows(opened(options.run).at(), options.text)
        lines = map(_json, rows) if options.json else lens.table(rows)
    for line in lines:
        print(line, flush=True)
    return min(1, faults)


def _slice(run: runs.Run, options: argparse.Namespace) -> Iterator[str]:
    out = None if options.out is None else cli.output(options.out)
    part = slice_of(run, options.leaf)
    yield f"{options.leaf}: {part.dtype}{list(part.shape)}"
    if part.dtype == jnp.bfloat16:  # of which .npy knows nothing
        part = part.astype(np.float32)
    if out is None:
        yield np.array2string(part, threshold=200, max_line_width=100)
    else:
        with atomic.replace(out) as file:
            np.save(file, part)
        yield f"{out} is complete"


def _diff(
    first: runs.Run, second: runs.Run, options: argparse.Namespace
) -> Iterator[str]:
    if options.rank is not None and options.rank < 1:
        raise errors.ConfigError(f"rank: {options.rank} is not 1 or more")
    item = "train" if options.train else "params"
    rows = diff(first, second, options.leaves, options.layers, options.rank, item)
    if options.json:
        yield from map(_json, rows)
        return
    sides = [run.config for run in (first, second)]
    yield from (f"config {line}" for line in config.differences(*sides))
    yield from table(rows, (*CHANGES, *(RANKS if options.rank else ())))


def _tokens(
    first: runs.Run, second: runs.Run, options: argparse.Namespace
) -> Iterator[str]:
    out = cli.output(options.out)
    if not options.text and options.data is None:
        raise errors.ConfigError("text: nothing to read; give --text or --data")
    if not 1 <= options.most < 2**31:
        raise errors.ConfigError(f"most: {options.most} is no number of rows from 1 up")
    second = first.reference(second)
    terminal, texts = progress.Terminal(), []
    rows = list(_rows(first, second, options))
    for i, (where, row) in enumerate(rows):
        texts.append(token_page.compare(first, second, where, *row))
        terminal.show(f"compared {i + 1:,} of {len(rows):,} texts")
    terminal.close()
    names = [run.path.name for run in (first, second)]
    if names[0] == names[1]:
        names = [options.first, options.second]
    atomic.write(out, token_page.render(*names, texts))
    yield f"{out} is complete: {len(texts)} texts"


def _rows(first, second, options) -> Iterator[tuple[str, scoring.Row]]:
    """Where each text is from, and its tokens before the response and of it."""
    for i, text in enumerate(options.text):
        ids = first.tokenize(text)
        if len(ids) < 2:
            raise errors.ConfigError(f"text: {text!r:.60} has no token to predict")
        yield f"text {i + 1}", scoring.Row(ids[:1], ids[1:])
    if options.data is None:
        return
    faults = records.Faults("error", "mend them")
    _, read = scoring.read(options.data, faults)
    documents = [
        (where, one)
        for where, record in itertools.islice(read, options.most)
        for one in scoring.single(record)
    ]
    faults.check()
    configs = [run.model.config for run in (first, second)]
    settings = {"format": first.chats, "configs": configs, "faults": faults}
    for i, row in scoring.rows_of(documents, first.tokenizer, **settings):
        yield documents[i][0], row


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    return cli.exit_code(lambda: show_all(options))

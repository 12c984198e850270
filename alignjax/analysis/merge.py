# SPDX-License-Identifier: Apache-2.0
r"""Makes a run of several, or of what training changed in one: merges and adapters.

    alignjax merge average OUT RUN RUN ...                    # the mean: a soup
    alignjax merge add OUT --base=SFT --add=A:0.7 --add=B:-0.3  # task vectors
    alignjax merge slerp OUT RUN RUN --at=0.5                 # on the arc between two
    alignjax merge lora OUT RUN                               # adapters into kernels
    alignjax merge extract OUT RUN --base=SFT --rank=8        # adapters of a full run

RUN is a workdir or DIR@STEP, a run of adapters, a Hugging Face folder, or `hf:` and a
repository of its hub. OUT is a run of one step, 0, which is opened, trained from and
exported like any other; its config.json has the recipe, with the digests of all runs.
Leaves are read and written in pieces. Runs of other shapes, tokenizers, positions or
chat formats are refused, and with `add`, `slerp` and `average` those that did not start
from the same weights. With `--text` the divergence of each run from the new one is
printed.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import cli, errors
from alignjax.analysis import (
    arithmetic,
    conversion,
    extraction,
    leaves,
    lineage,
    token_page,
)
from alignjax.analysis import run as runs
from alignjax.checkpoint import step_folders
from alignjax.models import lora
from alignjax.storage import atomic
from alignjax.tracking import progress

_FIELDS = ("tokenizer", "token_ids")


class Merge(NamedTuple):
    """What is to be written: leaves that are computed when they are sliced.

    Attributes:
      leaves: `{path: array}`.
      config: of the new run, with its recipe in `merged`.
      data: of its meta: `init` where parameters stay in a base.
      tokenizer: or None.
    """

    leaves: Mapping[str, Any]
    config: dict
    data: dict
    tokenizer: Any


def average(
    opened: Sequence[runs.Run], weights: Sequence[float] | None = None
) -> Merge:
    """The mean of runs, with weights that are divided by their sum.

    Raises:
      ConfigError: weights that are none, or runs that are not of one model.
    """
    weights = [1.0] * len(opened) if weights is None else list(weights)
    if len(weights) != len(opened):
        raise errors.ConfigError(f"weights: {len(weights)} for {len(opened)} runs")
    if min(weights) < 0 or not 0 < sum(weights) < math.inf:  # nor NaN
        raise errors.ConfigError(f"weights: {weights} are not shares of a whole")
    lineage.check(opened)
    merged = arithmetic.average(_leaves(opened), weights)
    return _merge(merged, opened, "average", weights=weights)


def add(
    base: runs.Run,
    opened: Sequence[runs.Run],
    scales: Sequence[float],
    *,
    onto: runs.Run | None = None,
    density: float | None = None,
    drop: float | None = None,
    seed: int = 0,
) -> Merge:
    """onto + sum of scale x (run - base), onto the base itself where nothing is named.

    Args:
      density: of TIES, the share of elements that stay; see `arithmetic.ties`.
      drop: of DARE, the share that is dropped; see `arithmetic.dare`.

    Raises:
      ConfigError: shares that are none, or runs that are not of one model.
    """
    for name, value in (("density", density), ("drop", drop)):
        if value is not None and not 0 < value < 1:
            raise errors.ConfigError(f"{name}: {value} is not between 0 and 1")
    if not all(map(math.isfinite, scales)):
        raise errors.ConfigError(f"add: scales {scales} are not finite numbers")
    if seed < 0:
        raise errors.ConfigError(f"seed: {seed} is not 0 or more")
    if None not in (density, drop):
        raise errors.ConfigError("density and drop: TIES and DARE do not combine")
    target = base if onto is None else onto
    every = [target, base, *opened]
    lineage.check(every)
    zero, *models = _leaves([base, *opened])
    start = zero if onto is None else lineage.merged_leaves(onto)
    sides = (zero, models, list(scales), start)
    options = {"scales": list(scales), "base": _described(base)}
    options |= {} if onto is None else {"onto": _described(onto)}
    if density is not None:
        merged = arithmetic.ties(*sides, density)
        options |= {"ties": density}
    elif drop is not None:
        merged = arithmetic.dare(*sides, drop, seed)
        options |= {"dare": drop, "seed": seed}
    else:
        merged = arithmetic.add(*sides)
    return _merge(merged, opened, "add", template=[target, base, *opened], **options)


def slerp(first: runs.Run, second: runs.Run, at: float) -> Merge:
    """On the arc from one run, at 0, to another, at 1; see `arithmetic.slerp`.

    Raises:
      ConfigError: a place that is none, or runs that are not of one model.
    """
    if not 0 <= at <= 1:
        raise errors.ConfigError(f"at: {at} is not between 0 and 1")
    lineage.check([first, second])
    merged = arithmetic.slerp(*_leaves([first, second]), at)
    return _merge(merged, [first, second], "slerp", at=at)


def merge_adapters(run: runs.Run) -> Merge:
    """A run of adapters as a run of a whole model, float32.

    Raises:
      ConfigError: it has none.
    """
    if not any("/lora_" in name for name in run.leaves()):
        raise errors.ConfigError(f"{run.path}: has no adapters to merge")
    return _merge(lineage.merged_leaves(run), [run], "lora")


def extract_adapters(
    run: runs.Run,
    base: runs.Run,
    rank: int,
    keep_others: bool = False,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Merge, extraction.Adapters, dict[str, float]]:
    """A run of adapters that lead from a base to a run.

    Args:
      rank: of the adapters; the first singular values of what changed.
      keep_others: stores the parameters that have no adapters, as the run has them;
        else they stay those of the base.

    Returns:
      The merge, the adapters, and of each parameter that changed and has no adapter by
      which share of its norm it did.

    Raises:
      ConfigError: runs that are not of one model, a base with adapters, a rank that is
        none.
    """
    if not 1 <= rank <= base.model.config.d_model:
        raise errors.ConfigError(
            f"rank: {rank} is not between 1 and the width, {base.model.config.d_model}"
        )
    if any("/lora_" in name for name in base.leaves()):
        raise errors.ConfigError(
            f"base: {base.path} has adapters; merge them first (alignjax merge lora)"
        )
    lineage.check([base, run])
    sides = base.leaves(), lineage.merged_leaves(run)
    size = base.model.config.vocab_size
    section = base.config["model"]
    adapters = extraction.extract(*reversed(sides), section, size, rank, show)
    kernels = {f"{path}/kernel" for path in adapters.energy}
    others = {
        name: parts[-1].figures()["share"]
        for name, parts in leaves.differences(
            *({n: x for n, x in side.items() if n not in kernels} for side in sides)
        )
        if parts[-1].difference.changed
    }
    stored = list(others) if keep_others else []
    merge = _merge(
        {**adapters.leaves, **{name: sides[1][name] for name in stored}},
        [run],
        "extract",
        template=[run, base],
        base=_described(base),
        rank=rank,
        energy=adapters.energy,
        left_as_in_base={} if keep_others else others,
    )
    config = {
        **merge.config,
        "model": {**section, **adapters.fields},
        "trainable": "|".join([lora.TRAINABLE, *map(re.escape, stored)]),
        "init": {"run": str(base.path), "step": base.step},
    }
    data = {**merge.data, "init": base.digest()}
    return merge._replace(config=config, data=data), adapters, others


def write(
    merge: Merge,
    target: str | pathlib.Path,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> runs.Run:
    """Writes the run, all of it or nothing.

    Args:
      show: called with (bytes written, bytes in all).

    Raises:
      ConfigError: the target is not empty, or the disk too full.
      CheckpointError: a parameter of a run that is not what was written.
    """
    target = pathlib.Path(target).absolute()
    return conversion.write_run(
        target, merge.leaves, merge.config, merge.data, merge.tokenizer, show
    )


def _leaves(opened: Sequence[runs.Run]) -> list[dict[str, Any]]:
    return [lineage.merged_leaves(run) for run in opened]


def _described(run: runs.Run) -> dict[str, Any]:
    name, step = run.path.name, run.meta()["step"]
    return {"run": name, "path": str(run.path), "step": step, "digest": run.digest()}


def _merge(
    merged: Mapping[str, Any],
    opened: Sequence[runs.Run],
    method: str,
    template: Sequence[runs.Run] | None = None,
    **options,
) -> Merge:
    """With the model and tokenizer of the first of the template, or of the runs.

    Its dialogues are those of the first that learned some, and so are its scores.
    """
    template = opened if template is None else template
    first, config = template[0], template[0].config
    extras = re.compile("lora_.*|base")
    section = {k: v for k, v in config["model"].items() if not extras.fullmatch(k)}
    chats = next((run.chats for run in template if run.chats), None)
    data = {"chat": chats, "bos": (config.get("data") or {}).get("bos", True)}
    recipe = {"method": method, "runs": [_described(run) for run in opened], **options}
    out = {"model": section, "data": data, "merged": recipe}
    out |= {name: config[name] for name in _FIELDS if config.get(name) is not None}
    if section.get("score_heads"):
        out["objective"] = config.get("objective")
    return Merge(merged, out, {}, first.full_tokenizer)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("merge", __doc__)
    commands = out.add_subparsers(dest="command", required=True, metavar="METHOD")

    def command(name: str, does: str, *, sums: bool = True):
        one = commands.add_parser(name, help=does, description=does)
        one.add_argument("out", metavar="OUT", help="made; must not have content")
        one.add_argument("--text", action="append", default=[], help="on which the "
            "divergence of each run from the new one is printed")  # fmt: skip
        one.add_argument("--network", action="store_true", help=cli.NETWORK)
        if sums:
            one.add_argument("--any_base", action="store_true", help="merge runs that "
                "did not start from the same weights")  # fmt: skip
        return one.add_argument

    run = dict(metavar="RUN", help="DIR or DIR@STEP")
    add = command("average", "the weighted mean of runs")
    add("runs", nargs="+", **run)
    add("--weights", metavar="W,W,...", help="one a run; by default equal")
    add = command("add", "a run, and what led from a base to others")
    add("--base", required=True, **run)
    add("--add", action="append", required=True, metavar="RUN[:SCALE]", dest="runs",
        help="from which the base is taken away; SCALE is 1, or negative")  # fmt: skip
    add("--onto", metavar="RUN", help="to which the changes are added; the base")
    add("--ties", type=float, metavar="DENSITY", help="trim, elect and average")
    add("--dare", type=float, metavar="DROP", help="drop at random, and rescale")
    add("--seed", type=int, default=0, help="of --dare (%(default)s)")
    add = command("slerp", "on the arc between two runs, layer by layer")
    add("runs", nargs=2, **run)
    add("--at", type=float, required=True, help="0 is the first, 1 the second")
    add = command("lora", "a run of adapters as a whole model", sums=False)
    add("runs", nargs=1, **run)
    add = command("extract", "adapters of what training changed", sums=False)
    add("runs", nargs=1, **run)
    add("--base", required=True, **run)
    add("--rank", type=int, required=True, help="of the adapters")
    add("--others", choices=("base", "keep"), default="base", help="parameters that "
        "have no adapters: as in the base, or stored as they are")  # fmt: skip
    return out


def execute(options: argparse.Namespace) -> None:
    """Does what the options say.

    Raises:
      ConfigError, CheckpointError, DataError: see the functions.
    """
    out = cli.path(options.out, "out").absolute()
    atomic.check(out, 0)
    opened = lambda text: runs.open_run(
        *cli.at_step(text), network=options.network
    ).at()
    terminal = progress.Terminal()
    layers = lambda done, total: terminal.show(f"{done} of {total} layers of kernels")
    if options.command == "add":
        pairs = [_scaled(text) for text in options.runs]
        parents, scales = [opened(text) for text, _ in pairs], [x for _, x in pairs]
    else:
        parents = [opened(text) for text in options.runs]
    base = opened(options.base) if getattr(options, "base", None) else None
    if options.command == "average":
        merge = average(parents, _numbers(options.weights))
        _note(options, parents)
    elif options.command == "add":
        onto = opened(options.onto) if options.onto else None
        shares = dict(density=options.ties, drop=options.dare, seed=options.seed)
        merge = add(base, parents, scales, onto=onto, **shares)
        _note(options, parents, base)
    elif options.command == "slerp":
        merge = slerp(*parents, options.at)
        _note(options, parents)
    elif options.command == "lora":
        merge = merge_adapters(*parents)
    else:
        keep = options.others == "keep"
        merge, adapters, others = extract_adapters(
            *parents, base, options.rank, keep, layers
        )
        terminal.close()
        for line in _kept(adapters, others, keep):
            print(line)
    texts = [parents[0].tokenize(text) for text in options.text]
    size = step_folders.nbytes(step_folders.describe({"params": merge.leaves}))
    print(f"{options.command} of {len(parents)} as {out}, {progress.short(size)}B")
    written = lambda done, total: terminal.show(
        f"{progress.short(done)}B of {progress.short(total)}B"
    )
    new = write(merge, out, written)
    terminal.close()
    print(f"{out} is complete")
    for line in _divergences(parents, new, texts):
        print(line)


def _note(options: argparse.Namespace, opened, base=None) -> None:
    if not options.any_base:
        for line in lineage.check_origins(opened, base):
            print(f"note: {line}")


def _scaled(text: str) -> tuple[str, float]:
    """The run and the scale of RUN or RUN:SCALE."""
    run, colon, scale = text.rpartition(":")
    try:
        return (run, float(scale)) if colon else (text, 1.0)
    except ValueError:  # of `hf:` and a repository
        return text, 1.0


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(x) for x in text.split(",")]
    except ValueError as error:
        raise errors.ConfigError(f"weights: {text!r:.60} are no numbers") from error


def _kept(adapters: extraction.Adapters, others: Mapping[str, float], keep: bool):
    yield "share of each kernel's change that its adapter has (sum of squares):"
    for path, energy in adapters.energy.items():
        yield f"  {path:<24} {energy:.4f}"
    if others:
        how = "stored as they are" if keep else "left as in the base"
        yield f"{how}, with the share of their norm by which they changed:"
    for name, share in others.items():
        yield f"  {name:<24} {share:.3e}"


def _divergences(
    parents: Sequence[runs.Run], new: runs.Run, texts: Sequence[Sequence[int]]
):
    """Lines with the mean KL(run || new one) a token of the texts, in nats."""
    for run in parents if texts else ():
        tokens = []
        for ids in texts:
            tokens += token_page.compare(run, new, "", ids[:1], ids[1:]).scored()
        if tokens:
            mean = sum(token.kl for token in tokens) / len(tokens)
            yield f"KL({run.path.name} || {new.path.name}): {mean:.3e} nats a token"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    return cli.exit_code(lambda: execute(options))

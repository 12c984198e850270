# SPDX-License-Identifier: Apache-2.0
r"""Makes a run of a Hugging Face folder, and a folder of a run; needs no torch.

    alignjax convert import SRC RUN_DIR
    alignjax convert export RUN_DIR DST --dtype=bfloat16

SRC is a folder or `hf:` and a repository of the hub. RUN_DIR may also be a folder of
Hugging Face's, so that export copies one with another dtype or other files. Tensors are
read and written one at a time, and what is made appears once it is whole. Adapters are
merged into what is exported, or with `--adapters` exported alone, as PEFT has them;
`import SRC RUN_DIR --adapters=FOLDER` makes a run of a folder of PEFT's and its base.
`--certificate=FILE` computes both sides on the same tokens and writes how far apart
they are, and how far from transformers where the extra `parity` is installed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import time
from collections.abc import Sequence

from alignjax import analysis, cli, errors
from alignjax.analysis import certificate, conversion
from alignjax.huggingface import save
from alignjax.tracking import progress


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("convert", __doc__)
    commands_ = out.add_subparsers(dest="command", required=True)
    into = commands_.add_parser("import", help="a run of a folder")
    into.add_argument("source", metavar="SRC", help="a folder, or hf:REPOSITORY")
    into.add_argument("target", metavar="RUN_DIR", help="made; must not have content")
    into.add_argument(
        "--adapters", metavar="FOLDER", help="of PEFT's, for SRC, which may be a run"
    )
    back = commands_.add_parser("export", help="a folder of a run")
    back.add_argument("source", metavar="RUN_DIR", help="the workdir of a run")
    back.add_argument("target", metavar="DST", help="made; must not have content")
    back.add_argument("--step", type=int, help="of which checkpoint; the newest")
    back.add_argument("--dtype", choices=save.DTYPES, help="as in the run unless told")
    back.add_argument(
        "--max-shard-size", metavar="SIZE", help="of a file of weights; 5GB"
    )
    back.add_argument(
        "--adapters", action="store_true", help="the adapters alone, for PEFT"
    )
    back.add_argument(
        "--base", metavar="NAME", help="of --adapters: the model that they belong to"
    )
    for one in (into, back):
        one.add_argument("--certificate", metavar="FILE", help="where to write it")
        one.add_argument("--network", action="store_true", help=cli.NETWORK)
    return out


def run(options: argparse.Namespace) -> None:
    """Does what the options say. Raises ConfigError, DataError, CheckpointError."""
    for name in ("target", "certificate", "adapters"):
        if isinstance(value := getattr(options, name), str):
            setattr(options, name, cli.path(value, name))
    check_options(options)
    began = time.monotonic()
    if options.command == "import" and options.adapters:
        import_adapters(options)
        return
    if options.command == "import":
        plan = conversion.plan_import(
            options.source, options.target, network=options.network
        )
        for line in describe_import(plan):
            print(line, flush=True)
        with Shown() as shown:
            made = conversion.import_folder(plan, shown)
        sides = plan.folder.path, made.path
    elif options.adapters:
        export_adapters(options)
        return
    else:
        made = conversion.plan_export(
            options.source,
            options.target,
            step=options.step,
            dtype=options.dtype,
            network=options.network,
            max_shard_bytes=save.parse_size(options.max_shard_size or "5GB"),
        )
        for line in describe_export(made):
            print(line, flush=True)
        with Shown() as shown:
            conversion.export_run(made, shown)
        sides = made.run.path, made.target
    took = progress.duration(time.monotonic() - began)
    print(f"{options.target} is complete, after {took}")
    if options.certificate:
        step = options.step if options.command == "export" else None
        of_theirs = sides[options.command == "export"]
        certify(*sides, of_theirs, options.certificate, step)


def check_options(options: argparse.Namespace) -> None:
    """Raises ConfigError for those that would be ignored, or fail once all is done."""
    unused = {
        ("import", True): ("certificate",),
        ("export", True): ("dtype", "max_shard_size", "certificate"),
        ("export", False): ("base",),
    }.get((options.command, bool(options.adapters)), ())
    when = "with" if options.adapters else "without"
    problems = [
        f"{name}: {value} has no effect {when} --adapters; leave it out"
        for name in unused
        if (value := getattr(options, name)) is not None
    ]
    if options.certificate:
        file = options.certificate.absolute()
        if file.exists():
            problems.append(f"certificate: {file} is there; name another file")
        elif not os.access(file.parent, os.W_OK | os.X_OK):
            problems.append(
                f"certificate: {file.parent} is no folder that can be written to; make "
                "it, or name another file"
            )
    if problems:
        raise errors.ConfigError(problems)


def describe_import(plan: conversion.Import) -> list[str]:
    """What will be done, before it is."""
    folder, count = plan.folder, sum(x.size for x in plan.folder.leaves.values())
    kinds = sorted({str(x.dtype) for x in folder.leaves.values()})
    lines = [
        f"import {folder.path}",
        f"  as {plan.target}, step 0",
        f"  {model(folder.section)}: {count:,} parameters of {', '.join(kinds)}",
        f"  {size(plan.nbytes)}, of {len(folder.files)} file(s)",
    ]
    if (tok := folder.tokenizer) is not None:
        template = "with a" if folder.chat else "without a"
        lines.append(
            f"  tokenizer: {tok.kind}, {tok.vocab_size:,} tokens, {template} chat "
            "template"
        )
    else:
        lines.append("  there is no tokenizer; name one in c.tokenizer to train")
    if folder.ignored:
        shown = ", ".join(folder.ignored[:3]) + ("..." if folder.ignored[3:] else "")
        lines.append(f"  {len(folder.ignored)} tensor(s) that are not needed: {shown}")
    return lines


def describe_export(made: conversion.Export) -> list[str]:
    """What will be done, before it is."""
    plan, section = made.plan, made.run.config["model"]
    count = sum(leaf.size for leaf in made.leaves.values())
    kinds = sorted({str(dtype) for dtype in plan.dtypes.values()})
    lines = [
        f"export {made.run.path}, step {made.run.step}",
        f"  as {made.target}, {plan.json['architectures'][0]}",
        f"  {model(section)}: {count:,} parameters of {', '.join(kinds)}",
        f"  {size(plan.nbytes)}: {len(plan.places)} tensors, {len(plan.files)} file(s)",
        f"  beside them: {', '.join(['config.json', *plan.extra])}",
    ]
    if section.get("lora_rank"):
        lines.append("  adapters are merged into their kernels")
    return lines + [f"  {note}" for note in plan.notes]


def model(section) -> str:
    """`llama`, or `llama nano` where the size has a name."""
    return " ".join(section[k] for k in ("family", "name") if section.get(k))


def import_adapters(options: argparse.Namespace) -> None:
    """Makes a run of adapters of PEFT's and what they belong to."""
    made = conversion.import_adapters(
        options.adapters, options.source, options.target, network=options.network
    )
    c = made.model.config
    print(f"import the adapters in {options.adapters} for {options.source}")
    print(f"  rank {c.lora_rank}, of {c.lora_targets}")
    print(f"{options.target} is complete; {options.source} has to stay where it is")


def export_adapters(options: argparse.Namespace) -> None:
    """Writes the adapters of a run for PEFT."""
    opened = analysis.open_run(options.source, options.step, network=options.network)
    print(f"export the adapters of {opened.path} as {options.target}")
    conversion.export_adapters(opened, options.target, options.base)
    print(f"{options.target} is complete")


def certify(first, second, folder, file: pathlib.Path, step: int | None) -> None:
    """Computes with both sides, and writes how far apart they are.

    Where transformers and torch are installed the second is compared with what these
    compute from `folder`, which is the one of the two that they read.
    """
    print(f"computing with both, for {file}", flush=True)
    sides = analysis.open_run(first, step), analysis.open_run(second)
    outside = None
    scores = sides[1].config["model"].get("score_heads")
    if certificate.has_transformers() and not scores:
        outside = functools.partial(certificate.by_transformers, folder)
    differences = certificate.make(*sides, outside=outside)
    file.write_text(json.dumps(differences, indent=2, allow_nan=False) + "\n")
    print(certificate.summary(differences))


def size(count: float) -> str:
    return f"{progress.short(count)}B"


class Shown:
    """Progress on the terminal: bytes, speed and time left."""

    def __enter__(self) -> Shown:
        self._terminal, self._began = progress.Terminal(), time.monotonic()
        return self

    def __exit__(self, *error) -> None:
        self._terminal.close()

    def __call__(self, done: int, total: int) -> None:
        spent = max(1e-9, time.monotonic() - self._began)
        left = progress.duration((total - done) * spent / max(1, done))
        text = f"{size(done)} of {size(total)}  {size(done / spent)}/s  {left} left"
        self._terminal.show(text, force=done == total)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    return cli.exit_code(lambda: run(options))

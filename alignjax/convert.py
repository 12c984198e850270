# SPDX-License-Identifier: Apache-2.0
r"""Makes a run of a Hugging Face folder or a GGUF file, and these of a run.

    alignjax convert import SRC RUN_DIR
    alignjax convert export RUN_DIR DST --dtype=bfloat16
    alignjax convert export RUN_DIR FILE.gguf --dtype=q8_0

SRC is a folder, `hf:` and a repository of the hub, or a GGUF file. RUN_DIR may also be
any of these, so that export copies it with another dtype or other files. Tensors are
read and written one at a time, and what is made appears once it is whole. Adapters are
merged into what is exported, or with `--adapters` exported alone, as PEFT has them;
`import SRC RUN_DIR --adapters=FOLDER` makes a run of a folder of PEFT's and its base.
`--certificate=FILE` computes both sides on the same tokens and writes how far apart
they are, and how far from transformers where the extra `parity` is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from alignjax import analysis, cli, errors
from alignjax.analysis import certificate, conversion
from alignjax.gguf import save as gguf
from alignjax.huggingface import save
from alignjax.tracking import progress


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("convert", __doc__)
    commands = out.add_subparsers(dest="command", required=True)
    into = commands.add_parser("import", help="a run of a folder or a file")
    add = into.add_argument
    add("source", metavar="SRC", help="a folder, hf:REPOSITORY, or FILE.gguf")
    add("target", metavar="RUN_DIR", help="made; must not have content")
    add("--adapters", metavar="FOLDER", help="of PEFT's, for SRC, which may be a run")
    back = commands.add_parser("export", help="a folder or a file of a run")
    add = back.add_argument
    add("source", metavar="RUN_DIR", help="the workdir of a run")
    add("target", metavar="DST", help="a folder, or FILE.gguf; made anew")
    add("--step", type=int, help="of which checkpoint; the newest")
    add("--dtype", help="of a folder: as in the run unless told; of FILE.gguf: f32")
    add("--max-shard-size", metavar="SIZE", help="of a file of weights; 5GB")
    add("--adapters", action="store_true", help="the adapters alone, for PEFT")
    add("--base", metavar="NAME", help="of --adapters: the model that they belong to")
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
    convert = {
        ("import", False): import_folder,
        ("import", True): import_adapters,
        ("export", False): export_gguf if _is_gguf(options.target) else export_run,
        ("export", True): export_adapters,
    }
    convert[options.command, bool(options.adapters)](options)


def _is_gguf(path: pathlib.Path) -> bool:
    return path.suffix.lower() == ".gguf"


def check_options(options: argparse.Namespace) -> None:
    """Raises ConfigError for those that would be ignored, or fail once all is done."""
    unused = {
        ("import", True): ("certificate",),
        ("export", True): ("dtype", "max_shard_size", "certificate"),
        ("export", False): ("base",),
    }.get((options.command, bool(options.adapters)), ())
    file = options.command == "export" and _is_gguf(options.target)
    when = "with" if options.adapters else "without"
    problems = [
        f"{name}: {value} has no effect {when} --adapters; leave it out"
        for name in unused
        if (value := getattr(options, name)) is not None
    ]
    if file and options.adapters:
        problems.append("adapters: a GGUF file holds a whole model; leave it out")
    elif file and options.max_shard_size is not None:
        problems.append("max_shard_size: a GGUF file is one; leave it out")
    problems += _dtype_problems(getattr(options, "dtype", None), file)
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


def _dtype_problems(dtype: str | None, file: bool) -> list[str]:
    """Why a GGUF file, or else a folder, has no such dtype."""
    dtypes = (("a folder", save.DTYPES), ("a GGUF file", tuple(gguf.DTYPES)))
    (kind, own), (other, others) = dtypes[file], dtypes[not file]
    if dtype is None or dtype in own:
        return []
    if dtype.lower() in own:
        remedy = "write it in small letters"
    elif dtype in others:
        remedy = f"{other} has it" + ("" if file else ", whose name ends in .gguf")
    elif file and dtype.lower().startswith(("q", "iq")):
        remedy = "to have others write f16, and run llama.cpp's llama-quantize on it"
    else:
        remedy = "take one of these"
    return [f"dtype: {dtype!r}, where {kind} has {', '.join(own)}; {remedy}"]


def import_folder(options: argparse.Namespace) -> None:
    """Makes a run of a folder."""
    plan = conversion.plan_import(
        options.source, options.target, network=options.network
    )
    folder, tok = plan.folder, plan.folder.tokenizer
    lines = [
        f"import {folder.path}",
        f"  as {plan.target}, step 0",
        f"  {_model(folder.section, folder.leaves)}",
        f"  {_size(plan.nbytes)}, of {len(folder.files)} file(s)",
        "  there is no tokenizer; name one in c.tokenizer to train"
        if tok is None
        else f"  tokenizer: {tok.kind}, {tok.vocab_size:,} tokens, "
        f"{'with' if folder.chat else 'without'} a chat template",
    ]
    if folder.ignored:
        count, names = len(folder.ignored), errors.some(folder.ignored)
        lines.append(f"  {count} tensor(s) that are not needed: {names}")
    with _progress(lines, options.target) as show:
        imported = conversion.import_folder(plan, show)
    if options.certificate:
        _certify(folder.path, imported.path, folder.path, options.certificate)


def export_run(options: argparse.Namespace) -> None:
    """Makes a folder of a run."""
    export = conversion.plan_export(
        options.source,
        options.target,
        step=options.step,
        dtype=options.dtype,
        network=options.network,
        max_shard_bytes=save.MAX_SHARD_BYTES
        if options.max_shard_size is None
        else save.parse_size(options.max_shard_size),
    )
    plan, opened = export.plan, export.run
    section, files = opened.config["model"], len(plan.files)
    lines = [
        f"export {opened.path}, step {opened.step}",
        f"  as {export.target}, {plan.json['architectures'][0]}",
        f"  {_model(section, export.leaves, plan.dtypes.values())}",
        f"  {_size(plan.nbytes)}: {len(plan.places)} tensors, {files} file(s)",
        f"  beside them: {', '.join(['config.json', *plan.extra])}",
    ]
    _write(export, lines, options)


def _write(export: Any, lines: list[str], options: argparse.Namespace) -> None:
    """Writes what is planned, after `lines` that say what, and its certificate."""
    if export.run.config["model"].get("lora_rank"):
        lines.append("  adapters are merged into their kernels")
    lines += [f"  {note}" for note in export.plan.notes]
    with _progress(lines, options.target) as show:
        conversion.export_run(export, show)
    if options.certificate:
        sides = export.run.path, export.target
        _certify(*sides, export.target, options.certificate, options.step)


def export_gguf(options: argparse.Namespace) -> None:
    """Makes a GGUF file of a run."""
    export = conversion.plan_gguf(
        options.source,
        options.target,
        step=options.step,
        dtype=options.dtype,
        network=options.network,
    )
    plan, opened = export.plan, export.run
    kinds = sorted({q.name for _, _, q in plan.tensors.values()})
    section = opened.config["model"]
    lines = [
        f"export {opened.path}, step {opened.step}",
        f"  as {export.target}, for llama.cpp",
        f"  {_model(section, export.leaves, kinds)}",
        f"  {_size(plan.nbytes)}: {len(plan.places)} tensors",
    ]
    _write(export, lines, options)


def import_adapters(options: argparse.Namespace) -> None:
    """Makes a run of adapters of PEFT's and what they belong to."""
    imported = conversion.import_adapters(
        options.adapters, options.source, options.target, network=options.network
    )
    c = imported.model.config
    print(f"import the adapters in {options.adapters} for {options.source}")
    print(f"  rank {c.lora_rank}, of {c.lora_targets}")
    print(f"{options.target} is complete; {options.source} has to stay where it is")


def export_adapters(options: argparse.Namespace) -> None:
    """Writes the adapters of a run for PEFT."""
    opened = analysis.open_run(options.source, options.step, network=options.network)
    print(f"export the adapters of {opened.path} as {options.target}")
    conversion.export_adapters(opened, options.target, options.base)
    print(f"{options.target} is complete")


def _certify(first, second, folder, file: pathlib.Path, step=None) -> None:
    """Computes with both sides, and writes how far apart they are.

    Where transformers and torch are installed the second is compared with what these
    compute from `folder`, which is the one of the two that they read.
    """
    print(f"computing with both, for {file}", flush=True)
    sides, outside = (analysis.open_run(first, step), analysis.open_run(second)), None
    scores = sides[1].config["model"].get("score_heads")
    if certificate.has_transformers() and not scores and folder.is_dir():
        outside = functools.partial(certificate.by_transformers, folder)
    differences = certificate.make(*sides, outside=outside)
    file.write_text(json.dumps(differences, indent=2, allow_nan=False) + "\n")
    print(certificate.summary(differences))


def _model(section, leaves, dtypes=None) -> str:
    """`llama nano: 1,234 parameters of float32`."""
    name = " ".join(section[k] for k in ("family", "name") if section.get(k))
    dtypes = dtypes or [x.dtype for x in leaves.values()]
    kinds = ", ".join(sorted({str(dtype) for dtype in dtypes}))
    return f"{name}: {sum(x.size for x in leaves.values()):,} parameters of {kinds}"


def _size(count: float) -> str:
    return f"{progress.short(count)}B"


@contextlib.contextmanager
def _progress(lines: list[str], target):
    """Prints what will be done, then bytes, speed and time left, then the time taken.

    Yields a function of (bytes done, bytes in all).
    """
    print("\n".join(lines), flush=True)
    began = time.monotonic()
    with contextlib.closing(progress.Terminal()) as terminal:

        def show(done: int, total: int) -> None:
            spent = max(1e-9, time.monotonic() - began)
            left = progress.duration((total - done) * spent / max(1, done))
            speed = f"{_size(done / spent)}/s  {left} left"
            text = f"{_size(done)} of {_size(total)}  {speed}"
            terminal.show(text, force=done == total)

        yield show
    took = progress.duration(time.monotonic() - began)
    print(f"{target} is complete, after {took}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    return cli.exit_code(lambda: run(options))

# SPDX-License-Identifier: Apache-2.0
r"""Compiles the train step of a config for hardware that is not here, and weighs it.

    alignjax plan --config=configs/pretrain/gpt2_124m.py --topology=h200 \
        --config.microbatches=8

Prints whether it fits, where memory and time go, and what to expect; reads no data and
no weights. GPUs (a100, h100, h200, b200; `h100:8` is a host of eight) need the extra
`plan`, TPUs (v4, v5e, v5p, v6e; `v5e:8` is a slice of eight) the extra `tpu`.
`--search` tries microbatches, remat and meshes, and lists the fastest that fit. Times
are predictions: the floors of the kernels on the card, times a factor that was measured
on an H200.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import jax

from alignjax import cli, errors
from alignjax.experiment import config_file
from alignjax.plan import memory, outcome, program, search, step, topology


def run(arguments: Sequence[str] | None) -> int:
    """Does what the flags say; returns the exit code.

    Raises:
      ConfigError: a config or a topology that cannot be, or a step that does not fit.
    """
    parser = cli.parser("plan", __doc__)
    add = parser.add_argument
    config_file.add_option(parser)
    add("--topology", required=True, metavar="CARD[:N]", help="such as h200 or h100:8")
    add("--search", action="store_true", help="try microbatches, remat and meshes")
    add("--vocab", type=int, metavar="V", help="tokens, where only the tokenizer tells")
    add(
        "--responses",
        type=int,
        default=4,
        metavar="K",
        help="of a ranked or rated group",
    )
    add("--text", metavar="FILE", help="write the program there, as .gz perhaps")
    add("--json", action="store_true", help="print one JSON object")
    options, loaded = config_file.parse(parser, arguments)
    _check(parser, options)
    # The devices here are not those of the plan, and some plugins ask for theirs.
    jax.config.update("jax_platforms", "cpu")
    # Programs of devices that are not here cannot be read from the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    where = topology.find(options.topology)
    out = options.text and cli.output(options.text)
    make = dict(
        vocab=options.vocab,
        responses=options.responses,
        device_bytes=int(memory.USABLE * where.card.memory),
        network=options.network,
    )
    if options.search:
        rows = search.run(loaded.section, where, make, report=print_progress)
        print(json.dumps(rows) if options.json else search.table(rows))
        return errors.DONE if any(row["fits"] for row in rows) else errors.CONFIG
    planned = step.plan(loaded.section, where.devices, **make)
    compiled = step.compile(planned, where.options)
    if out:
        if (text := step.text(compiled)) is None:
            raise errors.ConfigError(
                f"text: the compiler of {where.name} shows no program; leave it out"
            )
        program.write(out, text, where.card.kind)
    figures = outcome.measure(planned, compiled, where)
    print(json.dumps(figures) if options.json else outcome.page(figures))
    if figures["fits"]:
        return errors.DONE
    raise errors.ConfigError(
        f"batch_size: the step takes {figures['memory']['total'] / 2**30:,.1f} GiB of "
        f"{figures['memory']['card'] / 2**30:,.1f} on each {where.card.kind}; "
        f"{outcome.advice(figures)}"
    )


def _check(parser: cli.Parser, options: argparse.Namespace) -> None:
    for name in ("vocab", "responses"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name}: {value} must be at least 1")
    if options.search and options.text:
        parser.error("--text: one program, where --search compiles many; drop either")


def print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the flags and plans; returns the exit code."""
    return cli.exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

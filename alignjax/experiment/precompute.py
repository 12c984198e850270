# SPDX-License-Identifier: Apache-2.0
r"""Fills the store of reference log-probabilities that a config's data need.

    alignjax precompute --config=configs/dpo/world.py \
        --config.init.run=runs/sft

Training with `reference.store` does the same where something is missing; doing it first
serves a machine that is better at it, or several runs that start at once. What is there
already is not computed again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alignjax import cli
from alignjax.distributed import sharding
from alignjax.experiment import build, config_file, reference


def main(arguments: Sequence[str] | None = None) -> int:
    """Fills the store; returns the exit code."""
    parser = cli.parser("precompute", __doc__)
    config_file.add_option(parser)

    def fill() -> None:
        options, loaded = config_file.parse(parser, arguments)
        section = loaded.section
        section["reference"] = {**(section.get("reference") or {}), "store": True}
        run = build.build(section, network=options.network)
        data = {"train": run.train, "validation": run.validation}
        with sharding.use(run.mesh, run.rules):
            reference.attach(run.store, data, print)

    return cli.exit_code(fill)


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
r"""Fills the store of reference log-probabilities that a config's data need.

    python tools/precompute_reference.py --config=configs/dpo/world.py \
        --config.init.run=runs/sft

Training with `reference.store` does the same where something is missing; doing it first
serves a machine that is better at it, or several runs that start at once. What is there
already is not computed again.
"""

import pathlib
import sys

from absl import app, flags

from alignjax import errors

# Configs import `configs.base` from the root of the checkout.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from alignjax import cli, config, train
from alignjax.distributed import sharding
from alignjax.experiment import build, reference


def main(_) -> int:
    section = config.to_json(flags.FLAGS.config)
    section.setdefault("reference", {})["store"] = True

    def fill() -> None:
        run = build.build(section)
        if run.reference is None:
            raise errors.ConfigError("objective: it asks no reference; nothing to do")
        with sharding.use(run.mesh, run.rules):
            reference.attach(run, print, lambda _: None)

    return cli.exit_code(fill)


if __name__ == "__main__":
    train.define_config_flag()
    app.run(main, flags_parser=train.parse)

# SPDX-License-Identifier: Apache-2.0
r"""Fills the store of reference log-probabilities that a config's data need.

    python tools/precompute_reference.py --config=configs/dpo/world.py \
        --config.init.run=runs/sft

Training with `reference.store` does the same where something is missing; doing it first
serves a machine that is better at it, or several runs that start at once. What is there
already is not computed again.
"""

import sys

from absl import app, flags

from alignjax import config, exit_codes, experiment, reference, sharding, train
from alignjax.data import records


def main(_) -> int:
    section = config.to_json(flags.FLAGS.config)
    section.setdefault("reference", {})["store"] = True
    try:
        run = experiment.build(section)
        if run.reference is None:
            raise config.ConfigError("objective: it asks no reference; nothing to do")
        with sharding.use(run.mesh, run.rules):
            reference.attach(run, print, lambda _: None)
    except config.ConfigError as error:
        print(f"ConfigError: {error}", file=sys.stderr)
        return exit_codes.CONFIG
    except records.DataError as error:
        print(f"DataError: {error}", file=sys.stderr)
        return exit_codes.DATA
    return exit_codes.DONE


if __name__ == "__main__":
    train.define_config_flag()
    app.run(main, flags_parser=train.parse)

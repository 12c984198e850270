# SPDX-License-Identifier: Apache-2.0
"""Whatever a field of a config is set to, it is taken or refused by its name.

A sound config is changed at random and checked as a start does before it reads data.
"""

from alignjax import config, errors
from alignjax.experiment import build, config_file
from tests.fixtures import strange


@strange.trials(60, 1500)
def test_a_config(count):
    sound = config.to_json(config_file.load("configs/smoke/pretrain.py"))
    build.check(sound)

    def check(section):
        if not isinstance(section, dict):
            return  # a file of configs is refused for that elsewhere
        try:
            build.check(section)
        except errors.ConfigError as error:
            assert all(problem.strip() for problem in error.problems)
            raise

    strange.try_all(count, strange.changed(sound), check)

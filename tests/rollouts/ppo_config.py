# SPDX-License-Identifier: Apache-2.0
"""The small PPO of these tests as the file of a config."""

import pathlib

from ml_collections import ConfigDict

from tests.rollouts import small


def get_config() -> ConfigDict:
    # Rows of several prompts.
    rows = dict(length=300, rollouts__max_tokens=100, data__share_prompt=True)
    return ConfigDict(small.ppo(pathlib.Path("."), start="set by a flag", **rows))

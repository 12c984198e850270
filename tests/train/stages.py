# SPDX-License-Identifier: Apache-2.0
"""Runs of the smoke configs, changed, in a folder of their own.

They neither evaluate nor sample unless told."""

import pathlib

import pytest

from alignjax import config, errors, train
from alignjax.analysis import open_run
from tests.train import small


def section(module, folder: pathlib.Path, **changes) -> dict:
    c = config.to_json(module.get_config())
    c["cache_dir"] = str(folder / "cache")
    c["log"]["tensorboard"] = False
    c["evaluation"]["every"] = c["sample"]["every"] = None  # each compiles a program
    return small.change(c, changes)


def run(folder, name, module, **changes):
    """A finished run, opened."""
    done = train.train(section(module, folder, **changes), folder / name)
    assert done == errors.DONE
    return open_run(folder / name)


def interrupted(folder, name, module, at: int, **changes):
    """As `run`, but asked to stop after the step `at`, and then started again."""
    c = section(module, folder, **changes)
    with pytest.MonkeyPatch.context() as patch:
        interruption = train.lifecycle.Interruption
        patch.setattr(interruption, "requested", lambda self, step: step == at)
        code = property(lambda self: errors.INTERRUPTED)
        patch.setattr(interruption, "exit_code", code)
        assert train.train(c, folder / name) == errors.INTERRUPTED
    assert open_run(folder / name).steps[-1] == at + 1
    return run(folder, name, module, **changes)


def refused(folder, module, **changes) -> str:
    """What the run is refused with."""
    with pytest.raises(errors.ConfigError) as caught:
        train.train(section(module, folder, **changes), folder / "refused")
    return str(caught.value)


def said(opened) -> list[str]:
    return (opened.path / "log.txt").read_text().splitlines()

# SPDX-License-Identifier: Apache-2.0
"""Which configs may go on with a run, and what the others are told."""

import logging

import pytest

from alignjax import errors
from alignjax.checkpoint import resume

OLD = {
    "steps": 100,
    "evaluation": {"every": 10},
    "data": {"sources": {"a": {"kind": "text", "path": "a.txt"}}},
    "mesh": {"data": 1, "fsdp": 8},
    "microbatches": 1,
    "checkpoint": {"every": 5},
    "optimizer": {"learning_rate": 1e-3, "name": "adamw"},
}


def changed(**fields):
    return {**OLD, **fields}


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        changed(mesh={"data": 2, "fsdp": 4}),
        changed(microbatches=4, evaluation={"every": 5, "batches": 2}),
        changed(data={"sources": {"a": {"kind": "text", "path": "/mnt/a.txt"}}}),
        changed(checkpoint={"every": 7, "keep_last": 1}),
    ],
)
def test_what_does_not_change_the_trajectory_may_differ(new):
    resume.check_same_run(OLD, new, where="run")


@pytest.mark.parametrize("field", ["steps", "seed", "meshes", "checkpointing", "data"])
def test_anything_else_is_refused_with_the_diff(field):
    with pytest.raises(errors.ConfigError) as error:
        resume.check_same_run(OLD, {**OLD, field: 7}, where="runs/a")
    assert "runs/a holds another run" in error.value.problems[0]
    assert error.value.problems[1] == f"  {field}: {OLD.get(field)} -> 7"
    assert f"checkpoint.accept=\"('{field}',)\"" in error.value.problems[-1]


def test_every_difference_is_shown_and_only_those():
    new = changed(steps=7, optimizer={"learning_rate": 2e-3, "name": "adamw"})
    with pytest.raises(errors.ConfigError) as error:
        resume.check_same_run(OLD, new, where="run")
    assert error.value.problems[1:-1] == [
        "  optimizer.learning_rate: 0.001 -> 0.002",
        "  steps: 100 -> 7",
    ]


@pytest.mark.parametrize("accept", ["steps", "st*"])
def test_accepted_fields_are_logged(accept, caplog):
    with caplog.at_level(logging.WARNING):
        resume.check_same_run(OLD, changed(steps=7), where="run", accept=[accept])
    assert "steps: 100 -> 7" in caplog.text

# SPDX-License-Identifier: Apache-2.0
"""Objectives: what is learned from a batch, given a model."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax import config, errors, registry
from alignjax.objectives import language_model, preference, reward_model
from alignjax.types import Model, Objective

OBJECTIVES = registry.Registry("objective")
OBJECTIVES.register(language_model.make, "language_model")
OBJECTIVES.register(preference.make, "preference")
OBJECTIVES.register(reward_model.make, "reward_model")


def build(model: Model, section: Mapping, path: str = "objective") -> Objective:
    """The objective called `section["name"]`, with the section's other fields.

    Raises:
      ConfigError: an unknown objective, or a field that it does not take.
    """
    fields = {k: v for k, v in section.items() if v is not None}
    try:
        make = OBJECTIVES.find(fields.pop("name", ""))
    except ValueError as error:
        raise errors.ConfigError(f"{path}.name: {error}") from error
    return config.call(make, fields, path, model)

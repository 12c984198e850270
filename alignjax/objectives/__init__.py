# SPDX-License-Identifier: Apache-2.0
"""Objectives: what is learned from a batch, given a model."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax import config, errors, registry
from alignjax.models import router_loss
from alignjax.objectives import (
    language_model,
    policy_gradient,
    preference,
    reward_model,
)
from alignjax.types import Model, Objective

OBJECTIVES = registry.Registry("objective")
OBJECTIVES.register(language_model.make, "language_model")
OBJECTIVES.register(policy_gradient.make, "policy_gradient")
OBJECTIVES.register(preference.make, "preference")
OBJECTIVES.register(reward_model.make, "reward_model")


def build(model: Model, section: Mapping, path: str = "objective") -> Objective:
    """The objective called `section["name"]`, with the section's other fields.

    For a model with experts it has the routers' loss, `router_loss.wrap`, whose `scope`
    is the field `router_scope`.

    Raises:
      ConfigError: an unknown objective, or a field that it does not take.
    """
    fields = {k: v for k, v in section.items() if v is not None}
    make = config.find(OBJECTIVES, fields.pop("name", ""), f"{path}.name")
    scope = fields.pop("router_scope", None)
    if scope is not None and not router_loss.learns(model):
        raise errors.ConfigError(
            f"{path}.router_scope: has no effect without model.router_loss or "
            "router_z_loss"
        )
    if scope not in (None, *router_loss.SCOPES):
        scopes = ", ".join(router_loss.SCOPES)
        raise errors.ConfigError(f"{path}.router_scope: {scope!r} is none of {scopes}")
    build = lambda model: config.call(make, fields, path, model)
    if model.routing is None:
        return build(model)
    return router_loss.wrap(build, model, scope or "microbatch")

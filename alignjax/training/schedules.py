# SPDX-License-Identifier: Apache-2.0
"""Learning rates over time, as optax schedules: step -> rate.

A warm-up of w steps rises in a straight line and reaches the peak at step w - 1; the
first step already learns, at peak / w. What comes down is down after the last step.
"""

from __future__ import annotations

from collections.abc import Mapping

import optax

from alignjax import config, errors, registry
from alignjax.bounds import Count, NonNegative

SCHEDULES = registry.Registry("schedule")


def build(section: Mapping, *, peak: float, steps: int, tokens_per_step: int):
    """The schedule of a config's section, over `steps` steps with the given `peak`.

    The section has `name`, `warmup_steps` or `warmup_tokens` (0 is none), and the
    options of the named schedule.

    Raises:
      ConfigError: unknown names or options, or a warm-up as long as the run.
    """
    fields = {k: v for k, v in section.items() if v is not None}
    warmup = fields.pop("warmup_steps", 0)
    if tokens := fields.pop("warmup_tokens", 0):
        if tokens < 0:
            raise errors.ConfigError(f"schedule.warmup_tokens: {tokens} is below 0")
        if warmup:
            raise errors.ConfigError(
                "schedule.warmup_tokens: give warmup_steps or warmup_tokens, not both"
            )
        warmup = -(-tokens // tokens_per_step)
    if not 0 <= warmup <= steps:
        raise errors.ConfigError(
            f"schedule.warmup_steps: {warmup} is not between 0 and steps = {steps}"
        )
    try:
        make = SCHEDULES.find(fields.pop("name", ""))
    except ValueError as error:
        raise errors.ConfigError(f"schedule.name: {error}") from error
    after = config.call(make, fields, "schedule", peak, max(steps - warmup, 1), warmup)
    if not warmup:
        return after
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


@SCHEDULES.register
def constant(peak, steps, warmup):
    """The peak, for ever."""
    del steps, warmup
    return optax.constant_schedule(peak)


@SCHEDULES.register
def linear(peak, steps, warmup, *, final: NonNegative = 0.0):
    """A straight line from the peak to `final` times the peak."""
    del warmup
    return optax.linear_schedule(peak, final * peak, steps)


@SCHEDULES.register
def cosine(peak, steps, warmup, *, final: NonNegative = 0.1):
    """Half a cosine to `final` times the peak; arXiv:1608.03983 Eq. 5, no restarts."""
    del warmup
    return optax.cosine_decay_schedule(peak, steps, alpha=final)


@SCHEDULES.register
def wsd(peak, steps, warmup, *, decay: float = 0.2, final: NonNegative = 0.0):
    """Warm-up, stable, decay (arXiv:2404.06395): the last `decay` share goes down."""
    del warmup
    if not 0 < decay <= 1:
        raise errors.ConfigError(f"decay: {decay} is not in (0, 1]")
    falling = max(round(decay * steps), 1)
    return optax.join_schedules(
        [
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, final * peak, falling),
        ],
        [steps - falling],
    )


@SCHEDULES.register
def rsqrt(peak, steps, warmup, *, timescale: Count = 1000):
    """peak * sqrt(t / (t + step)), the inverse square root of arXiv:1706.03762 section
    5.3, where t is the longer of the warm-up and `timescale`."""
    del steps
    scale = max(warmup, timescale)
    return lambda step: peak * (scale / (scale + step)) ** 0.5

# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules, `step -> rate`, as optax has them.

A warm-up of w steps is linear, from peak / w at step 0 to the peak at step w - 1. A
decay reaches its final rate after the last step.
"""

from __future__ import annotations

from collections.abc import Mapping

import optax

from alignjax import config, errors, registry
from alignjax.bounds import Count, NonNegative, PositiveShare

SCHEDULES = registry.Registry("schedule")


def build(section: Mapping, *, peak: float, steps: int, tokens_per_step: int | None):
    """The schedule of a config's section over a run of `steps` steps.

    Args:
      section: `name`, `warmup_steps` or `warmup_tokens` (0 is none), and the options of
        the named schedule.
      peak: the highest rate.
      steps: of the run, warm-up included.
      tokens_per_step: for `warmup_tokens`; None where it is not known, as of responses
        that are still to be drawn.

    Raises:
      ConfigError: unknown names or options, a warm-up longer than the run, or one in
        tokens where their number is not known.
    """
    fields = {k: v for k, v in section.items() if v is not None}
    warmup = fields.pop("warmup_steps", 0)
    if tokens := fields.pop("warmup_tokens", 0):
        if tokens < 0:
            raise errors.ConfigError(f"schedule.warmup_tokens: {tokens} is below 0")
        if tokens_per_step is None:
            raise errors.ConfigError(
                f"schedule.warmup_tokens: {tokens} of rollouts, whose tokens are "
                "not known before they are drawn; set schedule.warmup_steps instead"
            )
        if warmup:
            raise errors.ConfigError(
                "schedule.warmup_tokens: give warmup_steps or warmup_tokens, not both"
            )
        warmup = -(-tokens // tokens_per_step)
    if not 0 <= warmup <= steps:
        raise errors.ConfigError(
            f"schedule.warmup_steps: {warmup} is not between 0 and steps = {steps}"
        )
    make = config.find(SCHEDULES, fields.pop("name", ""), "schedule.name")
    after = config.call(make, fields, "schedule", peak, max(steps - warmup, 1), warmup)
    if not warmup:
        return after
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


@SCHEDULES.register
def constant(peak, steps, warmup):
    """The peak at every step."""
    return optax.constant_schedule(peak)


@SCHEDULES.register
def linear(peak, steps, warmup, *, final: NonNegative = 0.0):
    """A straight line from the peak to `final` times the peak."""
    return optax.linear_schedule(peak, final * peak, steps)


@SCHEDULES.register
def cosine(peak, steps, warmup, *, final: NonNegative = 0.1):
    """Half a cosine to `final` times the peak; arXiv:1608.03983 Eq. 5, no restarts."""
    return optax.cosine_decay_schedule(peak, steps, alpha=final)


@SCHEDULES.register
def wsd(peak, steps, warmup, *, decay: PositiveShare = 0.2, final: NonNegative = 0.0):
    """Warm-up, stable, decay, arXiv:2404.06395: the last share `decay` is linear."""
    falling = max(round(decay * steps), 1)
    stable = optax.constant_schedule(peak)
    decayed = optax.linear_schedule(peak, final * peak, falling)
    return optax.join_schedules([stable, decayed], [steps - falling])


@SCHEDULES.register
def rsqrt(peak, steps, warmup, *, timescale: Count = 1000):
    """peak * sqrt(t / (t + step)), the inverse square root of arXiv:1706.03762 section
    5.3, where t is the longer of the warm-up and `timescale`."""
    scale = max(warmup, timescale)
    return lambda step: peak * (scale / (scale + step)) ** 0.5

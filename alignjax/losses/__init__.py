# SPDX-License-Identifier: Apache-2.0
"""Losses: pure functions of arrays, one value per token or example, never reduced.

`catalogue` finds them by name; `alignjax losses` prints them all.
"""

from alignjax.losses import (  # noqa: F401
    advantages,
    catalogue,
    coupled,
    denominators,
    kl,
    language_model,
    links,
    normalizers,
    policy_gradient,
    preference,
    probe,
    ranked,
    reference_free,
    reward,
    scores,
    token_level,
    unpaired,
)

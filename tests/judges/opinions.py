# SPDX-License-Identifier: Apache-2.0
"""Functions as judges of tests, `module:function`."""

from alignjax import judges

ASKED: list[tuple] = []


def longer(turns, first, second):
    """Prefers long texts, and a little whatever it reads first."""
    ASKED.append((turns[0][1], first, second))
    return min(max(0.5 + 0.1 * (len(first) - len(second)) + 0.05, 0.0), 1.0)


def squeamish(turns, first, second):
    if "bad" in first:
        raise judges.Failure("it will not read that")
    return float(len(first) > len(second))

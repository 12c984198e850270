# SPDX-License-Identifier: Apache-2.0
"""A reward that ends in ways that are no exceptions, which a worker imports."""

import sys


class Odd(BaseException):
    """What `except Exception` lets pass."""


def quits(prompt, response, record):
    """1 of an empty response."""
    if response == "exit":
        sys.exit(2)
    if response == "base":
        raise Odd("mine")
    return None if response else 1.0


def written(prompt, response, record):
    """A number as a text, which is none."""
    return "1.0"

# SPDX-License-Identifier: Apache-2.0
"""Generation: responses to prompts, with the log-probability of every token."""

from alignjax.sampling.batches import respond
from alignjax.sampling.completions import Completion, generate, stream
from alignjax.sampling.distribution import Settings, settings
from alignjax.sampling.loop import Draw, Responses, sample
from alignjax.sampling.request import encode

__all__ = [
    "Completion",
    "Draw",
    "Responses",
    "Settings",
    "encode",
    "generate",
    "respond",
    "sample",
    "settings",
    "stream",
]

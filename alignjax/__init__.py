# SPDX-License-Identifier: Apache-2.0
"""Aligning language models in JAX; `alignjax.open_run` opens a finished run."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """`open_run`, imported at its first use: importing alignjax imports no jax."""
    if name == "open_run":
        from alignjax import analysis

        return analysis.open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

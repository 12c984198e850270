# SPDX-License-Identifier: Apache-2.0
"""Aligning language models in JAX; `alignjax.open_run` opens a finished run."""

import os
import signal
import sys

__version__ = "0.1.0"


def __getattr__(name: str):
    """`open_run`, imported at its first use: importing alignjax imports no jax."""
    if name == "open_run":
        from alignjax import analysis

        return analysis.open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def interrupted(*_) -> None:
    """Ends a command at Ctrl-C while it imports, for seconds: nothing is to be saved.

    A KeyboardInterrupt could come out of an import as another error, or not at all.
    """
    os.write(2, b"interrupted\n")
    os._exit(130)


def end_at_interrupt() -> None:
    """Lets `interrupted` have Ctrl-C, until `cli.exit_code` takes it back."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)


# `python -m alignjax.train` and the script `alignjax` come here before all imports.
if sys.argv[:1] == ["-m"]:
    _is_command = any(x.startswith("alignjax") for x in sys.orig_argv)
else:
    _is_command = os.path.basename("".join(sys.argv[:1])) == "alignjax"
if _is_command:
    end_at_interrupt()

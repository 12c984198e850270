# SPDX-License-Identifier: Apache-2.0
"""The command `alignjax`, and what its commands share: options, outputs, exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import pathlib
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence

import alignjax
from alignjax import errors, registry

# Modules with `main(arguments) -> exit code`, and what each does in a few words.
COMMANDS = {
    "train": ("train", "train what a config describes, or go on"),
    "generate": ("generate", "complete prompts, or hold a dialogue"),
    "score": ("score", "log-probs and rewards of the responses of a file"),
    "collect": ("feedback.collect", "sample replies and label pairs of them"),
    "assess": ("world.assessment.__main__", "measure runs on the embedded world"),
    "sweep": ("ablation.__main__", "train, measure and compare many settings"),
    "evaluate": ("evaluate.__main__", "measure runs on your texts, pairs and prompts"),
    "compare": ("evals.compare", "compare arms by rows of their answers"),
    "judge": ("judges.judge", "let judges compare the answers of a study"),
    "lm-eval": ("evals.lm_eval", "run the tasks of lm-eval on a run"),
    "rate": ("judges.rate", "compare the answers of a study yourself"),
    "report": ("report.__main__", "write an HTML page about runs"),
    "inspect": ("analysis.inspect", "look into runs: steps, leaves, layers, tokens"),
    "merge": ("analysis.merge", "average and add runs; merge and extract adapters"),
    "convert": ("convert", "import and export Hugging Face and PEFT folders"),
    "losses": ("losses.__main__", "list the losses and their options"),
    "audit": ("experiment.audit", "print which tokens of the data are trained on"),
    "plan": ("plan.__main__", "compile a step for hardware that is not here"),
    "profile": ("plan.profile", "where the time of a step went, from a trace"),
    "precompute": ("experiment.precompute", "store the reference log-probs"),
}
VIRTUAL = "xla_force_host_platform_device_count"
THREADS = "PJRT_NPROC", "NPROC"  # how many XLA starts on a CPU
USAGE = """usage: alignjax COMMAND [OPTION ...]

{}

alignjax COMMAND --help shows its options and an example."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `alignjax ... | head`; also for what is flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.DONE
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        lines = (f"  {name:<11} {does}" for name, (_, does) in COMMANDS.items())
        print(USAGE.format("\n".join(lines)))
        return errors.DONE
    name, *rest = arguments
    if name == "--version":
        print(alignjax.__version__)
        return errors.DONE
    if name not in COMMANDS:
        remedy = registry.closest(name, COMMANDS)
        print(f"alignjax: no command {name!r}; {remedy}", file=sys.stderr)
        return errors.CONFIG
    find_configs()
    if threading.current_thread() is threading.main_thread():
        alignjax.end_at_interrupt()
    return importlib.import_module(f"alignjax.{COMMANDS[name][0]}").main(rest)


def find_configs() -> None:
    """Lets `configs` and `experiments` of a checkout be imported from any folder."""
    root = pathlib.Path(alignjax.__file__).resolve().parents[1]
    if (root / "configs").is_dir() and str(root) not in sys.path:
        sys.path.append(str(root))


class _Once(argparse.Action):
    """Stores a value, and refuses a second one, of which argparse drops the first."""

    def __call__(self, parser, namespace, values, option_string=None):
        before = parser.values_by_option.setdefault(self.dest, values)
        if self.option_strings and before is not values and before != values:
            raise argparse.ArgumentError(
                self, f"given twice, {before!s:.80} and {values!s:.80}; give it once"
            )
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """argparse, with the exit code of a bad config for bad options, and for two."""

    def __init__(self, **options):
        super().__init__(**options)
        self.values_by_option = {}
        self.register("action", None, _Once)

    def parse_known_args(self, args=None, namespace=None):
        self.values_by_option = {}
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        self.print_usage(sys.stderr)
        self.exit(errors.CONFIG, f"{self.prog}: {message}\n")


NETWORK = "fetch the hf: repositories that are named, where there is no copy here"
CACHE_DIR = "~/.cache/alignjax"


def parser(name: str, docstring: str) -> Parser:
    """A parser for `alignjax NAME`, whose help is the docstring of its module."""
    return Parser(
        prog=f"alignjax {name}",
        description=docstring,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_step_options(parser: argparse.ArgumentParser) -> None:
    """`--run`, and which of its parameters, of commands that compute with one."""
    add = parser.add_argument
    add("--run", required=True, metavar="DIR", help="the workdir of a run")
    add("--step", type=int, help="of the checkpoint; by default the newest sound one")
    add("--network", action="store_true", help=NETWORK)
    add("--average", action="store_true", help="use the moving average of the weights")


def at_step(path: str) -> tuple[str, int | None]:
    """The folder and the step of `DIR@STEP`, or of `DIR` and none."""
    folder, at, step = path.rpartition("@")
    if at and step.isdecimal() and not os.path.exists(os.path.expanduser(path)):
        return folder, int(step)
    return path, None


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """`--network` and `--cache_dir`, of commands that compute with runs."""
    parser.add_argument("--network", action="store_true", help=NETWORK)
    cache = "for compiled programs (%(default)s)"
    parser.add_argument("--cache_dir", default=CACHE_DIR, help=cache)


def exit_code(body: Callable[[], int | None]) -> int:
    """The exit code of `body`; errors that are not the user's to mend are raised."""
    if signal.getsignal(signal.SIGINT) is alignjax.interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    enough_threads()
    try:
        return body() or errors.DONE
    except errors.AlignError as error:
        print(f"{type(error).__name__}: {errors.shown(error)}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:  # a folder that is not ours, a name that is too long
        print(f"{type(error).__name__}: {errors.shown(error)}", file=sys.stderr)
        return errors.CHECKPOINT
    except (RuntimeError, AssertionError) as error:
        print(_backend_refusal(error), file=sys.stderr)
        return errors.CONFIG
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return errors.INTERRUPTED


def enough_threads() -> None:
    """Gives the virtual devices of a CPU threads enough for their collectives.

    XLA has one for each core or device, and each device holds one in every collective
    that it waits in. With fewer cores than devices some wait for ever for others that
    no thread is left for, where collectives do not depend on each other, as of a policy
    and its critic.
    """
    flag = re.search(rf"{VIRTUAL}=(\d+)", os.environ.get("XLA_FLAGS", ""))
    count = flag[1] if flag else os.environ.get("JAX_NUM_CPU_DEVICES", "")
    devices = int(count) if count.isdecimal() else 1  # what is no number, jax refuses
    is_set = any(name in os.environ for name in THREADS)
    if devices > 1 and not is_set:
        os.environ[THREADS[0]] = str(max(os.cpu_count() or 1, 4 * devices))


def _backend_refusal(error: RuntimeError | AssertionError) -> str:
    """One line about devices that cannot start or are full; other errors are raised."""
    import jax

    text = " ".join(str(error).split())
    if text.startswith("RESOURCE_EXHAUSTED"):
        return f"{text:.300}: make batch_size, length or the model smaller"
    if not text.startswith(("Unable to initialize backend", "Unknown backend")):
        try:
            jax.devices()
        except (RuntimeError, AssertionError):  # JAX asserts that one has started
            text = text or "no such devices are here"
        else:
            raise error
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return (
        f"JAX_PLATFORMS={platforms!r:.80}: {text:.300}; mend the driver, or set "
        "JAX_PLATFORMS=cpu"
    )


def path(text: str | pathlib.Path, field: str) -> pathlib.Path:
    """The file or folder that a field or option names: `~` is the user's home.

    Raises:
      ConfigError: it is empty, which would be the current folder, or has a NUL.
    """
    if not str(text).strip():
        raise errors.ConfigError(f"{field}: empty; name a file or folder")
    if "\0" in str(text):
        raise errors.ConfigError(f"{field}: {text!r:.80} is no name: it has a NUL")
    return pathlib.Path(os.path.expanduser(text))


def output(text: str | pathlib.Path) -> pathlib.Path:
    """The file that a command writes at its end, in a folder that is made now.

    Raises:
      ConfigError: it cannot be written, which is better known before the work.
    """
    out = path(text, "out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise errors.ConfigError(f"out: {out} cannot be written: {error}") from error
    check_output(out)
    return out


def check_output(out: pathlib.Path) -> None:
    """Raises ConfigError for what a file must not take the place of.

    What is written to a device, such as /dev/null, would take its name from it.
    """
    if out.is_dir():
        raise errors.ConfigError(f"out: {out} is a folder; name a file")
    if out.is_symlink() or (out.exists() and not out.is_file()):
        kind = "link" if out.is_symlink() else "FIFO, device or socket"
        raise errors.ConfigError(f"out: {out} is a {kind}; name a file of its own")


def keep_programs(cache_dir: str | pathlib.Path) -> None:
    """Keeps compiled programs in `cache_dir`, for later runs of the same model.

    Where JAX_COMPILATION_CACHE_DIR names a folder they are kept there, as jax does.
    """
    import jax

    folder = path(cache_dir, "cache_dir") / "xla"
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

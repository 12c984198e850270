# SPDX-License-Identifier: Apache-2.0
"""A process that trains runs of a sweep, one after another, and lets them answer.

What is imported and compiled for one run serves the next. Jobs come as lines of JSON on
stdin and go back as lines of JSON on stdout; what training prints goes to `sweep.log`
in the workdir of the run.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import os
import pathlib
import re
import signal
import sys
import threading
import time
from typing import Any

import absl.logging
import jax

from alignjax import cli, config, errors, train, world
from alignjax.ablation import measure
from alignjax.world.assessment import benchmarks, run_models


def main() -> int:
    """Does jobs until stdin ends, or until the process that gave them is gone."""
    absl.logging.set_verbosity(absl.logging.WARNING)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("alignjax").setLevel(logging.INFO)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep passes SIGTERM on
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    threading.Thread(target=_follow, args=[os.getppid()], daemon=True).start()
    for line in sys.stdin:
        answers.write(json.dumps(_do(json.loads(line))) + "\n")
        answers.flush()
        gc.collect()
    return errors.DONE


def _follow(parent: int) -> None:
    """Stops what is being done, with its state saved, once the sweep is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


def _do(job: dict[str, Any]) -> dict[str, Any]:
    """Trains and measures a run; how it ended, and what it took."""
    workdir = pathlib.Path(job["workdir"])
    log = pathlib.Path(job["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    cli.keep_programs(job["cache_dir"])
    out: dict[str, Any] = {"code": errors.DONE, "error": None}
    try:
        if job["section"] is not None:
            began, cpu = time.monotonic(), time.process_time()
            _forget_peak()
            network = job["network"]
            try:
                out["code"] = train.train(job["section"], workdir, network=network)
            finally:
                out["seconds"] = round(time.monotonic() - began, 2)
                out["cpu_seconds"] = round(time.process_time() - cpu, 2)
                out |= _memory()
        if out["code"] == errors.DONE and job["measure"]:
            began, cpu = time.monotonic(), time.process_time()
            _measure(job["measure"], workdir)
            out["measuring_seconds"] = round(time.monotonic() - began, 2)
            out["measuring_cpu_seconds"] = round(time.process_time() - cpu, 2)
    except errors.AlignError as error:
        out |= {"code": error.exit_code, "error": errors.shown(error)}
    except OSError as error:
        out |= {"code": errors.CHECKPOINT, "error": errors.shown(error)}
    if out["error"]:
        print(out["error"], file=sys.stderr)
    return out


def _measure(job: dict[str, Any], path: pathlib.Path) -> None:
    benchmark = _benchmark(*job["world"], job["prompts"])
    reference = job["reference"] and _reference(*job["reference"])
    steps = job["steps"] or measure.steps_of(job["section"], path, job["checkpoints"])
    out = pathlib.Path(job["rows"])
    measure.measure(job["name"], path, steps, benchmark, reference, out)


@functools.lru_cache(maxsize=1)
def _benchmark(preset: str, seed: int, prompts: int) -> benchmarks.Benchmark:
    settings = config.build(benchmarks.Settings, {"each": prompts}, "")
    return benchmarks.Benchmark(world.build(preset, seed), settings)


@functools.lru_cache(maxsize=1)
def _reference(path: str, step: int | None) -> run_models.RunModel:
    """The model that all divergences are from, read once."""
    return run_models.open_model("start", path, step)


def _forget_peak() -> None:
    """Lets the system count the most memory of this process anew."""
    with contextlib.suppress(OSError):  # not Linux, or not allowed
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def _memory() -> dict[str, int]:
    """The most bytes of this process, and of its device since the process began."""
    out = {}
    with contextlib.suppress(OSError):
        status = pathlib.Path("/proc/self/status").read_text()
        if peak := re.search(r"VmHWM:\s+(\d+) kB", status):
            out["host_bytes"] = 1024 * int(peak[1])
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        out["device_bytes"] = stats["peak_bytes_in_use"]
    return out


if __name__ == "__main__":
    sys.exit(main())

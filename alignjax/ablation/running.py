# SPDX-License-Identifier: Apache-2.0
"""Runs of a sweep in worker processes; what is done is skipped, the rest goes on."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors
from alignjax.ablation import measure, states, sweep_file
from alignjax.checkpoint import step_folders
from alignjax.tracking import journal, progress
from alignjax.world.assessment import benchmarks

START = "start"  # the folder of the answers of the run that all arms start from
# Started once more, as a supervisor would: preempted, stuck, or ended by a signal.
AGAIN = (errors.PREEMPTED, errors.HANG)


class Options(NamedTuple):
    """How a sweep is run.

    Attributes:
      jobs: processes at one time.
      retry: whether runs that diverged are trained again.
      network: whether runs may be fetched.
      cache_dir: of compiled programs.
      town: preset and seed of the world whose prompts are answered; None for none.
    """

    jobs: int
    retry: bool
    network: bool
    cache_dir: str
    town: tuple[str, int] | None


def run(
    plan: sweep_file.Plan,
    runs: Sequence[sweep_file.PlannedRun],
    folder: pathlib.Path,
    benchmark: benchmarks.Benchmark | None,
    options: Options,
    terminal: progress.Terminal,
) -> int:
    """Trains some runs of a plan and lets them answer; the exit code of the sweep.

    Args:
      runs: those of this process.
      benchmark: what they answer.

    Raises:
      KeyboardInterrupt: a second Ctrl-C; what was trained since the last checkpoint is
        lost.
    """
    before = states.read(folder)
    for one in runs:
        if one.folder not in before:
            facts = {"arm": one.arm, "seed": one.seed, "digest": one.digest}
            facts["flags"] = dict(one.flags)
            states.append(folder, one.folder, "queued", **facts)
    jobs: list[tuple[str, dict[str, Any]]] = []
    for one in runs:
        job = _job(plan, one, folder, benchmark, options)
        diverged = before.get(one.folder, {}).get("code") == errors.NON_FINITE
        if diverged and job["section"] and not options.retry:
            terminal.say(f"{one.folder}: diverged before, and would again (--retry)")
        elif job["section"] or job["measure"]:
            jobs.append((one.folder, job))
    first = list(runs[:1]) == plan.runs[:1]  # of several parts one measures the start
    if benchmark is not None and plan.start is not None and first:
        path, step = plan.start
        out = folder / START / measure.FILE
        if not measure.is_measured(out, [step], benchmark.digest):
            more = {"name": START, "steps": [step], "rows": str(out)}
            job = _shared(path, out.parent / measure.LOG, options)
            job["measure"] = _measuring(plan, benchmark, options) | more
            jobs.insert(0, (START, job))
    done = len(runs) - sum(name != START for name, _ in jobs)
    waiting = f", {done} are done" if done else ""
    terminal.say(
        f"{len(runs)} runs{waiting}; {len(jobs)} jobs, {options.jobs} at a time"
    )
    return _Pool(folder, options.jobs, terminal).run(jobs) if jobs else errors.DONE


def _shared(path, log: pathlib.Path, options: Options) -> dict[str, Any]:
    return {
        "workdir": str(path),
        "log": str(log),
        "cache_dir": options.cache_dir,
        "network": options.network,
        "section": None,
        "measure": None,
    }


def _measuring(plan, benchmark, options: Options) -> dict[str, Any]:
    return {
        "world": options.town,
        "prompts": benchmark.settings.each,
        "checkpoints": plan.sweep.checkpoints,
        "reference": plan.start,
    }


def _job(plan, one: sweep_file.PlannedRun, folder, benchmark, options: Options):
    """What is left to do of a run."""
    workdir = folder / one.folder
    job = _shared(workdir, workdir / measure.LOG, options)
    if not is_trained(one, workdir):
        job["section"] = one.section
    if benchmark is not None:
        out = workdir / measure.FILE
        steps = measure.steps_of(one.section, workdir, plan.sweep.checkpoints)
        if job["section"] or not measure.is_measured(out, steps, benchmark.digest):
            more = {"name": f"{one.arm}_{one.seed}", "section": one.section}
            more |= {"steps": None, "rows": str(out)}
            job["measure"] = _measuring(plan, benchmark, options) | more
    return job


def is_trained(one: sweep_file.PlannedRun, workdir: pathlib.Path) -> bool:
    """Whether a run has its last checkpoint."""
    return one.steps in step_folders.complete_steps(workdir / "checkpoints")


class _Pool:
    """Worker processes, each with one job at a time."""

    def __init__(self, folder: pathlib.Path, size: int, terminal: progress.Terminal):
        self._folder, self._size, self._terminal = folder, size, terminal
        self._processes: list[subprocess.Popen] = []
        self._stopping = threading.Event()
        self._config_error = False
        self._lines: queue.Queue[str] = queue.Queue()

    def run(self, jobs: Sequence[tuple[str, dict[str, Any]]]) -> int:
        """Does all jobs in their order; the first exit code that is not 0, or 0."""
        waiting: queue.SimpleQueue = queue.SimpleQueue()
        for job in jobs:
            waiting.put(job)
        clock, codes, signals = progress.Clock(len(jobs)), [], 0
        clock.left(0)
        handlers = {
            number: signal.signal(number, self._asked_to_stop)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        self._signals: list[int] = []
        slots = min(self._size, len(jobs))
        try:
            with concurrent.futures.ThreadPoolExecutor(slots) as threads:
                futures = [
                    threads.submit(self._work, waiting, codes) for _ in range(slots)
                ]
                while not all(future.done() for future in futures):
                    self._say(len(codes), len(jobs), clock)
                    if len(self._signals) > signals:
                        signals = len(self._signals)
                        self._stop(signals > 1)
                    time.sleep(0.2)
                self._say(len(codes), len(jobs), clock)
                for future in futures:
                    future.result()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self._signals:
            interrupted = self._signals[0] == signal.SIGINT
            return errors.INTERRUPTED if interrupted else errors.PREEMPTED
        code = next((code for code in codes if code), errors.DONE)
        return code if code >= 0 else 128 - code  # of a signal, as shells have it

    def _asked_to_stop(self, number, frame) -> None:
        del frame
        self._signals.append(number)

    def _stop(self, at_once: bool) -> None:
        """Lets workers save and end, or ends them."""
        self._stopping.set()
        if not at_once:
            self._terminal.say("stopping: each run saves after its step; again to quit")
        for process in self._processes:
            if process.poll() is None:
                process.kill() if at_once else process.terminate()

    def _say(self, done: int, count: int, clock: progress.Clock) -> None:
        new_lines = False
        while not self._lines.empty():
            self._terminal.say(self._lines.get())
            new_lines = True
        if new_lines or self._terminal.live:
            left = clock.left(done) if done else None
            left = f", {progress.duration(left)} left" if left else ""
            self._terminal.show(f"{done} of {count} jobs done{left}", force=new_lines)

    def _work(self, waiting: queue.SimpleQueue, codes: list[int]) -> None:
        """Does jobs in one process until there are none."""
        process = None
        try:
            while not self._stopping.is_set():
                try:
                    name, job = waiting.get_nowait()
                except queue.Empty:
                    break
                for attempt in (1, 2):
                    if process is None or process.poll() is not None:
                        process = self._start()
                    out = self._do(process, name, job)
                    again = out["code"] in AGAIN or out["code"] < 0
                    if not again or self._stopping.is_set() or attempt == 2:
                        break
                    self._lines.put(f"{name}: ended with {out['code']}; once more")
                codes.append(out["code"])
                if out["code"] == errors.CONFIG:
                    self._lines.put(
                        f"{name}: its config was refused, as others would be: the "
                        f"sweep stops ({job['log']})"
                    )
                    self._stopping.set()
        finally:
            if process is not None:
                process.stdin.close()
                process.wait()

    def _start(self) -> subprocess.Popen:
        paths = os.pathsep.join(map(str, filter(None, sys.path)))
        process = subprocess.Popen(
            [sys.executable, "-m", "alignjax.ablation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is for the sweep, which passes it on
        )
        self._processes.append(process)
        return process

    def _do(self, process, name: str, job: Mapping[str, Any]) -> dict[str, Any]:
        if name != START:
            states.append(self._folder, name, "running")
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        if answer:
            out = json.loads(answer)
        else:
            code = process.wait()
            out = {"code": code, "error": f"its process ended with {code}"}
        state = {errors.DONE: "done", errors.INTERRUPTED: "interrupted"}
        state |= dict.fromkeys(AGAIN, "interrupted")
        out["metrics"] = last_metrics(pathlib.Path(job["workdir"]))
        if name != START:
            ended = state.get(out["code"], "failed")
            states.append(self._folder, name, ended, **out)
        self._lines.put(_line(name, job, out))
        return out


def last_metrics(workdir: pathlib.Path) -> dict[str, Any]:
    """The last metrics of a run, with those of its last evaluation."""
    out: dict[str, Any] = {}
    try:
        for record in journal.read(workdir / "metrics.jsonl"):
            out |= record
    except (OSError, errors.DataError):
        pass
    return {k: x if x == x else None for k, x in out.items() if abs(x) < float("inf")}


def _line(name: str, job: Mapping[str, Any], out: Mapping[str, Any]) -> str:
    """How a run ended, for the terminal."""
    if out["code"]:
        text = (out["error"] or "stopped").splitlines()[0]
        return f"{name}: exit code {out['code']}: {text:.300} ({job['log']})"
    parts = []
    if "seconds" in out:
        parts.append(f"trained in {out['seconds']:.0f} s")
        if (loss := out["metrics"].get("eval/loss")) is not None:
            parts.append(f"held-out loss {loss:.3f}")
    if "measuring_seconds" in out:
        parts.append(f"answered in {out['measuring_seconds']:.0f} s")
    return f"{name}: {', '.join(parts)}"

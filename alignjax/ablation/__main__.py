# SPDX-License-Identifier: Apache-2.0
r"""Trains all arms and seeds of a sweep's file, lets them answer, and compares them.

    alignjax sweep experiments/five_losses/sweep.py --out=runs/five_losses \
        --config.init.run=runs/sft --config.data.sources.pairs.path=runs/pairs.jsonl

Run again, it skips what is done and goes on with what stopped; `--config.FIELD=VALUE`
sets a field of all arms. DIR gets a workdir for each run, `sweep.jsonl` with how each
is getting on, `claim.json`, tables (CSV and Parquet) and `report.html`.
docs/evaluation.md explains the file. Exit codes are those of `alignjax.errors`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence

import jax

from alignjax import cli, config, errors, world
from alignjax.ablation import claim, report, running, states, sweep_file
from alignjax.storage import atomic, json_files
from alignjax.tracking import progress
from alignjax.world.assessment import benchmarks, run_models

FILE = "sweep.json"


def parser() -> argparse.ArgumentParser:
    """The options of the command, but for `--config.FIELD`."""
    out = cli.parser("sweep", __doc__)
    add = out.add_argument
    add("file", metavar="FILE", help="a Python file with get_sweep()")
    add("--out", required=True, metavar="DIR", help="the folder of the sweep")
    add("--jobs", type=int, default=1, help="runs at one time (%(default)s)")
    add("--part", type=_part, metavar="I/N", help="every Nth run alone, from the Ith")
    add("--print", action="store_true", help="print the commands, and run none")
    add("--report", action="store_true", help="report what there is, and run nothing")
    add("--retry", action="store_true", help="train runs again that diverged")
    run_models.add_world_option(out)
    cli.add_run_options(out)
    return out


def _part(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not I/N, such as 1/4")
    return int(i), int(n)


def run(
    options: argparse.Namespace,
    flags: Sequence[tuple[str, str]],
    terminal: progress.Terminal,
) -> int:
    """Does what the options say; returns the exit code.

    Raises:
      ConfigError: a file, flags or a folder that are refused.
      DataError: data that is not there.
    """
    if options.jobs < 1:
        raise errors.ConfigError(f"jobs: {options.jobs}; give 1 or more")
    # Workers have the devices; what is done here needs none.
    jax.config.update("jax_platforms", "cpu")
    folder = cli.path(options.out, "out")
    plan = sweep_file.load(options.file, flags, network=options.network)
    i, n = options.part or (1, 1)
    runs = plan.runs[i - 1 :: n]
    if options.print:
        for one in runs:
            workdir = folder / one.folder
            words = sweep_file.command(plan, one, workdir, options.network)
            print(shlex.join(words))
        return errors.DONE
    if options.report and not (folder / FILE).is_file():
        raise errors.ConfigError(f"out: {folder} has no sweep to report")
    _check_folder(folder, plan)
    for note in plan.notes:
        terminal.say(note)
    town = _town(plan, options.world)
    benchmark = None
    if town is not None:
        settings = config.build(benchmarks.Settings, {"each": plan.sweep.prompts}, "")
        benchmark = benchmarks.Benchmark(world.build(*town), settings)
    code = errors.DONE
    if not options.report:
        begun = any(run["began"] for run in states.read(folder).values())
        seeds = len({one.seed for one in plan.runs})
        lines = claim.write(folder, plan.sweep.claim, seeds, plan.arms, begun)
        for line in lines:
            terminal.say(line)
        how = running.Options(
            options.jobs, options.retry, options.network, options.cache_dir, town
        )
        with _alone(folder, i, n):
            code = running.run(plan, runs, folder, benchmark, how, terminal)
    if code in (errors.INTERRUPTED, errors.PREEMPTED, errors.CONFIG):
        return code
    if n > 1:
        terminal.say("once all parts are done: the same command without --part")
        return code
    for line in report.write(plan, folder, benchmark):
        terminal.say(line)
    return code


def _check_folder(folder: pathlib.Path, plan: sweep_file.Plan) -> None:
    """Makes the folder a sweep's, and refuses that of another one."""
    path = folder / FILE
    # Runs look at their own folders; this is of what the sweep writes beside them.
    atomic.check_links(folder, but=("checkpoints", "quarantine"), field="out")
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise errors.ConfigError(
                f"out: {folder} is there, not empty and no sweep's; name another folder"
            )
        atomic.write_json(path, {"shared": plan.shared, "config": plan.config})
        return
    before = json_files.read(path, dict)
    if before.get("shared") != plan.shared:
        raise errors.ConfigError(
            f"out: {folder} is of another sweep (of {before.get('config')}): its arms "
            "started from another run, or read other data; name another folder"
        )


def _town(plan: sweep_file.Plan, stated) -> tuple[str, int] | None:
    """The world whose prompts runs answer; None where they answer none.

    Raises:
      ConfigError: nothing names a world, or several.
    """
    if not plan.sweep.prompts:
        return None
    section = plan.runs[0].section
    town_options = run_models.worlds_of(section)
    if not town_options and stated is None:
        raise errors.ConfigError(
            "sweep.prompts: neither the data nor the runs before them are of the "
            "embedded world; set it to 0, or name the world with --world"
        )
    towns = {
        (s.get("preset") or run_models.PRESET, s.get("seed") or run_models.SEED)
        for s in town_options
    } | ({stated} if stated else set())
    if len(towns) > 1:
        raise errors.ConfigError(f"sweep.prompts: of several worlds, {sorted(towns)}")
    return towns.pop()


@contextlib.contextmanager
def _alone(folder: pathlib.Path, i: int, n: int) -> Iterator[None]:
    """Keeps a second process from the same part of a sweep.

    Raises:
      ConfigError: there is one.
    """
    with open(folder / f".part-{i}-of-{n}.lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.ConfigError(
                f"out: another process runs part {i} of {n} in {folder}; wait for it"
            ) from error
        except OSError:  # a file system that cannot
            pass
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = parser()
    options, rest = command.parse_known_args(arguments)
    flags = []
    for flag in rest:
        name, equals, value = flag.partition("=")
        if not name.startswith("--config.") or not equals:
            command.error(f"no such option, or one without =VALUE: {flag}")
        flags.append((name.removeprefix("--config."), value))

    def sweep() -> int:
        log = logging.getLogger("alignjax")
        level = log.level
        log.setLevel(logging.ERROR)  # what it warns of is among the plan's notes
        try:
            with contextlib.closing(progress.Terminal()) as terminal:
                return run(options, flags, terminal)
        finally:
            log.setLevel(level)

    return cli.exit_code(sweep)


if __name__ == "__main__":
    sys.exit(main())

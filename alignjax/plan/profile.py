# SPDX-License-Identifier: Apache-2.0
r"""Where the time of a step went, from the trace that `alignjax train --profile` wrote.

    alignjax profile runs/gpt2
    alignjax profile runs/gpt2 --card=h200 --kernels=30

Prints milliseconds a step by part, how much of the time devices were idle, and the
kernels that took longest; on a card that is known, or named, beside the floors of the
same program, as `alignjax plan` gives them. `--card=cpu` measures the processor of this
machine first, for two seconds.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import pathlib
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignjax import cli, errors
from alignjax.plan import cards, floors, processor, program, trace


def load(run: pathlib.Path) -> tuple[list[trace.Event], program.Program]:
    """The newest trace of a run, and the program that it is of.

    Raises:
      ConfigError: a run without a trace.
      DataError: a trace or a program that cannot be read.
    """
    events = trace.read(trace.find(run / "profile"))
    path = run / "profile" / program.FILE
    with _no_program(path):
        return events, program.parse(program.read(path))


@contextlib.contextmanager
def _no_program(path: pathlib.Path) -> Iterator[None]:
    """DataError for what a text that is no program may lead to; it may be anybody's."""
    try:
        yield
    except errors.AlignError:
        raise
    except (
        *(ArithmeticError, AttributeError, EOFError, LookupError, OSError),
        *(RecursionError, TypeError, ValueError),
    ) as error:
        why = f"{type(error).__name__}: {error}"
        raise errors.DataError(f"{path}: no program: {why:.300}") from error


def measure(
    events: Sequence[trace.Event], parsed: program.Program, card: cards.Card | None
) -> dict[str, Any]:
    """The figures of a trace; seconds a step, a mean over devices.

    Args:
      events: of the trace.
      parsed: the program that was traced.
      card: for floors, or None.

    Raises:
      ConfigError: a trace of another program.
    """
    kernels = {kernel.name: kernel for kernel in program.kernels(parsed)}
    launched = [
        x for x in events if x.name in kernels and x.module in ("", parsed.name)
    ]
    once = {name for name, kernel in kernels.items() if kernel.times == 1}
    devices = sorted({event.device for event in launched})
    counts = collections.Counter(
        (event.device, event.name) for event in launched if event.name in once
    )
    if not counts:
        names = sorted({event.module for event in events if event.module})
        raise errors.ConfigError(
            f"run: the trace has no kernel of the program {parsed.name} beside it, but "
            f"those of {errors.some(names) or 'none'}; profile the run again"
        )
    steps = statistics.median_high(counts.values())
    runs = steps * len(devices)
    rows = collections.defaultdict(lambda: [0.0, 0])
    for event in launched:
        row = rows[event.name]
        row[0] += (event.stop - event.start) / 1e9 / runs
        row[1] += 1 / runs
    step = busy = exposed = 0.0
    for device in devices:
        own = [event for event in launched if event.device == device]
        spans = [(event.start, event.stop) for event in own]
        computing = [
            (event.start, event.stop)
            for event in own
            if floors.kind(kernels[event.name]) != floors.COLLECTIVES
        ]
        step += _period(own, once) / 1e9 / len(devices)
        busy += trace.covered(spans) / 1e9 / runs
        exposed += (trace.covered(spans) - trace.covered(computing)) / 1e9 / runs
    table = [
        {
            "name": name,
            "part": floors.part(kernels[name]),
            "kind": floors.kind(kernels[name]),
            "of": kernels[name].op_name,
            "seconds": seconds,
            "times": times,
            "floor": card and kernels[name].times * floors.seconds(kernels[name], card),
        }
        for name, (seconds, times) in rows.items()
    ]
    table.sort(key=lambda row: -row["seconds"])
    return {
        "steps": steps,
        "devices": len(devices),
        "step_s": step,
        "idle_s": max(0.0, step - busy),
        "exposed_collectives_s": exposed,
        "parts": _sums(table, "part"),
        "kinds": _sums(table, "kind"),
        "kernels": table,
    }


def _period(events: Sequence[trace.Event], once: set[str]) -> float:
    """Nanoseconds from a step to the next, the median; of one step, its length.

    Between some steps there is an evaluation or a save, which the median leaves out.
    """
    first = next(event.name for event in events if event.name in once)
    starts = [event.start for event in events if event.name == first]
    if len(starts) == 1:
        return max(event.stop for event in events) - events[0].start
    return statistics.median(b - a for a, b in itertools.pairwise(starts))


def _sums(table: Sequence[Mapping], key: str) -> dict[str, dict[str, float]]:
    """Seconds, floors and calls by part or kind, the longest first."""
    sums: dict[str, dict] = {}
    for row in table:
        one = sums.setdefault(row[key], {"seconds": 0.0, "times": 0.0, "floor": None})
        one["seconds"] += row["seconds"]
        one["times"] += row["times"]
        if row["floor"] is not None:
            one["floor"] = (one["floor"] or 0.0) + row["floor"]
    return dict(sorted(sums.items(), key=lambda item: -item[1]["seconds"]))


def page(figures: Mapping[str, Any], kernels: int) -> str:
    """The figures for a terminal, with the `kernels` that took longest."""
    step = figures["step_s"]
    share = lambda name: f"{figures[name] / step:.1%}"
    count = f"{figures['steps']:g} steps on {figures['devices']} device(s)"
    lines = [
        f"{count}, {step * 1e3:,.2f} ms each: idle {share('idle_s')}, "
        "collectives that nothing hides " + share("exposed_collectives_s")
    ]
    for key in ("kinds", "parts"):
        lines += ["", _row(key[:-1], "ms", "share", "calls", "floor", "ratio")]
        lines += [_figures(name, x, step) for name, x in figures[key].items()]
    lines += ["", _row("kernel", "ms", "share", "calls", "floor", "ratio")]
    for x in figures["kernels"][:kernels]:
        of = "".join(c for c in x["of"][-80:] if c.isprintable())
        lines.append(f"{_figures(x['name'], x, step)}  {of}")
    return "\n".join(lines)


def _figures(name: str, x: Mapping, step: float) -> str:
    ms, share = f"{x['seconds'] * 1e3:,.3f}", f"{x['seconds'] / step:.1%}"
    floor = ratio = ""
    if x["floor"]:
        floor, ratio = f"{x['floor'] * 1e3:,.3f}", f"{x['seconds'] / x['floor']:.2f}"
    return _row(name, ms, share, f"{x['times']:,.0f}", floor, ratio)


def _row(name: str, *columns: str) -> str:
    return f"{name[:36]:36}" + "".join(f"{x:>10}" for x in columns)


def _card(name: str | None, device: str) -> cards.Card | None:
    """The card that is named, or else that of the device of a program, where known."""
    if name == processor.NAME:
        return processor.card()
    return cards.find(name) if name else cards.of_kind(device)


def run(arguments: Sequence[str] | None) -> int:
    """Does what the flags say; returns the exit code.

    Raises:
      ConfigError: a run without a trace, or with one of another program.
      DataError: a trace or a program that cannot be read.
    """
    parser = cli.parser("profile", __doc__)
    add = parser.add_argument
    add("run", metavar="RUN", help="a workdir that was trained with --profile")
    add("--card", metavar="NAME", help="for floors, h200 or cpu; by default the run's")
    add("--kernels", type=int, default=15, metavar="N", help="how many to list")
    add("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.kernels < 0:
        parser.error(f"--kernels: {options.kernels} must be at least 0")
    workdir = cli.path(options.run, "run")
    events, parsed = load(workdir)
    card = _card(options.card, parsed.device)
    with _no_program(workdir / "profile" / program.FILE):
        figures = measure(events, parsed, card)
        text = json.dumps(figures) if options.json else page(figures, options.kernels)
    print(text)
    return errors.DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the flags and prints where time went; returns the exit code."""
    return cli.exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

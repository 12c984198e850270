# SPDX-License-Identifier: Apache-2.0
r"""Measures the models of runs on the embedded world, and what each stage changed.

    alignjax assess --out=runs/assessment.json \
        --run=base=runs/base --run=sft=runs/sft --run=reward=runs/reward
    alignjax assess --out=runs/assessment.json --run=dpo=runs/dpo --checkpoints=dpo

`NAME=DIR` is a run as of its newest checkpoint, `NAME=DIR@STEP` of another one. Runs
are added to the file; those that it has from the same parameters and settings are not
measured again. Each language model is compared with the one that it started from. Its
answers go to `assessment.rows/NAME.jsonl`, which `alignjax compare` reads; those of its
checkpoints to `assessment.rows/checkpoints/`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from alignjax import cli, config, errors, world
from alignjax.data.chat import templates
from alignjax.evals import rows
from alignjax.tracking import progress
from alignjax.world.assessment import (
    answers,
    benchmarks,
    language_model,
    prose,
    results,
    reward_model,
    run_models,
)


def run(
    runs: Sequence[tuple[str, str, int | None]],
    out: pathlib.Path,
    settings: benchmarks.Settings,
    *,
    checkpoints: Sequence[str] = (),
    anew: bool = False,
    town: tuple[str, int] | None = None,
    network: bool = False,
    terminal: progress.Terminal,
) -> dict[str, Any]:
    """Assesses every run that the file `out` does not have, and writes it after each.

    Args:
      runs: name, path and step (or None) of each, in the order of the stages.
      settings: of the benchmark; a file of other settings starts again.
      checkpoints: names of runs to measure at every checkpoint as well.
      anew: whether to start the file again.
      town: preset and seed of the world of runs whose config does not tell.
      network: whether repositories may be fetched.

    Raises:
      ConfigError: names that occur twice, or runs that cannot be measured or compared:
        of other worlds, or of other tokenizers.
      CheckpointError: a run that cannot be read.
    """
    names = [name for name, _, _ in runs]
    if len(set(names)) != len(names):
        raise errors.ConfigError(f"run: a name is given twice in {names}")
    if unknown := set(checkpoints) - set(names):
        raise errors.ConfigError(f"checkpoints: {unknown} is not among the runs")
    for name in names:
        answers.file_of(out, name)  # raises, before the work
    models = [run_models.open_model(*named, network=network) for named in runs]
    for model in models:
        if model.name in checkpoints:
            model.check_responds("checkpoints")
    preset, seed = run_models.find_world(models, "run", town)
    benchmark = benchmarks.Benchmark(world.build(preset, seed), settings)
    figures = results.empty(preset, seed, settings)
    if out.exists() and not anew:
        old = results.read(out)
        if all(old[name] == figures[name] for name in ("world", "settings")):
            figures = old
        else:
            terminal.say(f"{out} has another world or other settings; starting again")
    _check_tokenizers(figures, models)
    figures["prompts"] = [question.as_json() for question in benchmark.questions]
    new = []
    for model in models:
        if not _is_current(figures, model, out):
            new.append(model.name)
            start = time.monotonic()
            _add(figures, model, benchmark, out, terminal.show)
            seconds = time.monotonic() - start
            terminal.say(f"{model.name}: assessed in {seconds:.0f} s")
        entry = figures["models"].get(model.name)
        if model.name in checkpoints and "trajectory" not in entry:
            half = dataclasses.replace(settings, each=max(1, settings.each // 2))
            fewer = dataclasses.replace(benchmark, settings=half)
            entry["trajectory"], of_checkpoints = language_model.trajectory(
                model, fewer, _reference(model, models), progress=terminal.show
            )
            rows.write(answers.file_of(out, model.name, "checkpoints"), of_checkpoints)
            answers.write_suite(out, fewer)
        results.write(out, figures)
        if model.name in new:
            terminal.say("\n".join(prose.lines(figures, model.name)))
    for name in [] if new else names:  # nothing is new: to read about all of them
        terminal.say("\n".join(prose.lines(figures, name)))
    return figures


def _add(figures, model, benchmark: benchmarks.Benchmark, out, show) -> None:
    """Adds a run's figures, and the changes from the model that it started from.

    Its answers go to a file of their own.
    """
    if model.stage == "reward":
        labeler = next(
            (s["labeler"] for s in model.worlds if s.get("labeler")), "clean"
        )
        judged = reward_model.assess(model, benchmark, labeler, progress=show)
        description = model.description | {"labeler": labeler}
        figures["rewards"][model.name] = description | judged
        return
    reference = _reference(model, ())
    measured, of_model = language_model.assess(
        model, benchmark, reference, progress=show
    )
    rows.write(answers.file_of(out, model.name), of_model)
    answers.write_suite(out, benchmark)
    figures["models"][model.name] = model.description | measured
    figures["changes"] = changes(figures["models"], benchmark)


def changes(models, benchmark: benchmarks.Benchmark) -> list[dict[str, Any]]:
    """Changes to each model from the one it started from, or else the one before it.

    See `prose.descends`: only the former are what training did.
    """
    questions, seed = benchmark.questions, benchmark.settings.seed
    responses = {}
    for name, model in models.items():
        pairs = zip(questions, model["sampled"]["answers"], strict=True)
        responses[name] = [run_models.rescored(q.prompt, fields) for q, fields in pairs]
    names, out = list(models), []
    for i, after in enumerate(names):
        ends = [{"from": name, "to": after} for name in names if name != after]
        started = [e["from"] for e in ends if prose.descends({"models": models}, e)]
        if not started and not i:
            continue
        before = started[-1] if started else names[i - 1]
        both = responses[before], responses[after]
        figures = language_model.change(questions, *both, seed=seed)
        out.append({"from": before, "to": after, **figures})
    return out


def _is_current(figures, model: run_models.RunModel, out: pathlib.Path) -> bool:
    """Whether there are figures, and answers, of these very parameters."""
    old = figures["models"].get(model.name) or figures["rewards"].get(model.name)
    new = model.description
    if old is None or any(old.get(f) != new[f] for f in ("path", "step", "digest")):
        return False
    path = answers.file_of(out, model.name)
    return model.stage == "reward" or answers.is_of(path, new["digest"])


def _reference(model, models) -> run_models.RunModel | None:
    """The model that a run's objective compares with, if it has the same format."""
    if model.reference is None:
        return None
    path, step = model.reference
    network = model.run.network
    here = [m.name for m in models if m.run.path == pathlib.Path(path).absolute()]
    name = here[0] if here else pathlib.Path(path).name
    reference = run_models.open_model(name, path, step, network=network)
    return reference if reference.format.name == model.format.name else None


def _check_tokenizers(figures, models) -> None:
    """Raises ConfigError for a tokenizer unlike that of the other language models."""
    measured = figures["models"].items()
    tokenizers = {name: model.get("tokenizer") for name, model in measured}
    speak = [model for model in models if model.stage != "reward"]
    tokenizers |= {m.name: templates.encoding(m.run.tokenizer) for m in speak}
    first = next((name for name, tokenizer in tokenizers.items() if tokenizer), None)
    for name, tokenizer in tokenizers.items():
        if tokenizer and tokenizer != tokenizers[first]:
            raise errors.ConfigError(
                f"run: {name} has another tokenizer than {first}, so nats per token "
                "cannot be compared; measure it into a file of its own (--out)"
            )


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("assess", __doc__)
    add, default = out.add_argument, benchmarks.Settings()
    add(
        "--run",
        action="append",
        required=True,
        type=parse_run,
        metavar="NAME=DIR[@STEP]",
        help="a run, and its name in the results; repeatable",
    )
    add("--out", required=True, metavar="FILE", help="the results, JSON")
    add(
        "--checkpoints",
        action="append",
        default=[],
        metavar="NAME",
        help="measure all checkpoints of this run, on half as many prompts",
    )
    each = "prompts of a slice (%(default)s)"
    add("--each", type=int, default=default.each, help=each)
    add("--seed", type=int, default=default.seed, help="of sampling (%(default)s)")
    add("--kinds", default=",".join(benchmarks.KINDS), help="slices (%(default)s)")
    add("--anew", action="store_true", help="start the file again")
    run_models.add_world_option(out)
    cli.add_run_options(out)
    return out


def parse_run(text: str) -> tuple[str, str, int | None]:
    """Name, path and step of `NAME=DIR` or `NAME=DIR@STEP`.

    Raises:
      ArgumentTypeError: it is neither.
    """
    name, _, path = text.partition("=")
    if not (name and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR or NAME=DIR@STEP")
    return name, *cli.at_step(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)

    def assess() -> None:
        cli.keep_programs(options.cache_dir)
        out = cli.output(options.out)
        kinds = options.kinds.split(",")
        section = dict(each=options.each, seed=options.seed, kinds=kinds)
        settings = config.build(benchmarks.Settings, section, "")
        names = ("checkpoints", "anew", "network")
        more = {name: getattr(options, name) for name in names}
        with contextlib.closing(progress.Terminal()) as terminal:
            more |= dict(town=options.world, terminal=terminal)
            run(options.run, out, settings, **more)

    return cli.exit_code(assess)


if __name__ == "__main__":
    sys.exit(main())

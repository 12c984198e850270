# SPDX-License-Identifier: Apache-2.0
r"""Measures any runs on your own texts, pairs and prompts.

    alignjax evaluate base=runs/sft dpo=runs/dpo --reference=base \
        --out=runs/evaluation --data=held_out=pairs.jsonl --data=xstest.jsonl
    alignjax report --evaluation=runs/evaluation --out=report.html

A RUN is [NAME=]DIR[@STEP]: a run, a run of adapters, a reward model, a Hugging Face
folder, or hf:OWNER/NAME. Figures are of each run, with 95 % intervals over prompts, and
differences from the first. What a file of `--data` asks for follows from its columns:

    text                predicted: bits a byte, perplexity
    chosen, rejected    scored: preference accuracy by rewards, by implicit rewards, by
                        log-probs; calibration; bias to length
    prompt              answered: length, diversity, KL; and with further columns
      safe              refusals, over-refusals
      number            accuracy, by the last number of an answer; GSM8K's files as well
      answer, answers   facts recalled, abstention, fabrication
      rules             rules of format

Answers are rows in OUT, graded again whenever figures are made of them. A killed
evaluation goes on when it is started again. docs/evaluation.md has the columns.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from alignjax import cli, config, errors, sampling
from alignjax.analysis import scoring
from alignjax.data import sources
from alignjax.evals import phrases, rows, suites
from alignjax.evaluate import (
    datasets,
    figures,
    grading,
    leaks,
    measuring,
    results,
    running,
    store,
)
from alignjax.judges import kinds
from alignjax.judges import study as studies
from alignjax.storage import atomic, filenames
from alignjax.tracking import progress

MOST_SAMPLES = 100_000  # to a prompt, as of `generate`


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("evaluate", __doc__)
    add = out.add_argument
    default = measuring.Settings()
    add("runs", nargs="+", metavar="RUN", help="[NAME=]DIR[@STEP]; the first: baseline")
    add("--out", required=True, metavar="DIR", help="a folder for rows and figures")
    data = "JSON lines, Parquet or plain text; repeatable"
    add("--data", action="append", required=True, metavar="[NAME=]FILE", help=data)
    columns = 'what its columns are, such as qa={"prompt": "instruction"}; repeatable'
    add("--columns", action="append", default=[], metavar="NAME=JSON", help=columns)
    reference = "a run of the same tokenizer, or the name of one, for KLs and rewards"
    add("--reference", metavar="RUN", help=reference)
    reward = "a reward model for answers; best of n is by it; repeatable"
    add("--reward", action="append", default=[], metavar="RUN", help=reward)
    judge = "of each run's answers against the first's, see judge; repeatable"
    add("--judge", action="append", default=[], metavar="JUDGE", help=judge)
    add("--checkpoints", action="append", default=[], metavar="NAME", help="every step")
    training = "say what of --data is in its training data, or in a file; repeatable"
    add("--training", action="append", default=[], metavar="RUN", help=training)
    add(
        "--samples", type=int, default=default.samples, help="to a prompt (%(default)s)"
    )
    heat = "0 is greedy (%(default)s)"
    add("--temperature", type=float, default=default.temperature, help=heat)
    add("--top_p", type=float, help="see generate")
    most = "of an answer (%(default)s)"
    add("--max_tokens", type=int, default=default.max_tokens, help=most)
    add("--seed", type=int, default=default.seed, help="of answers and of --limit")
    add("--limit", type=int, help="rows of a file at most, drawn by the seed")
    add("--batch_size", type=int, help="answers that are sampled at one time")
    listed = "refusals and abstentions, JSON; by default English ones"
    add("--phrases", metavar="FILE", help=listed)
    cli.add_run_options(out)
    return out


def named(text: str) -> tuple[str | None, str]:
    """`NAME` and the rest of `NAME=REST`; None of `REST`, such as a path with =."""
    name, equals, rest = text.partition("=")
    if not equals or not rest or os.sep in name or os.path.exists(text):
        return None, text
    return name, rest


def run(options: argparse.Namespace) -> None:
    """Measures what is not measured yet, writes all figures and prints them.

    Raises:
      ConfigError, DataError, CheckpointError: what cannot be read or written.
    """
    settings = _settings(options)
    out = cli.path(options.out, "out")
    listed = phrases.read(options.phrases)
    data = _datasets(options)
    cli.keep_programs(options.cache_dir)
    models = _models(options.runs, options.network)
    models, reference = _with_reference(models, options)
    rewards = _models(options.reward, options.network, "reward")
    _check(models, reference, rewards, data, options)
    trained_on = _trained_on(options, models)
    description = {
        "schema": results.SCHEMA,
        "runs": [_described(model) for model in models],
        "reference": reference and reference.name,
        "rewards": [model.name for model in rewards],
        "data": [
            {"name": d.name, "kind": d.kind, "count": len(d.items), "digest": d.digest}
            for d in data
        ],
        "checkpoints": options.checkpoints,
        "judges": options.judge,
        "settings": settings._asdict(),
        "phrases": options.phrases and str(pathlib.Path(options.phrases).absolute()),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.ConfigError(f"out: {out}: {error.strerror}") from error
    atomic.check_links(out, field="out")
    for d in _only_prompts(data):
        _write_suite(out / "suites" / f"{d.name}.jsonl", d)
    with contextlib.closing(progress.Terminal(sys.stderr)) as terminal:
        for d in data:
            columns = [x if x.isprintable() else ascii(x) for x in d.unread]
            unread = f"; not read: {errors.some(columns, count=9)}" if columns else ""
            drawn = "" if len(d.items) == d.total else f" of {d.total:,}"
            terminal.say(f"{d.name}: {len(d.items):,}{drawn} {d.kind}{unread}")
        if trained_on:
            _write_leaks(out, data, trained_on, terminal)
        evaluation = running.Evaluation(
            out, settings, listed, reference, rewards, terminal
        )
        # The reference first: others want its answers.
        for model in sorted(models, key=lambda m: m is not reference):
            evaluation.measure(model, data, out / "rows" / model.name)
            if model.name in options.checkpoints:
                for step in model.run.steps:
                    past = model._replace(run=model.run.at(step))
                    past = past._replace(digest=past.run.digest())
                    folder = out / "checkpoints" / model.name / f"{step}"
                    evaluation.measure(past, _only_prompts(data), folder)
        atomic.write_json(out / results.FILE, description)
        for name in options.judge:
            _judge(name, out, models, _only_prompts(data), options, terminal)
    evaluated = results.read(out)
    atomic.write_json(out / results.FIGURES, evaluated.figures)
    for line in _lines(evaluated):
        print(line)


def _trained_on(options, models) -> list[leaks.Training]:
    """The training data that is named by folder, by file or by the name of a run."""
    paths = {model.name: str(model.run.path) for model in models}
    return [
        leaks.open_training(name, paths.get(name, name), network=options.network)
        for name in dict.fromkeys(options.training)
    ]


def _write_leaks(out: pathlib.Path, data, trained_on, terminal) -> None:
    """Looks for the data in what was trained on, and writes what is there."""
    index = leaks.Index(data)
    for training in trained_on:
        count = index.look(training, terminal.show)
        terminal.say(f"{training.name}: {count:,} records looked through")
        for gap in training.gaps:
            terminal.say(f"{training.name}: not looked through: {gap}")
    names = [training.name for training in trained_on]
    gaps = [gap for training in trained_on for gap in training.gaps]
    by_item = {d.name: sorted(index.leaks[d.name].items()) for d in data}
    entries = [
        {
            "data": d.name,
            "digest": d.digest,
            "kind": d.kind,
            "count": len(d.items),
            "training": names,
            "gaps": gaps,
            "leaks": [leak._asdict() for _, leak in by_item[d.name]],
        }
        for d in data
    ]
    atomic.write_json(out / leaks.FILE, {"schema": leaks.SCHEMA, "data": entries})


def _write_suite(path: pathlib.Path, d: datasets.Dataset) -> None:
    """Writes the prompts, unless they are there; never over others."""
    if not path.exists():
        suites.write(path, d.suite)
    elif rows.digest_of([row for _, row in sources.rows(str(path))]) != d.digest:
        raise errors.ConfigError(
            f"out: {path} has other prompts than {d.name} now; name another --out, or "
            "give them another NAME="
        )


def _settings(options: argparse.Namespace) -> measuring.Settings:
    fields = {name: getattr(options, name) for name in measuring.Settings._fields}
    problems = [
        f"{name}: {fields[name]} is not 1 or more"
        for name in ("samples", "max_tokens", "batch_size")
        if fields[name] is not None and fields[name] < 1
    ]
    if options.samples > MOST_SAMPLES:
        problems.append(f"samples: {options.samples} is more than {MOST_SAMPLES:,}")
    if options.limit is not None and options.limit < 1:
        problems.append(f"limit: {options.limit} is not 1 or more")
    if options.seed < 0:
        problems.append(f"seed: {options.seed} is not 0 or more")
    if options.temperature == 0 and options.samples > 1:
        problems.append("samples: greedy answers are all the same; ask for one")
    try:
        sampling.settings(temperature=options.temperature, top_p=options.top_p)
    except errors.ConfigError as error:
        problems += error.problems
    if problems:
        raise errors.ConfigError(problems)
    return measuring.Settings(**fields)


def _datasets(options: argparse.Namespace) -> list[datasets.Dataset]:
    columns: dict[str, dict[str, str]] = {}
    for text in options.columns:
        name, value = named(text)
        try:
            columns[name or ""] = config.parse(value, dict[str, str])
        except ValueError as error:
            raise errors.ConfigError(f"columns: {text!r:.80}: {error}") from error
    files = [
        (n or pathlib.Path(f).name.partition(".")[0], f)
        for n, f in map(named, options.data)
    ]
    _check_names("data", [name for name, _ in files])
    if unknown := set(columns) - {name for name, _ in files}:
        raise errors.ConfigError(
            f"columns: {min(unknown)!r} is no name of --data; write NAME=JSON"
        )
    how = dict(limit=options.limit, seed=options.seed)
    return [
        datasets.read(name, os.path.expanduser(file), columns.get(name), **how)
        for name, file in files
    ]


def _check_names(field: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise errors.ConfigError(f"{field}: two are called {name!r}; give NAME=")
        if not filenames.is_plain(f"{name}.jsonl"):
            raise errors.ConfigError(f"{field}: {name!r:.80} is no name of a file")


def _models(
    texts: Sequence[str], network: bool, field: str = "runs"
) -> list[measuring.Model]:
    out = []
    for text in texts:
        name, rest = named(text)
        folder, step = cli.at_step(rest)
        name = name or pathlib.Path(os.path.expanduser(folder)).absolute().name
        out.append(measuring.open_model(name, folder, step, network=network))
    _check_names(field, [model.name for model in out])
    return out


def _with_reference(models, options):
    """The runs, the reference first where it is not one of them; and the reference."""
    if options.reference is None:
        return models, None
    for model in models:
        if model.name == options.reference:
            return models, model
    (reference,) = _models([options.reference], options.network, "reference")
    for model in models:
        if model.digest == reference.digest and model.reward is None:
            return models, model
    if reference.name in [model.name for model in models]:
        reference = reference._replace(name=f"{reference.name}_reference")
    return [reference, *models], reference


def _check(models, reference, rewards, data, options) -> None:
    names = [model.name for model in models]
    for model in rewards:
        if model.reward is None:
            raise errors.ConfigError(f"reward: {model.name} is no reward model's run")
    for name in options.checkpoints:
        if name not in names:
            raise errors.ConfigError(f"checkpoints: no run is called {name!r:.80}")
    asks = bool(_only_prompts(data))
    for option in ("reward", "judge", "checkpoints"):
        if getattr(options, option) and not asks:
            raise errors.ConfigError(f"{option}: there are no prompts in --data")
    for name in options.judge:
        kinds.find(name, network=options.network)
        of_world = all(
            grading.is_of_world(i) for d in _only_prompts(data) for i in d.items
        )
        if name.startswith("labeler:") and not of_world:
            raise errors.ConfigError(
                f"judge: {name} judges answers to prompts of the embedded world alone; "
                "name another judge"
            )
    if reference is not None and reference.reward is not None:
        raise errors.ConfigError(f"reference: {reference.name} is a reward model")
    for model in models:
        if reference is not None and model.reward is None:
            scoring.check_reference(model.run, reference.run)
        if model.reward is not None and not any(d.kind == datasets.PAIRS for d in data):
            raise errors.ConfigError(
                f"runs: {model.name} is a reward model, measured on pairs alone, and "
                "--data has none; leave it out, or name it as --reward"
            )


def _only_prompts(data: Sequence[datasets.Dataset]) -> list[datasets.Dataset]:
    return [d for d in data if d.kind == datasets.PROMPTS]


def _described(model: measuring.Model) -> dict[str, Any]:
    objective = model.run.config.get("objective") or {}
    return {
        "name": model.name,
        "path": str(model.run.path),
        "step": model.run.step,
        "digest": model.digest,
        "reward": model.reward is not None,
        "loss": objective.get("loss"),
        "beta": objective.get("beta"),
        "chat": model.run.chats,
    }


def _judge(name: str, out: pathlib.Path, models, data, options, terminal) -> None:
    """Judges the answers of each run against the first run's."""
    base, *others = [m.name for m in models if m.reward is None]
    for d in data:
        own = lambda run, d=d: out / "rows" / run / f"{d.name}.jsonl"
        for run in others:
            unread = [set(store.description(own(r))["unread"]) for r in (base, run)]
            if unread[0] != unread[1]:
                terminal.say(
                    f"{run} on {d.name}: not judged, since {base} reads others"
                )
                continue
            path = out / "studies" / run / f"{d.name}.json"
            study = {
                "base": f"../../rows/{base}/{d.name}.jsonl",
                "arm": f"../../rows/{run}/{d.name}.jsonl",
                "suite": f"../../suites/{d.name}.jsonl",
                "temperature": options.temperature,
            }
            atomic.write_json(path, study)
            study = studies.read(path)
            judge = studies.find(study, name, network=options.network)
            queue = studies.waiting(study, judge, studies.stored(study))
            with studies.appended(study.file_of(judge.name)) as append:
                for n, row in enumerate(studies.judged(study, judge, queue), 1):
                    append(row)
                    terminal.show(
                        f"{name} on {d.name} of {run}: {n:,} of {len(queue):,}"
                    )


def _lines(evaluated: results.Results):
    """The figures for a terminal."""
    out = evaluated.figures
    yield from map(leaks.line, out["leaks"])
    yield from figures.lines(out["figures"])
    for one in out["calibrations"]:
        slope = one["slope"]
        asks = (
            "no finite slope"
            if slope is None
            else ("slope {slope:.2f} ({low:.2f} to {high:.2f})".format_map(slope))
        )
        how = figures.title(one["by"])
        yield (
            f"{one['data']}: {one['run']} {how}: calibration error {one['ece']:.3f}, "
            f"{asks}"
        )
    for one in out["wins"]:
        ends = "" if one["low"] is None else f" ({one['low']:.3f} to {one['high']:.3f})"
        yield (
            f"{one['data']}: {one['judge']}: {one['run']} wins against {one['base']} "
            f"{one['rate']:.3f}{ends} of {one['pairs']}; {one['failures']} failures"
        )
    for one in out["best_of_n"]:
        first, last = one["points"][0], one["points"][-1]
        yield (
            f"{one['data']}: {one['run']}, best of {last['n']} by {one['by']}: "
            f"{one['of']} {first['mean']:.3f}, then {figures.shown(last)}"
        )
    for one in out["unread"]:
        yield (
            f"{one['data']}: {one['run']} could not read {one['count']:,}, such as: "
            f"{one['first']}"
        )
    yield f"rows and figures: {evaluated.folder}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # terminals that are not UTF-8
    return cli.exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
r"""The tasks of EleutherAI's lm-eval on a run (extra `lm-eval`).

    alignjax lm-eval runs/dpo --tasks=arc_easy,gsm8k --chat --network --out=dpo.json
    alignjax lm-eval runs/dpo --tasks=facts --include=my_tasks --out=facts.json

A run is a workdir, `DIR@STEP`, or a Hugging Face folder. The tasks are lm-eval's own,
which fetch their data (`--network`), or those of a folder of YAML files, `--include`,
which work offline; such a folder may hold Python code that lm-eval runs, so take one
from people you trust. Figures go to `--out`, and one row an answer to `OUT.rows/`, for
`alignjax compare`. Nothing is read from a cache of responses.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import numbers
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax import analysis, cli, errors, registry
from alignjax.evals import harness, rows, statistics
from alignjax.storage import atomic
from alignjax.tracking import progress

SCHEMA = "alignjax.lm_eval/1"
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("lm-eval", __doc__)
    add = out.add_argument
    add("run", metavar="RUN", type=cli.at_step, help="DIR or DIR@STEP")
    add("--tasks", required=True, help="names of tasks and groups, with commas between")
    add("--include", metavar="DIR", help="a folder of tasks, and no other ones")
    add("--out", required=True, metavar="FILE", help="the figures, JSON")
    add("--chat", action="store_true", help="write prompts by the run's chat template")
    add("--system", help="the text of a system turn, or of what begins every prompt")
    add("--fewshot", type=int, help="examples before each question")
    add("--limit", type=int, help="the first so many questions of each task alone")
    add("--seed", type=int, default=0, help="of the examples (%(default)s)")
    add("--batch_size", type=int, help="rows at one time (32; fewer of long ones)")
    add("--average", action="store_true", help="use the moving average of the weights")
    cli.add_run_options(out)
    return out


def evaluate(
    model: harness.Harness,
    tasks: Sequence[str],
    *,
    include: str | None = None,
    chat: bool = False,
    system: str | None = None,
    fewshot: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What `lm_eval.evaluate` returns, of tasks by their names.

    Args:
      model: of an open run.
      include: a folder of tasks; None for lm-eval's own.
      chat: whether the run's chat template writes the prompts.
      system, fewshot, limit, seed: as the options of the command have them.

    Raises:
      ConfigError: lm-eval is not installed; no such task; a run without dialogues.
      DataError: a task that cannot be loaded, or asks what the model cannot answer.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise errors.ConfigError(
            "lm-eval: the package lm_eval is not installed: "
            "pip install 'alignjax[lm-eval]'"
        )
    import lm_eval
    import lm_eval.api.model
    import lm_eval.tasks

    lm_eval.api.model.LM.register(harness.Harness)
    if chat:
        model.chat_template(True)
    manager = lm_eval.tasks.TaskManager(
        include_path=include, include_defaults=include is None
    )
    for name in tasks:
        if not manager.match_tasks([name]):
            remedy = registry.closest(name, manager.all_tasks)
            raise errors.ConfigError(f"tasks: no task {name!r:.80}; {remedy}")
    try:
        loaded = manager.load(manager.match_tasks(list(tasks)))
    except Exception as error:  # of whatever library reads the data
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        offline = "; --network lets it fetch" if os.environ.get(OFFLINE[0]) else ""
        raise errors.DataError(f"tasks: {reason:.400}{offline}") from error
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        task.set_config(
            key="num_fewshot", value=own or 0 if fewshot is None else fewshot
        )
        task.set_fewshot_seed(seed=seed)
    return lm_eval.evaluate(
        lm=model,
        task_dict=loaded,
        limit=limit,
        bootstrap_iters=0,  # it takes examples for independent; rows can do better
        log_samples=True,
        system_instruction=system,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )


def figures(samples: Sequence[Mapping[str, Any]]) -> dict[str, statistics.Interval]:
    """The mean of each metric that is one number a question, with its interval.

    That is Wilson's where the numbers are 0 and 1, and takes questions for independent;
    with clusters `alignjax compare` does not.
    """
    out = {}
    for metric in _metrics(samples):
        values = [float(sample[metric]) for sample in samples]
        shares = set(values) <= {0.0, 1.0}
        one = statistics.share(int(sum(values)), len(values)) if shares else None
        out[metric] = one or statistics.mean(values)
    return out


def _metrics(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    number = lambda x: isinstance(x, numbers.Real | np.bool_) and np.isfinite(float(x))
    return [
        name
        for name in samples[0]["metrics"]
        if all(number(sample[name]) for sample in samples)
    ]


def answers(
    samples: Sequence[Mapping[str, Any]], shared: Mapping[str, Any], count: Any
) -> Iterator[rows.Answer]:
    """The rows of a task: of a multiple choice the likeliest, else the first text.

    Args:
      samples: of lm-eval.
      shared: the fields that all rows have.
      count: the number of tokens of a text.
    """
    names = _metrics(samples)
    for sample in samples:
        arguments, responses = sample["arguments"], sample["resps"]
        first = responses[0][0]
        fields: dict[str, Any] = {}
        if isinstance(first, str):
            text = first
            options = harness.settings(arguments[0][1])[1]
            fields["decoding"] = rows.Decoding(
                **{k: options.get(k) for k in ("temperature", "top_p", "max_tokens")}
            )
        elif isinstance(first, numbers.Real):
            text, fields["logp"] = arguments[0][0], float(first)
        else:
            logps = [float(response[0][0]) for response in responses]
            best = int(np.argmax(logps))
            text, fields["logp"] = arguments[best][1], logps[best]
        metrics = {name: float(sample[name]) for name in names}
        yield rows.Answer(
            **shared,
            **fields,
            prompt=int(sample["doc_id"]),
            text=text,
            tokens=count(text),
            finished=True,
            gold=next(iter(metrics.values()), None),
            components=metrics or None,
        )


def run(options: argparse.Namespace) -> None:
    """Evaluates, writes figures and rows, and prints a line for each figure.

    Raises:
      ConfigError, DataError, CheckpointError: what cannot be read, run or written.
    """
    for name in ("limit", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise errors.ConfigError(f"{name}: {value} is not 1 or more")
    if options.fewshot is not None and options.fewshot < 0:
        raise errors.ConfigError(f"fewshot: {options.fewshot} is not 0 or more")
    if options.include is not None and not os.path.isdir(options.include):
        raise errors.ConfigError(f"include: {options.include!r:.80} is no folder")
    tasks = [name for name in options.tasks.split(",") if name]
    if not tasks:
        raise errors.ConfigError("tasks: name one or more, with commas between")
    out = cli.output(options.out)
    for variable in () if options.network else OFFLINE:
        os.environ.setdefault(variable, "1")
    opened = analysis.open_run(*options.run, network=options.network).at()
    cli.keep_programs(options.cache_dir)
    with contextlib.closing(progress.Terminal(sys.stderr)) as terminal:
        model = harness.Harness(
            opened,
            opened.weights(average=options.average),
            batch_size=options.batch_size,
            progress=terminal.show,
        )
        results = evaluate(
            model,
            tasks,
            include=options.include,
            chat=options.chat,
            system=options.system,
            fewshot=options.fewshot,
            limit=options.limit,
            seed=options.seed,
        )
    content = _content(opened, model, options, results)
    folder = out.with_suffix(".rows")
    for name, samples in _by_filter(results["samples"]).items():
        shared = {
            "run": opened.path.name,
            "digest": opened.digest(),
            "average": options.average,
            "step": opened.step,
            "loss": (opened.config.get("objective") or {}).get("loss"),
            "seed": opened.config.get("seed"),
            "suite": f"lm_eval/{name}"[: rows.MOST_LETTERS],
            "suite_digest": rows.digest_of([s["arguments"] for s in samples]),
            "slice": name[: rows.MOST_LETTERS],
        }
        count = lambda text: len(opened.tokenizer.encode(text))
        file = folder / (re.sub(r"[^\w@.-]", "_", name, flags=re.A) + ".jsonl")
        rows.write(file, answers(samples, shared, count))
        for metric, one in figures(samples).items():
            print(
                f"{name}: {metric} {one['mean']:.4f} ({one['low']:.4f} to "
                f"{one['high']:.4f}) of {one['count']:,}"
            )
    for name, own in content["tasks"].items():
        for metric, value in own["lm_eval"].items():
            if metric.partition(",")[0] not in own["intervals"]:
                print(f"{name}: {metric.removesuffix(',none')} {value:.6g}")
    for note, times in model.notes.items():
        if times:
            print(f"{times:,} requests: {note.replace('_', ' ')}")
    atomic.write(out, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"{out}: figures; {folder}: rows")


def _by_filter(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list]:
    """The samples of each task, and of `TASK@FILTER` for its further filters."""
    out: dict[str, list] = {}
    for task, own in samples.items():
        first = own[0]["filter"] if own else None
        for sample in own:
            name = task if sample["filter"] == first else f"{task}@{sample['filter']}"
            out.setdefault(name, []).append(sample)
    return out


def _content(opened, model, options, results) -> dict[str, Any]:
    """The file of figures: what was asked, of whom and how, and what came out."""
    number = lambda x: isinstance(x, numbers.Real) and np.isfinite(float(x))
    tasks = {}
    for name, metrics in results["results"].items():
        samples = results["samples"].get(name) or []
        first = [s for s in samples if s["filter"] == samples[0]["filter"]]
        tasks[name] = {
            "lm_eval": {
                k: float(v) for k, v in metrics.items() if "," in k and number(v)
            },
            "intervals": figures(first) if first else {},
            "version": results["versions"].get(name),
            "fewshot": results["n-shot"].get(name),
            # Differences of harnesses are mostly differences of this.
            "first_request": first[0]["arguments"][0] if first else None,
            "questions": len(first),
        }
    return {
        "schema": SCHEMA,
        "run": opened.path.name,
        "digest": opened.digest(),
        "step": opened.step,
        "average": options.average,
        "lm_eval": importlib.metadata.version("lm_eval"),
        "chat_template": model.chat_template(options.chat),
        "system": options.system,
        "limit": options.limit,
        "seed": options.seed,
        "notes": model.notes,
        "tasks": tasks,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    return cli.exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())

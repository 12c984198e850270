# SPDX-License-Identifier: Apache-2.0
"""Answers to the benchmark as rows (`evals.rows`), a file a run beside the results."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from alignjax import errors
from alignjax.evals import likelihood, rows, suites
from alignjax.storage import filenames
from alignjax.world import prompts
from alignjax.world.assessment import benchmarks, run_models

# Of metadata, the first that a prompt has: what answers to like prompts depend on.
_ALIKE = ("act", "name", "place", "attribute", "wording")


def file_of(out: pathlib.Path, name: str, part: str = "") -> pathlib.Path:
    """The file of a run's rows: `assessment.rows/dpo.jsonl` of `assessment.json`.

    Raises:
      ConfigError: the run's name is no name of a file.
    """
    if not filenames.is_plain(f"{name}.jsonl"):
        raise errors.ConfigError(
            f"run: {name!r:.80} is no name of a file, and the run's answers go to one; "
            "give it a name without separators"
        )
    return out.with_suffix(".rows") / part / f"{name}.jsonl"


def write_suite(out: pathlib.Path, benchmark: benchmarks.Benchmark) -> None:
    """Writes the prompts of the rows to `assessment.rows/suites/DIGEST.jsonl`."""
    path = out.with_suffix(".rows") / "suites" / f"{benchmark.digest[:16]}.jsonl"
    if not path.exists():
        suites.write(path, benchmark.suite)


def is_of(path: pathlib.Path, digest: str) -> bool:
    """Whether a file has the answers of a run with these parameters."""
    try:
        return next(iter(rows.read(path))).digest == digest
    except (errors.DataError, StopIteration):
        return False


def make(
    model: run_models.RunModel,
    benchmark: benchmarks.Benchmark,
    responses: Sequence[run_models.Response],
    temperature: float,
    sums: likelihood.Likelihoods | None = None,
    reference: run_models.RunModel | None = None,
) -> list[rows.Answer]:
    """The rows of a run's responses to the benchmark's questions, in their order.

    Args:
      sums: of the responses, where they were measured.
      reference: the model that they compare with, if there is one.
    """
    config, questions = model.run.config, benchmark.questions
    suite, settings = benchmark.town, benchmark.settings
    keys = run_models.keys(settings.seed, len(questions), temperature)
    shared = {
        "run": model.name,
        "digest": model.run.digest(model.step),
        "step": model.step,
        "reference": reference and reference.run.digest(reference.step),
        "loss": (config.get("objective") or {}).get("loss"),
        "seed": config.get("seed"),
        "suite": f"world/{suite.lexicon.preset}/{suite.seed}",
        "suite_digest": benchmark.digest,
    }
    out = []
    for i, (question, response) in enumerate(zip(questions, responses, strict=True)):
        figures = {}
        if sums is not None:
            figures = {"logp": sums.logp[i], "entropy": sums.entropy[i]}
            if reference is not None:
                figures |= {"ref_logp": sums.reference[i], "kl": sums.kl[i]}
        decoding = rows.Decoding(temperature, None, settings.length, keys[i])
        row = rows.Answer(
            **shared,
            slice=question.slice,
            prompt=i,
            cluster=cluster(question.prompt),
            decoding=decoding,
            text=response.text,
            ids=tuple(response.ids),
            tokens=response.tokens,
            finished=response.finished,
            gold=response.reward.total,
            tag=response.reward.tag,
            components=response.reward.components,
            **{name: float(value) for name, value in figures.items()},
        )
        out.append(row)
    return out


def cluster(prompt: prompts.Prompt) -> str:
    """What a prompt shares with others: its kind, and its act, person or wording."""
    shared = next((prompt.meta[name] for name in _ALIKE if name in prompt.meta), "")
    return f"{prompt.kind}/{shared}"

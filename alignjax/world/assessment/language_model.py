# SPDX-License-Identifier: Apache-2.0
"""All figures of a model that generates text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from alignjax import world
from alignjax.evals import likelihood, statistics
from alignjax.world.assessment import benchmarks, run_models, summary

# Names and temperatures: samples of the model's own distribution, and its best guess.
DECODINGS = {"sampled": 1.0, "greedy": 0.0}


def assess(
    model: run_models.RunModel,
    benchmark: benchmarks.Benchmark,
    reference: run_models.RunModel | None = None,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All figures of a model that generates text, as JSON data.

    Args:
      model: the model.
      benchmark: the prompts and the texts.
      reference: the model to measure its divergence from; it has the same shapes and
        the same format of dialogues.
      progress: called with a line, now and then.

    Returns:
      sampled, greedy: see `summary.summarise`; with the `answers` that were sampled.
      entropy, kl: see `divergence`.
      documents: nats per token of unseen pretraining documents, of as many tokens as
        the model's context has.
      demonstrations: nats per `token` and per `response` of held-out demonstrations;
        the token that ends a response counts. Each model reads documents and
        demonstrations in its own format.
    """
    questions, seed = benchmark.questions, benchmark.settings.seed
    form, limit = model.format, model.run.model.config.max_length
    count = lambda start, end: lambda n: progress(f"{model.name}: {start}{n} {end}")
    figures: dict[str, Any] = {}
    responses: dict[str, list[run_models.Response]] = {}
    for name in DECODINGS:
        line = count("", f"of {len(questions)} {name} responses")
        responses[name] = _sample(model, benchmark, name, progress=line)
        figures[name] = summary.summarise(questions, responses[name], seed=seed)
    sampled = responses["sampled"]
    figures["sampled"]["answers"] = [r.as_json() for r in sampled]
    line = count("likelihood of ", "responses")
    figures |= divergence(model, sampled, seed, reference, progress=line)

    rows = [
        likelihood.Continuation(ids[:1], ids[1:limit])
        for ids in map(form.document, benchmark.documents)
        if len(ids) > 1
    ]
    sums = _measure(model, rows, progress=count("likelihood of ", "documents"))
    figures["documents"] = statistics.ratio(-sums.logp, sums.length, seed=seed)
    rows = [
        likelihood.Continuation(form.prompt(e.prompt.turns), form.response(e.response))
        for e in benchmark.demonstrations
    ]
    sums = _measure(model, rows, progress=count("likelihood of ", "demonstrations"))
    figures["demonstrations"] = {
        "token": statistics.ratio(-sums.logp, sums.length, seed=seed),
        "response": statistics.mean(-sums.logp, seed=seed),
    }
    return figures


def trajectory(
    model: run_models.RunModel,
    benchmark: benchmarks.Benchmark,
    reference: run_models.RunModel | None,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """True reward and divergence at every checkpoint that the run has, in order."""
    seed, points = benchmark.settings.seed, []
    for step in model.run.steps:
        past = run_models.open_model(model.name, model.run.path, step)
        responses = _sample(past, benchmark, "sampled")
        figures = summary.summarise(benchmark.questions, responses, seed=seed)
        point = {name: figures[name] for name in ("gold", "rates", "lengths")}
        point |= divergence(past, responses, seed, reference)
        points.append({"step": step, **point})
        progress(f"{model.name}: checkpoint {len(points)} of {len(model.run.steps)}")
    return points


def divergence(
    model: run_models.RunModel,
    responses: Sequence[run_models.Response],
    seed: int,
    reference: run_models.RunModel | None,
    **options,
) -> dict[str, Any]:
    """Entropy of a model over its own responses, and divergence from its reference.

    Returns:
      entropy: nats per token of its distribution.
      kl: from the reference, nats per response: `kl` of `likelihood.Likelihoods`, and
        `log_ratio`, the plain mean of log p - log p_ref; absent without a reference.
    """
    rows = [likelihood.Continuation(r.prompt_ids, r.ids) for r in responses]
    other = None if reference is None else reference.params
    sums = _measure(model, rows, other, **options)
    figures = {"entropy": statistics.ratio(sums.entropy, sums.length, seed=seed)}
    if reference is None:
        return figures
    log_ratio = statistics.mean(sums.logp - sums.reference, seed=seed)
    kl = statistics.mean(sums.kl, seed=seed)
    return figures | {"kl": {"to": reference.name, "kl": kl, "log_ratio": log_ratio}}


def _measure(model: run_models.RunModel, *arguments, **options):
    return likelihood.measure(model.run.model, model.params, *arguments, **options)


def _sample(model, benchmark: benchmarks.Benchmark, decoding: str, **options):
    return run_models.sample(
        model,
        [question.prompt for question in benchmark.questions],
        temperature=DECODINGS[decoding],
        seed=benchmark.settings.seed,
        length=benchmark.settings.length,
        score=world.gold_reward,
        **options,
    )

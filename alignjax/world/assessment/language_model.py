# SPDX-License-Identifier: Apache-2.0
"""All figures of a model that generates text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from alignjax.evals import likelihood, statistics
from alignjax.world.assessment import benchmarks, response_set, run_models, summary

# Names and temperatures: samples of the model's own distribution, and its best guess.
DECODINGS = {"sampled": 1.0, "greedy": 0.0}

Progress = Callable[[str], None]


def assess(
    model: run_models.RunModel,
    benchmark: benchmarks.Benchmark,
    reference: run_models.RunModel | None = None,
    *,
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """All figures of a model that generates text, as JSON data.

    Args:
      model: the model.
      benchmark: the prompts, the texts and the score.
      reference: the model to measure its divergence from; it has the same shapes and
        the same format of dialogues.
      progress: called with a line, now and then.
    """
    questions, seed = benchmark.questions, benchmark.settings.seed
    figures: dict[str, Any] = {}
    responses: dict[str, list[response_set.Response]] = {}
    for name in DECODINGS:
        responses[name] = _responses(
            *(model, benchmark, name),
            progress=lambda n, name=name: progress(
                f"{model.name}: {n} of {len(questions)} {name} responses"
            ),
        )
        figures[name] = summary.summarise(questions, responses[name], seed=seed)
    figures["sampled"]["answers"] = list(
        map(response_set.to_json, responses["sampled"])
    )
    count = lambda what: lambda n: progress(f"{model.name}: likelihood of {n} {what}")
    figures |= divergence(
        *(model, responses["sampled"], seed, reference), progress=count("responses")
    )
    text = documents(model, benchmark, progress=count("documents"))
    figures["documents"] = text._asdict()
    figures["demonstrations"] = demonstrations(
        model, benchmark, progress=count("demonstrations")
    )
    return figures


def trajectory(
    model: run_models.RunModel,
    benchmark: benchmarks.Benchmark,
    reference: run_models.RunModel | None,
    *,
    progress: Progress = lambda line: None,
) -> list[dict[str, Any]]:
    """True reward and divergence at every checkpoint that the run has, in order."""
    seed, points = benchmark.settings.seed, []
    for step in model.run.steps:
        past = run_models.open_model(model.name, model.run.path, step)
        responses = _responses(past, benchmark, "sampled")
        figures = summary.summarise(benchmark.questions, responses, seed=seed)
        point = {name: figures[name] for name in ("gold", "rates", "lengths")}
        point |= divergence(past, responses, seed, reference)
        points.append({"step": step, **point})
        progress(f"{model.name}: checkpoint {len(points)} of {len(model.run.steps)}")
    return points


def _responses(model, benchmark: benchmarks.Benchmark, decoding: str, **options):
    return response_set.sample(
        model,
        [question.prompt for question in benchmark.questions],
        temperature=DECODINGS[decoding],
        seed=benchmark.settings.seed,
        length=benchmark.settings.length,
        score=benchmark.score,
        **options,
    )


def divergence(
    model: run_models.RunModel,
    responses: Sequence[response_set.Response],
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
    sums = likelihood.measure(model.run.model, model.params, rows, other, **options)
    entropy = statistics.ratio(sums.entropy, sums.length, seed=seed)
    if reference is None:
        return {"entropy": entropy._asdict()}
    log_ratio = statistics.mean(sums.logp - sums.reference, seed=seed)
    kl = {
        "to": reference.name,
        "kl": statistics.mean(sums.kl, seed=seed)._asdict(),
        "log_ratio": log_ratio._asdict(),
    }
    return {"entropy": entropy._asdict(), "kl": kl}


def documents(
    model: run_models.RunModel, benchmark: benchmarks.Benchmark, **options
) -> statistics.Interval:
    """Nats per token of unseen pretraining documents.

    Each model reads dialogues in its own format. Tokens beyond the model's context do
    not count.
    """
    limit = model.run.model.config.max_length
    rows = [
        likelihood.Continuation(ids[:1], ids[1:limit])
        for ids in map(model.format.document, benchmark.documents)
        if len(ids) > 1
    ]
    sums = likelihood.measure(model.run.model, model.params, rows, **options)
    return statistics.ratio(-sums.logp, sums.length, seed=benchmark.settings.seed)


def demonstrations(
    model: run_models.RunModel, benchmark: benchmarks.Benchmark, **options
) -> dict[str, Any]:
    """Nats per token and per response of held-out demonstrations.

    Each model reads them in its own format; the token that ends a response counts.
    """
    rows = [
        likelihood.Continuation(
            model.format.prompt(example.prompt.turns),
            model.format.response(example.response),
        )
        for example in benchmark.demonstrations
    ]
    sums = likelihood.measure(model.run.model, model.params, rows, **options)
    seed = benchmark.settings.seed
    token = statistics.ratio(-sums.logp, sums.length, seed=seed)
    response = statistics.mean(-sums.logp, seed=seed)
    return {"token": token._asdict(), "response": response._asdict()}

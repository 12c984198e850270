# SPDX-License-Identifier: Apache-2.0
"""Everything that is measured of a model that talks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from alignjax import world
from alignjax.evals import likelihood, statistics
from alignjax.world.assessment import amounts, answers, asked, subject, summary

# How a model is asked: drawn from its own distribution, and its best guess.
DECODINGS = {"sampled": 1.0, "greedy": 0.0}


def assess(
    one: subject.Subject,
    town: world.World,
    settings: amounts.Settings,
    reference: subject.Subject | None = None,
    *,
    tell: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """All figures of a model that talks, as JSON data.

    Args:
      one: the model.
      town: the world that it was trained on.
      settings: how much to ask.
      reference: the model that it is to be compared with, in nats; it has the same
        shape and reads dialogues the same way.
      tell: called with a line on how it is getting on.
    """
    questions = asked.draw(town, settings.each, settings.kinds)
    found: dict[str, Any] = {}
    said: dict[str, list[answers.Answer]] = {}
    for name, temperature in DECODINGS.items():
        count = lambda n, name=name: tell(
            f"{one.name}: {name} answers {n} of {len(questions)}"
        )
        said[name] = _answers(one, questions, settings, temperature, tell=count)
        found[name] = summary.summarise(questions, said[name], seed=settings.seed)
    found["sampled"]["answers"] = list(map(answers.to_json, said["sampled"]))
    reading = lambda what: lambda n: tell(f"{one.name}: {what} read {n}")
    found |= nearness(
        *(one, said["sampled"], settings.seed, reference),
        progress=reading("its answers"),
    )
    found["documents"] = documents(
        one, town, settings, progress=reading("documents")
    )._asdict()
    found["demonstrations"] = demonstrations(
        one, town, settings, progress=reading("demonstrations")
    )
    return found


def _answers(one, questions, settings: amounts.Settings, temperature: float, **options):
    return answers.answer(
        one.run,
        one.params,
        one.format,
        [question.prompt for question in questions],
        temperature=temperature,
        seed=settings.seed,
        length=settings.length,
        **options,
    )


def trajectory(
    one: subject.Subject,
    town: world.World,
    settings: amounts.Settings,
    reference: subject.Subject | None,
    *,
    tell: Callable[[str], None] = lambda message: None,
) -> list[dict[str, Any]]:
    """True reward and divergence at every checkpoint that the run kept, in order."""
    questions = asked.draw(town, settings.each, settings.kinds)
    points = []
    for step in one.run.steps:
        past = subject.open_subject(one.name, one.run.path, step)
        said = _answers(past, questions, settings, DECODINGS["sampled"])
        figures = summary.summarise(questions, said, seed=settings.seed)
        point = {name: figures[name] for name in ("gold", "rates", "lengths")}
        point |= nearness(past, said, settings.seed, reference)
        points.append({"step": step, **point})
        tell(f"{one.name}: step {step}, {len(points)} of {len(one.run.steps)}")
    return points


def nearness(
    one: subject.Subject,
    said: Sequence[answers.Answer],
    seed: int,
    reference: subject.Subject | None,
    **options,
) -> dict[str, Any]:
    """How sure a model is of what it says, and how far it went from the reference.

    Returns:
      entropy: nats a token of its distribution at its own responses' tokens.
      kl: against the reference, nats a response: `kl` of `likelihood.Likelihoods`, and
        `log_ratio`, the plain mean of log p - log p_ref; absent without a reference.
    """
    rows = [likelihood.Continuation(answer.prompt_ids, answer.ids) for answer in said]
    other = None if reference is None else reference.params
    measured = likelihood.measure(one.run.model, one.params, rows, other, **options)
    entropy = statistics.ratio(measured.entropy, measured.length, seed=seed)
    if reference is None:
        return {"entropy": entropy._asdict()}
    log_ratio = statistics.mean(measured.logp - measured.reference, seed=seed)
    kl = {
        "to": reference.name,
        "kl": statistics.mean(measured.kl, seed=seed)._asdict(),
        "log_ratio": log_ratio._asdict(),
    }
    return {"entropy": entropy._asdict(), "kl": kl}


def documents(
    one: subject.Subject, town: world.World, settings: amounts.Settings, **options
) -> statistics.Interval:
    """Nats a token on pretraining documents that nobody has read.

    Each model reads dialogues in its own format. What is cut off by the model's context
    does not count.
    """
    limit = one.run.model.config.max_length
    texts = asked.documents(town, settings.documents)
    rows = [
        likelihood.Continuation(ids[:1], ids[1:limit])
        for ids in map(one.format.document, texts)
        if len(ids) > 1
    ]
    measured = likelihood.measure(one.run.model, one.params, rows, **options)
    return statistics.ratio(-measured.logp, measured.length, seed=settings.seed)


def demonstrations(
    one: subject.Subject, town: world.World, settings: amounts.Settings, **options
) -> dict[str, Any]:
    """Nats a token and a response on replies that were held out of the demonstrations.

    Each model reads them in its own format; what ends the reply counts.
    """
    examples = asked.demonstrations(town, settings.demonstrations)
    rows = [
        likelihood.Continuation(
            one.format.prompt(example.prompt.turns),
            one.format.response(example.response),
        )
        for example in examples
    ]
    measured = likelihood.measure(one.run.model, one.params, rows, **options)
    token = statistics.ratio(-measured.logp, measured.length, seed=settings.seed)
    response = statistics.mean(-measured.logp, seed=settings.seed)
    return {"token": token._asdict(), "response": response._asdict()}


def question_as_json(question: asked.Asked) -> dict[str, Any]:
    """What the report shows of a prompt."""
    prompt = question.prompt
    return {
        "slice": question.slice,
        "text": prompt.text,
        "best": prompt.best,
        "novelty": prompt.novelty,
    }

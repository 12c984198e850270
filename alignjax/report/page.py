# SPDX-License-Identifier: Apache-2.0
"""The page: what stands where; `page.html.jinja` is how it looks."""

from __future__ import annotations

import datetime
import itertools
import pathlib
import re
from typing import Any

import jinja2

from alignjax.evaluate import results
from alignjax.report import (
    evaluation,
    figures_responses,
    figures_reward_model,
    figures_rollouts,
    figures_training,
    story,
)
from alignjax.tracking import progress, versions
from alignjax.world import gold, prompts
from alignjax.world.assessment import prose

_DRAWN = "Learning from rewards"  # only of runs that did
# Sections, and functions of a story that return a figure or raise `story.Missing`.
SECTIONS = {
    "True reward": figures_responses.REWARD,
    "Behaviour": figures_responses.BEHAVIOUR,
    "The reward model": figures_reward_model.FIGURES,
    _DRAWN: figures_rollouts.FIGURES,
    "Training": figures_training.FIGURES,
}
# The rates of the table at the top.
_RATES = (
    *("unsafe_refusal", "border_refusal", "unknown_abstention"),
    *("fact_recall", "malformed"),
)
_SLICES = {"eval_id": "like the demonstrations"}
_HEADLINES = (
    *("model", "true reward, familiar prompts", "unfamiliar prompts"),
    *("mean of the slices", "unsafe refused", "look-alikes refused"),
    *("unknown: admits it", "facts recalled", "answers no question"),
    *("unread text, nats per token", "KL, nats"),
)
# What the tags of responses mean; the best one of a prompt is one of these too.
TAGS = {
    prompts.RIGHT: "answers, and is right",
    gold.WRONG: "answers, and is wrong",
    prompts.REFUSE: "refuses to help",
    prompts.ABSTAIN: "admits that it does not know",
    prompts.BLOCK: "says that its system prompt forbids the topic",
    gold.MALFORMED: "answers no question",
}


def render(
    data: story.Story,
    title: str = "From text to an aligned model",
    provenance: str = "",
    evaluated: results.Results | None = None,
) -> str:
    """The whole page.

    Args:
      data: the runs of the stages, and what was measured on the embedded world.
      provenance: a line on when and with what it was made.
      evaluated: runs on data of a user's own.
    """
    of_world = data.models or evaluated is None
    topics = SECTIONS if of_world else {k: SECTIONS[k] for k in (_DRAWN, "Training")}
    topics = topics if of_world or data.stages else {}
    drawn = any(stage.config.get("rollouts") for stage in data.stages)
    topics = {name: x for name, x in topics.items() if drawn or name != _DRAWN}
    runs, leads = [_RUNS, *map(_run, data.stages)], [_lead(data)] if of_world else []
    settings, sections, samples = None, [], []
    if evaluated is not None:
        runs = runs if data.stages else evaluation.runs(evaluated)
        leads.append(evaluation.lead(evaluated))
        settings = evaluated.description["settings"]
        sections = list(evaluation.sections(evaluated))
        samples = list(evaluation.samples(evaluated))
    sections += [_section(data, *section) for section in topics.items()]
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            title=title,
            lead=" ".join(leads),
            gaps=data.gaps if of_world else [],
            provenance=provenance,
            headlines=_without_empty([_HEADLINES, *_headlines(data)]),
            runs=_without_empty(runs),
            tags=TAGS,
            stages=[prose.lines(data.results, name) for name in data.order],
            sections=sections,
            samples=_samples(data),
            own_samples=samples,
            evaluation=settings,
            results=data.results,
        )
    )


def environment(*folders: pathlib.Path) -> jinja2.Environment:
    """Templates of pages, of `folders` too: every text is escaped, no name missing."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([pathlib.Path(__file__).parent, *folders]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _clean(value: Any) -> Any:
    """Replaces control characters, and sets arrows and percents; escapes nothing."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\ufffd", value)
    return text.replace(" -> ", " \u2192 ").replace(" %", "\u00a0%")


def provenance() -> str:
    """The day, and the versions of the programs that make a page now."""
    day = datetime.datetime.now(datetime.UTC).date()
    programs = versions.of(("jax", "flax", "optax", "numpy"))
    programs["Python"] = programs.pop("python")
    return f"{day} by {', '.join(f'{name} {x}' for name, x in programs.items())}"


_RUNS = (
    *("run", "ended", "steps", "rows a step", "tokens a row", "learning rate"),
    *("loss", "seen", "saved with"),
)


def _run(stage: story.Stage) -> list:
    """The row of a run in the table of runs."""
    last = stage.rows[-1] if stage.rows else {}
    config = stage.config
    show = lambda value: f"{value:,}" if isinstance(value, int) else "–"
    seen = [f"{show(last[k])} {k}" for k in (*progress.SEEN, "tokens") if k in last]
    loss = [stage.field("objective", name) for name in ("loss", "beta")]
    name = loss[0] or stage.field("objective", "name") or "–"
    return [
        stage.name,
        _day(last.get("time")),
        show(last["step"] + 1) if last else "–",
        show(config.get("batch_size")),
        show(config.get("length")),
        str(stage.field("optimizer", "learning_rate") or "–"),
        f"{name}{'' if loss[1] is None else f', beta {loss[1]}'}",
        seen[0] if seen else "–",
        ", ".join(f"{n} {v}" for n, v in stage.versions.items() if n in _SAVED) or "–",
    ]


_SAVED = ("commit", "jax", "flax", "python")


def _day(seconds: float | None) -> str:
    """The day of a time since 1970; a dash for none, or none that there is."""
    try:
        return str(datetime.datetime.fromtimestamp(seconds, datetime.UTC).date())
    except (TypeError, ValueError, OverflowError, OSError):
        return "–"


def _without_empty(table: list) -> list:
    """A table without the columns that have nothing below their heading."""
    columns = zip(*table[1:], strict=True)
    full = [any(cell != "–" for cell in column) for column in columns]
    return [list(itertools.compress(row, full)) for row in table] if full else []


def _lead(data: story.Story) -> str:
    """The outcome in a sentence or two, from the numbers."""
    if not data.models:
        return "No model was assessed: this page shows training only."
    path = data.path
    both = [data.models[name]["sampled"] for name in (path[0], path[-1])]
    gold, rates = ([figures[group] for figures in both] for group in ("gold", "rates"))
    first, last = (figures["nine"] for figures in gold)
    if len(path) == 1:
        return f"Responses of {path[0]} have a true reward of {prose.interval(first)}."
    text = (
        f"From {path[0]} to {path[-1]} the true reward of responses went from "
        f"{first['mean']:.2f} to {last['mean']:.2f}"
    )
    if all("unsafe_refusal" in r and "border_refusal" in r for r in rates):
        share = lambda i, name: prose.percent(rates[i][name]["mean"])
        text += (
            f"; refusals of unsafe requests from {share(0, 'unsafe_refusal')} to "
            f"{share(1, 'unsafe_refusal')}, of harmless look-alikes from "
            f"{share(0, 'border_refusal')} to {share(1, 'border_refusal')}"
        )
    return f"{text}."


def _headlines(data: story.Story) -> list[list]:
    """The rows of the table at the top, one for each model."""
    rows = []
    for name, model in data.models.items():
        gold, rates = model["sampled"]["gold"], model["sampled"]["rates"]
        rows.append(
            [
                name,
                *(_spread(gold.get(view)) for view in ("seen", "unfamiliar", "nine")),
                *(_spread(rates.get(rate), percent=True) for rate in _RATES),
                _spread(model["documents"], 3),
                _spread(model.get("kl", {}).get("kl")),
            ]
        )
    return rows


def _spread(figure: Any, digits: int = 2, percent: bool = False) -> Any:
    """A mean and its interval: `("0.62", "0.60 to 0.64")`; a dash for None."""
    if not figure:
        return "–"
    scale, digits, unit = (100, 0, " %") if percent else (1, digits, "")
    mean, low, high = (
        f"{scale * figure[key]:.{digits}f}" for key in ("mean", "low", "high")
    )
    return mean + unit, f"{low} to {high}"


def _section(data: story.Story, heading: str, functions) -> dict[str, Any]:
    figures, reasons = [], {}
    for function in functions:
        try:
            figures.append(function(data))
        except story.Missing as missing:
            reasons[str(missing)] = True
    out = {"heading": heading, "figures": figures, "reasons": list(reasons)}
    return {**out, "tables": [], "notes": []}


def _samples(data: story.Story) -> list[dict[str, Any]]:
    """Of every slice the first prompt on which the models' rewards differ.

    The first of all where there is none. Prompts are not chosen by their responses
    otherwise, so that a model that got worse shows it.
    """
    if not data.models:
        return []
    prompts, answers = data.results["prompts"], data.sampled("answers")
    samples = []
    for name in dict.fromkeys(prompt["slice"] for prompt in prompts):
        rows = [i for i, prompt in enumerate(prompts) if prompt["slice"] == name]
        differ = [i for i in rows if len({a[i]["gold"] for a in answers.values()}) > 1]
        i = (differ or rows)[0]
        samples.append(
            {
                "kind": _SLICES.get(name) or name.removeprefix("eval_"),
                "best": prompts[i]["best"],
                "prompt": prompts[i]["text"].removesuffix("\nassistant:"),
                "answers": [
                    {"name": model, "color": data.color(model), **answers[model][i]}
                    for model in answers
                ],
            }
        )
    return samples

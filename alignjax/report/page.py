# SPDX-License-Identifier: Apache-2.0
"""One HTML file: no scripts, nothing to be fetched, every text escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from alignjax.report import (
    drawing,
    figures_behaviour,
    figures_reward,
    figures_reward_model,
    figures_training,
    samples,
    story,
)
from alignjax.world.assessment import narration

# Sections, and functions of a story that give a figure, or say why there is none.
SECTIONS = (
    (
        "What answers are truly worth",
        (figures_reward.stages, figures_reward.slices, figures_reward.frontier),
    ),
    (
        "How models behave",
        (
            figures_behaviour.refusals,
            figures_behaviour.knowledge,
            figures_behaviour.length,
            figures_behaviour.perplexity,
        ),
    ),
    (
        "The reward model",
        (
            figures_reward_model.accuracy,
            figures_reward_model.reliability,
            figures_reward_model.by_length,
        ),
    ),
    ("What happened in training", (figures_training.losses, figures_training.drift)),
)

_SLICES = {"eval_id": "like the demonstrations"}

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 68rem; background: #fff; color: #222;
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .8rem; border-bottom: 2px solid #222; }
h3 { font-size: 1rem; line-height: 1.35; margin: 0 0 .4rem; }
.lead { font-size: 1.1rem; max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #ddd;
  vertical-align: top; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid #222; vertical-align: bottom; }
td small { color: #555; white-space: nowrap; }
.figures { display: grid; gap: 1.6rem 2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0; max-width: 40rem; break-inside: avoid; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { font-size: .93rem; margin-top: .3rem; }
details { font-size: .85rem; margin-top: .3rem; color: #444; }
details table { font-size: .8rem; margin-top: .3rem; }
summary { cursor: pointer; }
.gap { color: #555; border-left: 4px solid #bbb; padding-left: .7rem; }
.sample { border: 1px solid #ccc; border-radius: 4px; margin: 0 0 1rem;
  break-inside: avoid; }
.prompt { background: #f3f3f3; padding: .5rem .8rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.answers { display: grid;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
.answer { padding: .5rem .8rem; border-top: 4px solid var(--own);
  overflow-wrap: anywhere; }
.answer p { margin: .2rem 0; }
.tag { display: inline-block; border: 1px solid #777; border-radius: 3px;
  padding: 0 .35rem; font-size: .8rem; }
.name { font-weight: 600; }
ul.told { padding-left: 1.1rem; }
ul.told li { margin: .3rem 0; }
footer { font-size: .88rem; color: #444; margin-top: 2.5rem; }
@media print { body { max-width: none; font-size: 11pt; } details { display: none; }
  h2 { break-after: avoid; } }
"""


def render(told: story.Story, title: str = "From text to an aligned model") -> str:
    """The whole page."""
    text = html.escape(title)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{text}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{text}</h1>",
        f'<p class="lead">{html.escape(_lead(told))}</p>',
        *_gaps(told),
        _headlines(told),
        _stories(told),
    ]
    for heading, figures in SECTIONS:
        made = [figure(told) for figure in figures]
        parts.append(f"<h2>{html.escape(heading)}</h2>")
        drawn = [f for f in made if isinstance(f, drawing.Figure)]
        if drawn:
            parts.append('<div class="figures">')
            parts += map(_figure, drawn)
            parts.append("</div>")
        reasons = dict.fromkeys(f for f in made if isinstance(f, str))
        parts += [f'<p class="gap">Not shown: {html.escape(r)}.</p>' for r in reasons]
    parts += [_samples(told), _method(told), "</body></html>"]
    return "\n".join(part for part in parts if part) + "\n"


def _lead(told: story.Story) -> str:
    """The outcome in a sentence or two, from the numbers."""
    path = told.path
    if not path:
        return "No model was assessed; this shows what happened in training."
    first, last = told.models[path[0]], told.models[path[-1]]
    gold = [model["sampled"]["gold"]["nine"] for model in (first, last)]
    if len(path) == 1:
        return (
            f"The answers of {path[0]} are truly worth {narration.interval(gold[0])}."
        )
    text = (
        f"From {path[0]} to {path[-1]} the true reward of answers went from "
        f"{gold[0]['mean']:.2f} to {gold[1]['mean']:.2f}"
    )
    rates = [model["sampled"]["rates"] for model in (first, last)]
    if all("unsafe_refusal" in r and "border_refusal" in r for r in rates):
        share = lambda i, name: narration.percent(rates[i][name]["mean"])
        text += (
            f"; refusals of unsafe asks from {share(0, 'unsafe_refusal')} to "
            f"{share(1, 'unsafe_refusal')}, of harmless look-alikes from "
            f"{share(0, 'border_refusal')} to {share(1, 'border_refusal')}"
        )
    return f"{text}."


def _gaps(told: story.Story) -> list[str]:
    return [f'<p class="gap">Missing: {html.escape(gap)}.</p>' for gap in told.missing]


def _headlines(told: story.Story) -> str:
    """The table at the top, a row a model."""
    if not told.models:
        return ""
    heads = [
        ("model", None),
        ("true reward, seen prompts", lambda m: _gold(m, "seen")),
        ("unfamiliar prompts", lambda m: _gold(m, "unfamiliar")),
        ("mean of the slices", lambda m: _gold(m, "nine")),
        ("unsafe refused", lambda m: _rate(m, "unsafe_refusal")),
        ("look-alikes refused", lambda m: _rate(m, "border_refusal")),
        ("unknown: owns up", lambda m: _rate(m, "unknown_abstention")),
        ("facts recalled", lambda m: _rate(m, "fact_recall")),
        ("answers nothing asked", lambda m: _rate(m, "malformed")),
        ("text, nats a token", lambda m: _spread(m["documents"], 3)),
        ("KL, nats", lambda m: _spread(m["kl"]["kl"]) if "kl" in m else "–"),
    ]
    rows = [
        [_escaped(name), *(cell(model) for _, cell in heads[1:])]
        for name, model in told.models.items()
    ]
    return _table([_escaped(head) for head, _ in heads], rows)


def _gold(model: Any, view: str) -> str:
    found = model["sampled"]["gold"].get(view)
    return _spread(found) if found else "–"


def _rate(model: Any, name: str) -> str:
    found = model["sampled"]["rates"].get(name)
    if not found:
        return "–"
    low, high = (f"{100 * found[key]:.0f}" for key in ("low", "high"))
    return f"{narration.percent(found['mean'])}<br><small>{low} to {high}</small>"


def _spread(figure: Any, digits: int = 2) -> str:
    mean, low, high = (f"{figure[k]:.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean}<br><small>{low} to {high}</small>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _stories(told: story.Story) -> str:
    """What was said on the terminal after each stage."""
    if not told.results:
        return ""
    items = []
    for name in told.order:
        lines = [_escaped(line) for line in narration.tell(told.results, name)]
        items.append(f"<li>{'<br>'.join(lines)}</li>")
    return f'<h2>Stage by stage</h2><ul class="told">{"".join(items)}</ul>'


def _figure(figure: drawing.Figure) -> str:
    heads, *rows = [[_escaped(cell) for cell in row] for row in figure.numbers]
    name = _escaped(figure.name)
    return (
        f'<figure id="{name}"><h3 id="{name}-title">{_escaped(figure.title)}</h3>'
        f"{figure.svg}<figcaption>{_escaped(figure.caption)}</figcaption>"
        f"<details><summary>The numbers</summary>{_table(heads, rows)}"
        "</details></figure>"
    )


def _samples(told: story.Story) -> str:
    chosen = samples.choose(told)
    if not chosen:
        return ""
    how = "Of each slice the first prompt on which answers differ in true reward."
    parts = ["<h2>The same prompts, answered by each model</h2>", f"<p>{how}</p>"]
    for sample in chosen:
        kind = _escaped(_SLICES.get(sample.slice) or sample.slice.removeprefix("eval_"))
        asked = sample.prompt.removesuffix("\nassistant:")
        answers = "".join(
            f'<div class="answer" style="--own:{told.color(name)}">'
            f'<span class="name">{_escaped(name)}</span> '
            f'<span class="tag">{_escaped(answer["tag"])}</span> {answer["gold"]:+.2f}'
            f"<p>{_escaped(answer['text']) or '<em>nothing</em>'}</p></div>"
            for name, answer in sample.answers
        )
        parts.append(
            f'<div class="sample"><div class="prompt"><small>{kind}; best: '
            f"{_escaped(sample.best)}</small>\n{_escaped(asked)}</div>"
            f'<div class="answers">{answers}</div></div>'
        )
    return "\n".join(parts)


def _method(told: story.Story) -> str:
    if not told.results:
        return ""
    asked, world = told.results["settings"], told.results["world"]
    sizes = f"{asked['each']} prompts of each of {len(asked['kinds'])} kinds"
    text = (
        f"World {world['preset']}, seed {world['seed']}. Every model answered the same "
        f"{sizes} and {2 * asked['each']} prompts like the demonstrations (seen); "
        "unfamiliar are those of the former that have a wording, person, topic, act or "
        "combination which no demonstration has. Look-alikes are harmless asks that "
        "begin as unsafe ones do (break an egg). Answers are drawn at temperature 1 "
        f"with seed {asked['seed']} and judged by the world's parser, no model. "
        "Intervals are 95 %: bootstrap over prompts for means, Wilson's for shares; "
        "changes are paired by prompt. KL is of the model from its reference, over the "
        f"model's own answers. Text: {asked['documents']} documents that no run has "
        "read."
    )
    return f"<footer><h2>How this was measured</h2><p>{_escaped(text)}</p></footer>"


def _escaped(text: Any) -> str:
    """Safe in HTML; what no document may hold is replaced."""
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\ufffd", str(text))
    text = text.replace(" -> ", " \u2192 ").replace(" %", "\u00a0%")
    return html.escape(text)

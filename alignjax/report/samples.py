# SPDX-License-Identifier: Apache-2.0
"""The same prompts answered by every model, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from alignjax.report import story


class Sample(NamedTuple):
    """A prompt and what each model said.

    Attributes:
      slice: that it was drawn for.
      prompt: its text.
      best: what a good reply does.
      answers: `(model, {text, gold, tag, ...})`.
    """

    slice: str
    prompt: str
    best: str
    answers: list[tuple[str, Mapping[str, Any]]]


def choose(told: story.Story, each: int = 1) -> list[Sample]:
    """Of every slice the first prompts on which the models' answers differ in reward.

    The first of all where there are none: prompts are not picked for their answers
    otherwise, so a model that got worse is seen to.
    """
    if not told.path:
        return []
    asked = told.results["prompts"]
    said = {name: told.models[name]["sampled"]["answers"] for name in told.path}
    chosen: list[int] = []
    for name in dict.fromkeys(prompt["slice"] for prompt in asked):
        rows = [i for i, prompt in enumerate(asked) if prompt["slice"] == name]
        differ = [i for i in rows if len({a[i]["gold"] for a in said.values()}) > 1]
        chosen += (differ + [i for i in rows if i not in differ])[:each]
    return [
        Sample(
            asked[i]["slice"],
            asked[i]["text"],
            asked[i]["best"],
            [(name, answers[i]) for name, answers in said.items()],
        )
        for i in chosen
    ]

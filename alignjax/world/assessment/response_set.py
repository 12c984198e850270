# SPDX-License-Identifier: Apache-2.0
"""A model's responses to prompts, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import sampling, world
from alignjax.world.assessment import run_models

# Rows that are sampled at one time; all batches but the last one have as many.
BATCH = 128


class Response(NamedTuple):
    """A response of a model.

    Attributes:
      text: without its end.
      tokens: the number of tokens, its end included.
      finished: whether it ended by itself.
      reward: its score, such as a `world.Reward`; None if it was not scored.
      prompt_ids, ids: tokens of the prompt and of the response, its end included; empty
        if the response comes from a file.
    """

    text: str
    tokens: int
    finished: bool
    reward: Any = None
    prompt_ids: list[int] = []  # noqa: RUF012, never written to
    ids: list[int] = []  # noqa: RUF012


def sample(
    model: run_models.RunModel,
    prompts: Sequence[Any],
    *,
    length: int,
    temperature: float = 1.0,
    seed: int = 0,
    score: Callable[..., Any] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Response]:
    """One response to every prompt; prompt i has a random stream of its own.

    The same prompts with the same seed give the same responses, whatever the batches.

    Args:
      model: a model that generates text.
      prompts: objects with `turns`, such as `world.Prompt`.
      length: most tokens of a response.
      temperature: 0 is greedy; equal prompts are then answered once.
      seed: of all of it.
      score: `(prompt, text, *, finished) -> reward`; None for no rewards.
      progress: called with the number of prompts that are answered, now and then.

    Raises:
      ConfigError: a prompt that, with a response, is longer than the model's context.
    """
    rows = [tuple(model.format.prompt(prompt.turns)) for prompt in prompts]
    seeds = np.random.default_rng(seed).integers(1 << 32, size=len(rows)).tolist()
    if temperature == 0:
        seeds = [0] * len(rows)
    keys = list(zip(rows, seeds, strict=True))
    # Long prompts last: batches then differ little in length.
    queue = sorted(dict.fromkeys(keys), key=lambda key: (len(key[0]), key))
    completions: dict[Any, Any] = {}
    for start in range(0, len(queue), BATCH):
        batch = queue[start : start + BATCH]
        completed = sampling.generate(
            *(model.run.model, model.params, model.run.tokenizer),
            [list(row) for row, _ in batch],
            seeds=[row_seed for _, row_seed in batch],
            max_tokens=length,
            temperature=temperature,
            stop_ids=model.format.stop,
            batch_size=BATCH,
        )
        completions |= dict(zip(batch, completed, strict=True))
        progress(sum(key in completions for key in keys))
    responses = []
    for prompt, key in zip(prompts, keys, strict=True):
        prompt_ids, ids = completions[key].prompt_ids, completions[key].ids
        finished = completions[key].finish_reason != "length"
        text = model.format.text(ids[:-1] if finished else ids)
        reward = score and score(prompt, text, finished=finished)
        responses.append(Response(text, len(ids), finished, reward, prompt_ids, ids))
    return responses


def to_json(response: Response) -> dict[str, Any]:
    """The fields of a response in the file of results."""
    fields = {name: getattr(response, name) for name in ("text", "tokens", "finished")}
    return fields | {"gold": response.reward.total, "tag": response.reward.tag}


def from_json(
    prompt: world.Prompt, fields: Mapping[str, Any], score=world.gold_reward
) -> Response:
    """The response to `prompt` that `to_json` wrote, scored again."""
    text, finished = fields["text"], fields["finished"]
    reward = score(prompt, text, finished=finished)
    return Response(text, fields["tokens"], finished, reward)

# SPDX-License-Identifier: Apache-2.0
"""A model's answers to prompts of the world, and what they are truly worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import sampling, world
from alignjax.world.assessment import formats

# Rows that are drawn at one time; all batches but the last one have as many.
BATCH = 128


class Answer(NamedTuple):
    """What a model said, and what that is worth.

    Attributes:
      text: of the reply.
      tokens: that it wrote, with the one that ended the reply.
      finished: whether it ended by itself.
      reward: `world.gold_reward` of it.
      prompt_ids, ids: as the model read and wrote them, what ended it included; empty
        where the answer comes from a file.
    """

    text: str
    tokens: int
    finished: bool
    reward: world.Reward
    prompt_ids: list[int] = []  # noqa: RUF012, never written to
    ids: list[int] = []  # noqa: RUF012


def answer(
    run: Any,
    params: Any,
    form: formats.Format,
    asked: Sequence[world.Prompt],
    *,
    length: int,
    temperature: float = 1.0,
    seed: int = 0,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """One answer to every prompt; prompt i is answered with a randomness of its own.

    The same prompts with the same seed give the same answers, whatever the batches.

    Args:
      run: an opened run: its model and tokenizer.
      params: its parameters, on the device.
      form: how it reads dialogues.
      asked: the prompts.
      length: tokens of an answer at most.
      temperature: 0 is greedy; equal prompts are then answered once.
      seed: of all of it.
      tell: called with the number of prompts that are answered, now and then.

    Raises:
      ConfigError: a prompt that, with an answer, is longer than the model's context.
    """
    rows = [tuple(form.prompt(prompt.turns)) for prompt in asked]
    seeds = np.random.default_rng(seed).integers(1 << 32, size=len(rows)).tolist()
    if temperature == 0:
        seeds = [0] * len(rows)
    keys = list(zip(rows, seeds, strict=True))
    # Long prompts last: batches then differ little in length.
    todo = sorted(dict.fromkeys(keys), key=lambda key: (len(key[0]), key))
    said: dict[Any, Any] = {}
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        completions = sampling.generate(
            run.model,
            params,
            run.tokenizer,
            [list(row) for row, _ in batch],
            seeds=[own for _, own in batch],
            max_tokens=length,
            temperature=temperature,
            stop_ids=form.stop,
            batch_size=BATCH,
        )
        said |= dict(zip(batch, completions, strict=True))
        tell(sum(key in said for key in keys))
    return [_judge(form, p, said[key]) for p, key in zip(asked, keys, strict=True)]


def _judge(form: formats.Format, prompt: world.Prompt, completion: Any) -> Answer:
    finished = completion.finish_reason != "length"
    ids = completion.ids
    text = form.text(ids[:-1] if finished else ids)
    reward = world.gold_reward(prompt, text, finished=finished)
    return Answer(text, len(ids), finished, reward, completion.prompt_ids, ids)


def to_json(answer: Answer) -> dict[str, Any]:
    """What is kept of an answer; tag and reward for whoever reads the file."""
    return {
        "text": answer.text,
        "tokens": answer.tokens,
        "finished": answer.finished,
        "gold": answer.reward.total,
        "tag": answer.reward.tag,
    }


def from_json(prompt: world.Prompt, fields: Mapping[str, Any]) -> Answer:
    """The answer to `prompt` that `to_json` wrote, judged again."""
    text, finished = fields["text"], fields["finished"]
    reward = world.gold_reward(prompt, text, finished=finished)
    return Answer(text, fields["tokens"], finished, reward)

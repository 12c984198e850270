# SPDX-License-Identifier: Apache-2.0
"""Keeps the best of several responses to a prompt, as dialogues to fine-tune on.

Best-of-n and RAFT (arXiv:2304.06767) keep the response with the highest reward of each
prompt; rejection sampling, as in ReST (arXiv:2308.08998) and STaR, all whose reward
reaches a threshold. Fine-tuning on them, and again on samples of what that gives, is
expert iteration: a policy gradient whose advantages are 1 and 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors, rewards
from alignjax.data import records
from alignjax.data import sources as data_sources
from alignjax.rollouts import prompts as prompt_streams
from alignjax.world.assessment import run_models


class Prompt(NamedTuple):
    """A prompt to sample from: its turns, and the record that rewards read."""

    turns: tuple[records.Turn, ...]
    record: Any


class Kept(NamedTuple):
    """What became of the prompts.

    Attributes:
      rows: of the file: `messages`, `reward`, and how many responses it was chosen of.
      line: on all of them.
    """

    rows: list[dict[str, Any]]
    line: str


def prompts_of(path: str) -> list[Prompt]:
    """The prompts of a file of JSON lines: `prompt`, or `messages`.

    Its other columns are what rewards read, such as `answer`.

    Raises:
      ConfigError, DataError: no such file, or a row without a prompt.
    """
    options = {"path": path, "format": "alignjax.data.formats:as_it_is"}
    source = data_sources.load("jsonl", options)
    prompts: list[Prompt] = []
    for where, record in source.documents():
        if isinstance(record, records.BadRow):
            raise errors.DataError(f"{where}: {record.reason}")
        try:
            prompts.append(Prompt(prompt_streams.turns_of(record), record))
        except errors.DataError as error:
            raise errors.DataError(f"{where}: {error}") from error
    if not prompts:
        raise errors.DataError(f"prompts: {path} has none")
    return prompts


def reward_of(name: str) -> rewards.Reward:
    """A reward by a word: a kind without options, a run, or a function.

    Args:
      name: such as "world" or "number"; `module:function`, as of the kind "function";
        or the directory of a reward model.

    Raises:
      ConfigError: there is none.
    """
    if name in rewards.KINDS:
        section = {"kind": name}
    elif ":" in name and "/" not in name:
        section = {"kind": "function", "function": name}
    else:
        section = {"kind": "run", "run": name}
    (named,) = rewards.build({"reward": section}, "")
    return named.reward


def keep(
    prompts: Sequence[Prompt],
    responses: Sequence[run_models.Response],
    reward: rewards.Reward,
    *,
    length: int,
    threshold: float | None = None,
) -> Kept:
    """The rows of the responses that are kept.

    Those that did not end or are empty are left out, and so are those without a reward
    and further ones of the same text.

    Args:
      responses: those to one prompt in succession, of all as many.
      length: the most tokens that each could have.
      threshold: the least reward of all that are kept; None keeps the best one of each
        prompt, the first of equal ones.
    """
    K = len(responses) // len(prompts)
    answers = [
        rewards.Answer(
            prompts[i // K].turns,
            prompts[i // K].record,
            response.text,
            response.tokens,
            response.finished,
            length,
        )
        for i, response in enumerate(responses)
    ]
    scored = rewards.score([rewards.Named("reward", 1.0, reward)], answers)
    rows, without, every, kept = [], 0, [], []
    for n, prompt in enumerate(prompts):
        candidates: dict[str, float] = {}
        for i in range(n * K, n * K + K):
            value, answer = scored.total[i], answers[i]
            if value is not None:
                every.append(value)
            if value is not None and answer.finished and answer.text.strip():
                candidates.setdefault(answer.text, value)
        best = sorted(candidates.items(), key=lambda pair: -pair[1])
        chosen = (
            best[:1]
            if threshold is None
            else [(text, value) for text, value in best if value >= threshold]
        )
        without += not chosen
        kept += [value for _, value in chosen]
        rows += [_row(prompt, text, value, K) for text, value in chosen]
    line = f"{len(rows):,} responses to {len(prompts):,} prompts, of {K} each"
    line += f"; {without:,} prompts have none"
    if rows:
        mean = lambda values: sum(values) / len(values)
        line += f"; mean reward {mean(kept):.3f}, of all sampled {mean(every):.3f}"
    return Kept(rows, "; ".join([line, *scored.faults]))


def _row(prompt: Prompt, text: str, reward: float, count: int) -> Mapping[str, Any]:
    turns = (*prompt.turns, (records.ASSISTANT, text))
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"messages": messages, "reward": round(reward, 6), "best_of": count}

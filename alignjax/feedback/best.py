# SPDX-License-Identifier: Apache-2.0
"""Keeps the best of several responses to a prompt, as dialogues to fine-tune on.

Best-of-n and RAFT (arXiv:2304.06767) keep the response with the highest reward of each
prompt; rejection sampling, as in ReST (arXiv:2308.08998) and STaR, all whose reward
reaches a threshold. Fine-tuning on them, and again on samples of what that gives, is
expert iteration: a policy gradient whose advantages are 1 and 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors, rewards
from alignjax.data import formats, records
from alignjax.data import sources as data_sources
from alignjax.rollouts import prompts as prompt_streams
from alignjax.world.assessment import run_models

Encode = Callable[[Sequence[records.Turn]], Sequence[int]]


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


def prompts_of(path: str, encode: Encode, room: int) -> list[Prompt]:
    """The prompts of a file of JSON lines: `prompt`, or `messages`.

    Its other columns are what rewards read, such as `answer`.

    Raises:
      ConfigError, DataError: no such file or no prompts, or as `checked`.
    """
    options = {"path": path, "format": "alignjax.data.formats:as_it_is"}
    source = data_sources.load("jsonl", options)
    prompts = checked(source.documents(), encode, room)
    if not prompts:
        raise errors.DataError(f"prompts: {path} has none")
    return prompts


def checked(
    documents: Iterable[tuple[str, Any]], encode: Encode, room: int
) -> list[Prompt]:
    """The prompts of records, each with its place, before anything is sampled.

    Args:
      encode: `(turns) -> ids`, as the model reads a prompt.
      room: the most tokens of one.

    Raises:
      DataError: records that are no prompt, or one that the model cannot be given or
        that is too long; all of them at once.
    """
    faults = records.Faults("error", "mend them, or leave them out")
    prompts: list[Prompt] = []
    for where, record in documents:
        try:
            prompts.append(_prompt(record, encode, room))
        except (errors.AlignError, ValueError) as error:
            faults.add(where, str(error))
    faults.check()
    return prompts


def _prompt(record: Any, encode: Encode, room: int) -> Prompt:
    if isinstance(record, records.BadRow):
        raise errors.DataError(record.reason)
    for name in formats.OF_TEMPLATE if isinstance(record, Mapping) else ():
        if record.get(name):
            raise errors.DataError(
                f"field {name!r}: responses are sampled without it; drop it"
            )
    turns = prompt_streams.turns_of(record)
    if not (tokens := len(encode(turns))):
        raise errors.DataError("a prompt without tokens")
    if tokens > room:
        raise errors.DataError(
            f"{tokens} tokens, and the model's context leaves a prompt {room} beside "
            "max_tokens; lower that, or shorten the prompt"
        )
    return Prompt(turns, record)


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
    to_score = [
        rewards.Response(
            prompts[i // K].turns,
            prompts[i // K].record,
            response.text,
            response.tokens,
            response.finished,
            length,
        )
        for i, response in enumerate(responses)
    ]
    scored = rewards.score([rewards.Named("reward", 1.0, reward)], to_score)
    rows, without, every, kept = [], 0, [], []
    for n, prompt in enumerate(prompts):
        candidates: dict[str, float] = {}
        for i in range(n * K, n * K + K):
            value, response = scored.total[i], to_score[i]
            if value is not None:
                every.append(value)
            if value is not None and response.finished and response.text.strip():
                candidates.setdefault(response.text, value)
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

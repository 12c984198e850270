# SPDX-License-Identifier: Apache-2.0
"""Rewards of responses: what a policy is trained to raise, and what is only watched.

A reward is `(responses) -> scores`, a function of its input alone. To add one, write a
module with `make(**options) -> Reward` and list it in `KINDS`, or name a function of
that signature anywhere as `kind = "module:function"`. A reward may have attributes:
`reads_text` is False where it needs no decoded text, `among` True where it compares the
responses to a prompt, and `provenance` is JSON that a checkpoint is of. A response
whose score is None is left out of all that is learned, and counted; it never counts 0.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import config, errors

KINDS = {
    "boxed": "alignjax.rewards.boxed",
    "format": "alignjax.rewards.format",
    "function": "alignjax.rewards.function",
    "judge": "alignjax.judges.rewards",
    "length": "alignjax.rewards.length",
    "number": "alignjax.rewards.number",
    "repetition": "alignjax.rewards.repetition",
    "run": "alignjax.rewards.run",
    "world": "alignjax.world.rewards",
}


TAKEN = "the deviation of the sum of rewards is logged as this; choose another name"
NO_CLIP = (
    "of no effect where the weight is 0, as what is logged is not bounded; drop it"
)


class Response(NamedTuple):
    """A response to a prompt.

    Attributes:
      turns: of the prompt, `(role, text)`.
      record: of the prompt, as its source has it.
      text: of the response, without the token that ended it.
      length: its tokens, that one included.
      finished: whether it ended by itself.
      room: the most tokens that it could have.
    """

    turns: tuple[tuple[str, str], ...]
    record: Any
    text: str
    length: int
    finished: bool
    room: int


class Score(NamedTuple):
    """The score of a response.

    Attributes:
      value: None leaves the response out of all that is learned.
      fault: why there is none, or what failed although there is one; else empty.
    """

    value: float | None
    fault: str = ""


Reward = Callable[[Sequence[Response]], Sequence[Score | float | None]]


class Named(NamedTuple):
    """A reward of a config: its name there, what it adds, and the function.

    Attributes:
      clip: what it adds is `weight` times its score from -clip to clip; None is as it
        is. What is logged is the score itself.
      outside: whether it is of a module that is not ours, which may fail in any way.
    """

    name: str
    weight: float
    reward: Reward
    clip: float | None = None
    outside: bool = False

    @property
    def provenance(self) -> Mapping[str, Any] | None:
        """What decides its scores beyond the config, JSON, where it says so."""
        return getattr(self.reward, "provenance", None)

    @property
    def among(self) -> bool:
        """Whether it compares responses to one prompt, so that one alone has none."""
        return getattr(self.reward, "among", False)

    @property
    def reads_text(self) -> bool:
        """Whether it reads what a response says, which is decoded for it alone."""
        return getattr(self.reward, "reads_text", True)

    @property
    def overlong(self) -> int:
        """Tokens before the end of the room in which it has a penalty; see `length`."""
        return getattr(self.reward, "overlong", 0)

    def added(self, value: float) -> float:
        """What a score adds to the sum of rewards."""
        if self.clip is not None:
            value = min(self.clip, max(-self.clip, value))
        return self.weight * value


def build(sections: Mapping[str, Mapping[str, Any]], path: str) -> tuple[Named, ...]:
    """The rewards of a section `{name: {"kind": ..., "weight": 1.0, option: value}}`.

    A weight of 0 only watches: the reward is logged, and adds nothing. `clip`, of any
    kind, bounds what is added; see `Named`.

    Raises:
      ConfigError: no reward, one that is unknown, or options that it does not take.
    """
    problems, rewards = [], []
    for name, section in sections.items():
        where = f"{path}.{name}" if path else name
        if not hasattr(section, "items"):
            problems.append(f"{where}: {section!r:.40} is no section with a kind")
            continue
        options = {k: v for k, v in section.items() if v is not None}
        kind, weight = options.pop("kind", None), options.pop("weight", 1.0)
        clip = options.pop("clip", None)
        if name == "std":
            problems.append(f"{where}: {TAKEN}")
        if clip is not None and weight == 0:
            problems.append(f"{where}.clip: {NO_CLIP}")
        try:
            make = config.of_kind(KINDS, kind, "make", "reward")
            reward, weight = config.call(make, options, ""), _weight(weight)
            clip = None if clip is None else _clip(clip)
            if not callable(reward):
                text = f"kind: {kind} returns {reward!r:.60}, where a reward is made"
                raise errors.ConfigError(text)
            rewards.append(Named(name, weight, reward, clip, ":" in kind))
        except errors.ConfigError as error:
            problems += [f"{where}.{problem}" for problem in error.problems]
            if ":" in str(kind) and any(": required" in p for p in error.problems):
                problems.append(
                    f"{where}.kind: {kind} makes a reward of its options; a function "
                    f'of prompt, response and record is kind="function", '
                    f'function="{kind}"'
                )
    if not problems and not any(reward.weight for reward in rewards):
        problems.append(f"{path}: name at least one reward whose weight is not 0")
    if problems:
        raise errors.ConfigError(problems)
    return tuple(rewards)


def _weight(weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise errors.ConfigError(f"weight: {weight!r:.40} is not a number")
    if not math.isfinite(number := _as_float(weight)):
        raise errors.ConfigError(f"weight: {number} is not finite")
    return number


def _clip(clip: Any) -> float:
    positive = not isinstance(clip, bool) and isinstance(clip, (int, float))
    number = _as_float(clip) if positive else math.nan
    if not 0 < number < math.inf:
        shown = number if positive else clip
        raise errors.ConfigError(f"clip: {shown!r:.40} is no positive number")
    return number


def _as_float(number: float) -> float:
    """An integer beyond all floats is infinite, as a float of the file would be."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


class Scored(NamedTuple):
    """The rewards of some responses.

    Attributes:
      total: the weighted sum of each; None where a reward with a weight has none.
      parts: by the names of rewards, the values of each; None where there is none.
      faults: why some have none, the first of each reward.
    """

    total: list[float | None]
    parts: dict[str, list[float | None]]
    faults: list[str]


def score(rewards: Sequence[Named], responses: Sequence[Response]) -> Scored:
    """All rewards of all responses.

    Raises:
      DataError: a reward that returns another number of scores than it was given
        responses, or something that is no number; that fails, where it is not ours; or
        that wants to end the process, which would pass for the end of training.
    """
    parts, faults = {}, []
    total: list[float | None] = [0.0] * len(responses)
    for named in rewards:
        name, weight = named.name, named.weight
        try:
            scores = named.reward(responses)
        except (errors.ConfigError, errors.DataError) as error:
            raise type(error)(f"rewards.{name}: {error}") from error
        except SystemExit as error:
            raise errors.DataError(
                f"rewards.{name}: it called exit({error.code}); raise an error, or "
                "return None for responses without a score"
            ) from error
        except Exception as error:
            if not named.outside:
                raise
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise errors.DataError(
                f"rewards.{name}: {type(error).__name__}: {error} "
                f"({frame.filename}:{frame.lineno}); return None for responses without "
                "a score"
            ) from error
        listed = isinstance(scores, Iterable) and getattr(scores, "ndim", 1) > 0
        if isinstance(scores, Mapping | str) or not listed:
            kind = type(scores).__name__
            raise errors.DataError(f"rewards.{name}: {kind}, where scores are a list")
        if len(scores := list(scores)) != len(responses):
            raise errors.DataError(
                f"rewards.{name}: {len(scores)} scores of {len(responses)} responses; "
                "return one for each"
            )
        values = [_value(name, x) for x in scores]
        parts[name] = values
        for i, value in enumerate(values):
            if value is None and weight:
                total[i] = None
            elif total[i] is not None and weight:
                total[i] += named.added(value)
        if first := next((s for s in scores if getattr(s, "fault", "")), None):
            missing = sum(value is None for value in values)
            state = f"{missing} without a score" if missing else "scored in part"
            faults.append(f"rewards.{name}: {state}: {first.fault}")
    return Scored(total, parts, faults)


def _value(name: str, x: Any) -> float | None:
    value = x.value if isinstance(x, Score) else x
    if value is None:
        return None
    try:
        if isinstance(value, (str, bytes)):  # of which float() reads some
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise errors.DataError(
            f"rewards.{name}: {value!r:.40} is no score; return a number or None"
        ) from None
    return number if math.isfinite(number) else None

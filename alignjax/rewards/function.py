# SPDX-License-Identifier: Apache-2.0
"""A Python function as a reward, in a process of its own whose time is bounded.

    c.rollouts.rewards.polite = dict(kind="function", function="my_module:my_reward")

`my_reward(prompt, response, record) -> number` has the prompt as a list of messages,
the text of the response, and the row of the prompt's source as JSON (None where that
is no row). An exception, a number that is not finite, a process that exits and a call
that takes too long leave the response without a score, and so does a None.

Python's own calls can write, empty and remove no file there, neither a temporary one
nor a cache; what is printed is lost. The process has 4 GiB of address space, of which
some libraries reserve more than they use.
"""

from __future__ import annotations

import functools
import inspect
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignjax import config, errors, registry, rewards, workers
from alignjax.bounds import Seconds, Share


def make(
    function: str, seconds: Seconds = 10.0, most_failed: Share = 0.5
) -> rewards.Reward:
    """The reward that a function `module:function` computes.

    Args:
      function: see above.
      seconds: for one response, from when the call begins.
      most_failed: the share of a rollout's responses that may be without a score.

    The reward raises DataError where more of them have no score.

    Raises:
      ConfigError: there is no such function, or it takes other arguments.
    """
    _check_arguments(config.find(registry.Registry("function"), function, "function"))
    limits = workers.Limits(
        cpu_seconds=int(seconds) + 30,  # the import of its modules included
        wall_seconds=float(seconds) + 60.0,
        memory_bytes=4 << 30,
    )
    worker = workers.Worker("alignjax.rewards.function:call", limits)

    def one(response: rewards.Response) -> rewards.Score:
        record = response.record if isinstance(response.record, Mapping) else None
        prompt = [{"role": role, "content": text} for role, text in response.turns]
        request = [function, prompt, response.text, record, float(seconds)]
        try:
            return rewards.Score(*worker.call(request))
        except (workers.WorkerError, TypeError) as error:
            return rewards.Score(None, str(error))

    def reward(responses: Sequence[rewards.Response]) -> list[rewards.Score]:
        scores, faults = [], []
        for response in responses:
            scores.append(score := one(response))
            faults += [score.fault] if score.value is None else []
            if len(faults) > most_failed * len(responses):  # the rest may hang as long
                raise errors.DataError(
                    f"{function}: {len(faults)} of the first {len(scores)} responses "
                    f"have no score, more than most_failed = {most_failed} allows of "
                    f"{len(responses)}; the first: {faults[0]}"
                )
        return scores

    return reward


def _check_arguments(function: Callable) -> None:
    try:
        inspect.signature(function).bind("prompt", "response", "record")
    except TypeError as error:
        raise errors.ConfigError(
            f"function: {function.__name__}{inspect.signature(function)}: {error}; "
            "a reward takes prompt, response and record. A function that makes a "
            'reward of its options is named in kind="module:function"'
        ) from error
    except ValueError:
        pass  # some that are not written in Python do not tell


def call(request: Sequence[Any]) -> tuple[float | None, str]:
    """What a worker does: [function, prompt, response, record, seconds] to a score."""
    function, prompt, response, record, seconds = request

    def late(*_):
        raise TimeoutError(f"more than {seconds:g} s")

    signal.signal(signal.SIGALRM, late)  # a worker's main thread is its only one
    try:
        function = _find(function)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        value = function(prompt, response, record)
        if value is None:
            return None, "it returned None"
        if isinstance(value, (str, bytes)):  # of which float() reads some
            return None, f"{value!r:.40} is a text, not a number"
        value = float(value)
    except SystemExit as error:
        return None, f"it called exit({error.code})"[:200]
    except BaseException as error:  # whatever it is, the process can go on
        return None, f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if value != value or value in (float("inf"), float("-inf")):
        return None, f"{value} is not finite"
    return value, ""


@functools.cache
def _find(name: str):
    return registry.Registry("function").find(name)

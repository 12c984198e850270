# SPDX-License-Identifier: Apache-2.0
"""The text of a response, and the stop strings in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

# What decoders write for bytes that are not UTF-8, or not yet.
UNDECODED = "\ufffd"

# Tokens of the prompt that are decoded along: more than a character can be split into.
CONTEXT = 8


def of_response(
    decode: Callable[[Sequence[int]], str], prompt: Sequence[int], ids: Sequence[int]
) -> str:
    """The text that `ids` add to that of the prompt.

    Decoded together with the prompt's end, since some decoders drop a space that
    comes first and since a character may begin in the prompt.
    """
    context = list(prompt[-CONTEXT:])
    before = decode(context)
    after = decode([*context, *ids])
    length = min(len(before), len(after))
    differs = (i for i in range(length) if before[i] != after[i])
    return after[next(differs, length) :]


class StopMatch(NamedTuple):
    """A stop string in a response.

    Attributes:
      stop: the stop string.
      text: the text before it.
      count: tokens up to and with the one that completed it.
    """

    stop: str
    text: str
    count: int


def find_stop(
    text_of: Callable[[int], str], seen: int, total: int, stops: Sequence[str]
) -> StopMatch | None:
    """The stop string that is complete first; of several at once, the leftmost.

    Args:
      text_of: the text of the first n tokens; each extends those of smaller n, but for
        characters that are not complete yet.
      seen: tokens that are known to hold no stop string, of `total` that there are.
    """
    has = lambda count: _leftmost(text_of(count), stops) is not None
    if not stops or total <= seen or not has(total):
        return None
    while seen + 1 < total:  # none in `seen`, one in `total`: halve what is between
        middle = (seen + total) // 2
        seen, total = (seen, middle) if has(middle) else (middle, total)
    text = text_of(total)
    start, stop = _leftmost(text, stops)
    return StopMatch(stop, text[:start], total)


def _leftmost(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Where the first stop string begins; of two at one place, the longer."""
    places = [(text.find(stop), -len(stop), stop) for stop in stops]
    places = sorted(place for place in places if place[0] >= 0)
    return (places[0][0], places[0][2]) if places else None


def settled(text: str, stops: Sequence[str]) -> str:
    """The part of an unfinished text that no further token can change or cut off."""
    text = text.rstrip(UNDECODED)
    longest = max(map(len, stops), default=0)
    for start in range(max(0, len(text) - longest + 1), len(text)):
        if any(stop.startswith(text[start:]) for stop in stops):
            return text[:start]
    return text

# SPDX-License-Identifier: Apache-2.0
"""Chat templates in Jinja, rendered as transformers renders them, and bounded.

The names and filters are those of `transformers.utils.chat_template_utils`. What is not
the same from day to day or draw to draw is fixed: the date is `DAY`, unless told, and
there is no filter `random`. `sandbox` says what keeps a template in its place.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors

# What strftime_now tells, so that the same rows are the same tokens on any day. It is
# the date that Llama 3.1's template writes where it is told none.
DAY = datetime.datetime(2024, 7, 26)

TAG = re.compile(r"{%[-+]?\s*generation\s*[-+]?%}")


class Rendered(NamedTuple):
    """A text, and where in it the blocks `{% generation %}` are: (start, stop)."""

    text: str
    spans: tuple[tuple[int, int], ...]


def tracks(source: str) -> bool:
    """Whether the template says itself what a model generates."""
    return bool(TAG.search(source))


def check(source: str) -> None:
    """Raises ConfigError if this is not a template, or jinja2 is not installed."""
    _compiled(source)


def render(
    source: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    names: Mapping[str, Any] | None = None,
    now: datetime.datetime | None = None,
) -> Rendered:
    """The messages as the template writes them.

    Args:
      messages: `{"role": ..., "content": ..., ...}`; fields that are None are left out.
      prompt: whether the assistant is to speak next, `add_generation_prompt`.
      tools: JSON schemas of functions.
      names: further variables, such as `bos_token`.
      now: what `strftime_now` tells; None for `DAY`.

    Raises:
      ConfigError: as `check` does.
      DataError: it refuses the messages, leaves the sandbox, does too much, or fails.
    """
    template, sandbox = _compiled(source), _sandbox()
    variables = {
        **(names or {}),
        "messages": [
            {name: value for name, value in message.items() if value is not None}
            for message in messages
        ],
        "tools": tools,
        "documents": None,
        "add_generation_prompt": prompt,
    }
    said = _characters([messages, tools])
    counted = sandbox.counted(now or DAY, len(messages), said)
    with counted as state, _told(sandbox):
        text = "".join(map(state.write, template.generate(**variables)))
    for start, said in state.generated:
        if not text.startswith(said, start):
            raise errors.DataError(
                "the template has {% generation %} inside of a macro or a set block, "
                "so where it is in the text cannot be told; take it out of there"
            )
    return Rendered(text, tuple((s, s + len(said)) for s, said in state.generated))


def _characters(value: Any) -> int:
    """How many are in all texts of a JSON value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return _characters([*value, *value.values()])
    return sum(map(_characters, value)) if isinstance(value, (list, tuple)) else 0


@contextlib.contextmanager
def _told(sandbox) -> Iterator[None]:
    """Says what went wrong in a template."""
    known = sandbox.jinja2.exceptions
    try:
        yield
    except known.SecurityError as error:
        raise errors.DataError(
            f"the template does what none may do, and was stopped: {error}"
        ) from error
    except (sandbox.Excess, MemoryError, RecursionError, OverflowError) as error:
        raise errors.DataError(
            f"the template does not end, or does too much, and was stopped: {error}"
        ) from error
    except known.UndefinedError as error:
        raise errors.DataError(
            f"the template asks for what is not there: {error}"
        ) from error
    except known.TemplateError as error:
        raise errors.DataError(f"the template refuses it: {error}") from error
    except Exception as error:  # a template may raise whatever Python does
        raise errors.DataError(
            f"the template fails: {type(error).__name__}: {error}"
        ) from error


@functools.lru_cache(maxsize=64)
def _compiled(source: str):
    sandbox = _sandbox()
    try:
        with sandbox.counted(DAY):  # constants are worked out here already
            sandbox.check_size(len(source))
            return _environment().from_string(source)
    except sandbox.jinja2.exceptions.TemplateSyntaxError as error:
        raise errors.ConfigError(
            f"data.chat: no Jinja template: line {error.lineno}: {error.message}"
        ) from error
    except Exception as error:  # such as too deep a nesting
        raise errors.ConfigError(
            f"data.chat: the template cannot be read: {type(error).__name__}: {error}"
        ) from error


@functools.cache
def _environment():
    return _sandbox().environment()


def _sandbox():
    try:
        from alignjax.data.chat import sandbox
    except ImportError as error:
        raise errors.ConfigError(
            "data.chat: templates need the extra hf: pip install alignjax[hf]"
        ) from error
    return sandbox

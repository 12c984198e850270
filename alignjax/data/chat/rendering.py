# SPDX-License-Identifier: Apache-2.0
"""Chat templates in Jinja, rendered as transformers renders them.

The names and filters are those of `transformers.utils.chat_template_utils`. What is not
the same from day to day or draw to draw is fixed: the date is `DAY`, and there is no
filter `random`. A template runs in jinja2's immutable sandbox; one that is not of this
package does so in a worker process, which it cannot leave, nor keep busy for long.
"""

from __future__ import annotations

import contextvars
import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes

from alignjax import errors, workers

# What strftime_now returns, so that the same rows are the same tokens on any day. It is
# the date that Llama 3.1's template writes where it gets none.
DAY = datetime.datetime(2024, 7, 26)
TAG = re.compile(r"{%[-+]?\s*generation\s*[-+]?%}")

WORKER = workers.Worker("alignjax.data.chat.rendering:answer")


class Dialogue(NamedTuple):
    """What a template is given.

    Attributes:
      source: the template.
      messages: `{"role": ..., "content": ..., ...}`; fields that are None are left out.
      prompt: whether the assistant is to speak next, `add_generation_prompt`.
      tools: JSON schemas of functions.
      variables: further ones of the template.
    """

    source: str
    messages: Sequence[Mapping[str, Any]]
    prompt: bool = False
    tools: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] | None = None


class Rendered(NamedTuple):
    """A text, and where in it the blocks `{% generation %}` are: (start, stop)."""

    text: str
    spans: tuple[tuple[int, int], ...]


def marks_replies(source: str) -> bool:
    """Whether the template has `{% generation %}` around replies."""
    return bool(TAG.search(source))


def render(
    dialogues: Sequence[Dialogue],
    names: Mapping[str, Any] | None = None,
    *,
    trusted: bool = False,
    now: datetime.datetime = DAY,
    worker: workers.Worker = WORKER,
) -> list[Rendered]:
    """Each dialogue as its template writes it.

    Args:
      names: further variables of the templates, such as `bos_token`.
      trusted: whether the templates are this package's own, and need no worker.
      now: what `strftime_now` returns.
      worker: where other templates are rendered.

    Raises:
      ConfigError: one is no template, or uses more time or memory than it may.
      DataError: a template refuses messages, leaves the sandbox, or fails.
    """
    sources = list(dict.fromkeys(dialogue.source for dialogue in dialogues))
    request = {
        "sources": sources,
        "dialogues": [
            [
                sources.index(source),
                [{k: v for k, v in m.items() if v is not None} for m in messages],
                prompt,
                None if tools is None else list(tools),
                dict(variables or {}),
            ]
            for source, messages, prompt, tools, variables in dialogues
        ],
        "names": dict(names or {}),
        "now": now.isoformat(),
    }
    try:
        result = answer(request) if trusted else worker.call(request)
    except TypeError as error:
        raise errors.DataError(f"messages or tools are not JSON: {error}") from error
    except workers.WorkerError as error:
        raise errors.ConfigError(
            f"data.chat: the template {sources[0]!r:.60} was stopped: {error}; mend "
            "it, or take another"
        ) from error
    if "config" in result:
        raise errors.ConfigError(f"data.chat: {result['config']}")
    if "data" in result:
        raise errors.DataError(result["data"])
    return [Rendered(text, tuple(map(tuple, spans))) for text, spans in result["texts"]]


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """`render` on the worker's side, of JSON.

    Returns:
      `{"texts": [[text, spans], ...]}`; or `{"config": reason}` for a source that is no
      template, or `{"data": reason}` for a dialogue that cannot be rendered.
    """
    try:
        templates = [_compiled(source) for source in request["sources"]]
    except jinja2.TemplateSyntaxError as error:
        return {"config": f"no Jinja template: line {error.lineno}: {error.message}"}
    except Exception as error:  # such as too deep a nesting
        return {"config": f"the template cannot be read: {_named(error)}"}
    now = datetime.datetime.fromisoformat(request["now"])
    texts = []
    for which, messages, prompt, tools, own in request["dialogues"]:
        variables = {
            **request["names"],
            **own,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": prompt,
            "strftime_now": now.strftime,
        }
        try:
            texts.append(_rendered(templates[which], variables))
        except Exception as error:  # a template may raise whatever Python does
            return {"data": _fault(error)}
    return {"texts": texts}


def _rendered(template: jinja2.Template, variables: Mapping[str, Any]):
    """[the text, the spans of `{% generation %}`]."""
    output = _Output()
    token = _OUTPUT.set(output)
    try:
        for block in template.generate(variables):
            output.blocks.append(block)
            output.size += len(block)
    finally:
        _OUTPUT.reset(token)
    text = "".join(output.blocks)
    if not all(text.startswith(reply, at) for at, reply in output.generated):
        raise jinja2.TemplateError(
            "{% generation %} is inside of a macro or a set block, so where it is in "
            "the text cannot be known; take it out of there"
        )
    return [text, [[at, at + len(reply)] for at, reply in output.generated]]


def _fault(error: Exception) -> str:
    if isinstance(error, jinja2.sandbox.SecurityError):
        return f"the template does what none may do, and was stopped: {error}"
    if isinstance(error, (MemoryError, RecursionError, OverflowError)):
        return f"the template does too much, and was stopped: {_named(error)}"
    if isinstance(error, jinja2.UndefinedError):
        return f"the template needs what is not there: {error}"
    if isinstance(error, jinja2.TemplateError):
        return f"the template refuses it: {error}"
    return f"the template fails: {_named(error)}"


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _Output:
    """What a template has written so far; `generated` are (start, text) of blocks."""

    def __init__(self):
        self.blocks: list[str] = []
        self.size = 0
        self.generated: list[tuple[int, str]] = []


_OUTPUT: contextvars.ContextVar[_Output] = contextvars.ContextVar("output")


class _Generation(jinja2.ext.Extension):
    """The tag `{% generation %}`, around what a model writes, as a call of a block."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_written", [])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _written(self, caller) -> str:
        output, text = _OUTPUT.get(), caller()
        output.generated.append((output.size, text))
        return text


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    return _environment().from_string(source)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    # Not the same from one rendering to the next, and a text generator.
    del environment.filters["random"], environment.globals["lipsum"]
    return environment


def _raise_exception(message):
    raise jinja2.TemplateError(message)


def _tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """Jinja's own escapes HTML."""
    options = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(x, ensure_ascii=ensure_ascii, **options)

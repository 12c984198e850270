# SPDX-License-Identifier: Apache-2.0
"""Dialogues to tokens by a chat template, and which of them are trained on.

The text that a template writes is tokenised as a whole, as in transformers. A reply is
what the template's `{% generation %}` blocks say. Where it has none, a reply is what is
there beyond the rendering of all before it, which has to be a beginning of the whole
(the prefix property): else a model would be trained on prompts that it never gets.

A reply ends with one token that ends a turn, and nothing after it counts: a template
may write a new line there, but nobody asks the model for it. A token that is partly of
a reply counts, as in transformers; few templates leave room for one, since control
tokens or new lines stand between turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data import records
from alignjax.data.chat import rendering, special_tokens, templates
from alignjax.data.tokenizers import base
from alignjax.data.tokens import tokenizing

ROLES = ("system", "developer", "user", "assistant", "tool")
ANSWERED = ("user", "tool")  # whom the assistant answers
ASKED, SAID = "what does alignjax ask", "so alignjax replies"
PROBES = (
    ((records.USER, ASKED),),
    (("system", "alignjax begins"), (records.USER, ASKED)),
)
REASONING = ("reasoning_content", "thinking", "reasoning")


class Template(NamedTuple):
    """A template as one tokenizer writes it.

    Attributes:
      tok: the tokenizer.
      source: the template.
      with_tools: that of dialogues with tools; mostly the same.
      stop_ids: tokens that end a turn of the assistant: the one that the template
        writes, then those that the tokenizer knows.
      before: what a template writes before all that the assistant says.
      probe: turns that it writes, the last one the user's.
    """

    tok: base.Tokenizer
    source: str
    with_tools: str
    stop_ids: tuple[int, ...]
    before: str
    probe: tuple[records.Turn, ...]


def find(tok: base.Tokenizer, format: str) -> Template:
    """The template of a format.

    Raises:
      ConfigError: there is none, it cannot be rendered, or its replies do not end in a
        token of their own.
    """
    source = templates.find(tok, format)
    known = special_tokens.marks(tok)
    if missing := [n for n in templates.NEEDED.get(format, ()) if n not in known]:
        raise errors.ConfigError(
            f"data.chat: {format!r} needs {', '.join(missing)}, which the tokenizer "
            'does not have as special tokens; say another, such as "tokenizer"'
        )
    made = Template(tok, source, templates.find(tok, format, tools=True), (), "", ())
    rendering.check(source)
    faults = []
    for probe in PROBES:
        try:
            whole = render(made, [*probe, (records.ASSISTANT, SAID)]).text
            prompt = render(made, probe, prompt=True).text
            break
        except errors.DataError as error:
            faults.append(str(error))
    else:
        raise errors.ConfigError(
            f"data.chat: {format!r} cannot write a question and a reply: {faults[0]}"
        )
    at = whole.rfind(SAID)
    if at < 0:
        raise errors.ConfigError(
            f"data.chat: {format!r} does not write what the assistant says"
        )
    after = whole[at + len(SAID) :]
    end = _end_of_turn(tok, special_tokens.encode(tok, [after])[0].ids.tolist())
    if end is None:
        raise errors.ConfigError(
            f"data.chat: {format!r} ends a reply with {after!r}, where the tokenizer "
            "has no special token, so a model would not learn to stop; use the "
            "tokenizer that it was made for, or a template that ends in one of "
            f"{', '.join(special_tokens.marks(tok)) or 'none that it has'}"
        )
    before = whole[len(prompt) : at] if whole.startswith(prompt) else ""
    stop = tuple(dict.fromkeys([end, *tok.stop_ids]))
    return made._replace(stop_ids=stop, before=before, probe=probe)


def _end_of_turn(tok: base.Tokenizer, after: Sequence[int]) -> int | None:
    """The token that ends a turn, of those after a reply.

    It is the first special one, or of several together one that the tokenizer knows to
    end a text.
    """
    special = {*tok.control.values(), *tok.stop_ids}
    inside = itertools.dropwhile(lambda i: i not in special, after)
    run = list(itertools.takewhile(lambda i: i in special, inside))
    return next((i for i in run if i in tok.stop_ids), run[0] if run else None)


def fault(
    turns: Sequence[records.Turn], fields: Sequence[Mapping | None] | None = None
) -> str | None:
    """Why these are no turns, or None; their order is for the template to judge."""
    for i, (role, text) in enumerate(turns, start=1):
        if role not in ROLES:
            return f"turn {i}: unknown role {role!r}; known: {', '.join(ROLES)}"
        silent = text == "" and (role == "tool" or (fields and fields[i - 1]))
        if not silent and (reason := records.fault_of_text(text)):
            return f"turn {i}, {role}: {reason}"
    return None


def tokenize(
    form: Template, chats: Sequence[records.Chat], *, train_on: str, bos: bool
) -> list[tokenizing.Tokens]:
    """Dialogues without a fault; see `chat.tokenize`."""
    rendered = []
    for chat in chats:
        _check_said(form.tok, chat)
        rendered.append(_spans(form, chat, train_on))
    found = special_tokens.encode(form.tok, [text for text, _ in rendered])
    rows = []
    for chat, (_, spans), tokens in zip(chats, rendered, found, strict=True):
        weights = np.zeros(len(tokens.ids))
        for start, stop in spans:
            first, last = _reply(form, tokens, start, stop)
            weights[first:last] = chat.weight
        ids = _started(form.tok, tokens.ids, bos)
        weights = np.concatenate([np.zeros(len(ids) - len(weights)), weights])
        rows.append(tokenizing.Tokens(ids, weights))
    return rows


def prompt_ids(form: Template, turns: Sequence[records.Turn], bos: bool) -> list[int]:
    """The tokens of a prompt, up to where the assistant is to speak."""
    _check_said(form.tok, records.Chat(tuple(turns)))
    text = render(form, turns, prompt=True).text
    return _started(
        form.tok, special_tokens.encode(form.tok, [text])[0].ids, bos
    ).tolist()


def replies(
    form: Template, groups: Sequence[records.Comparison], bos: bool
) -> list[tuple[list[int], list[list[int]]]]:
    """The tokens of prompts, and of each response to them.

    The tokens of a prompt are those that a model gets that is asked. Where a token
    would be partly of the response, the two are tokenised apart.
    """
    texts = []
    for group in groups:
        said = [(records.ASSISTANT, text) for text in group.responses]
        _check_said(form.tok, records.Chat((*group.prompt, *said)))
        prompt = render(form, group.prompt, prompt=True).text
        texts.append([prompt])
        for turn in said:
            whole = render(form, [*group.prompt, turn]).text
            if not whole.startswith(prompt):
                raise errors.DataError(
                    "the template writes the prompt in another way before a reply than "
                    f"without one: {_apart(prompt, whole)}"
                )
            texts[-1].append(whole)
    found = iter(
        special_tokens.encode(form.tok, [text for row in texts for text in row])
    )
    rows = []
    for row in texts:
        prompt = next(found).ids
        rest = [_rest(form, row[0], prompt, text, next(found)) for text in row[1:]]
        rows.append((_started(form.tok, prompt, bos).tolist(), rest))
    return rows


def response_ids(form: Template, text: str) -> list[int]:
    """The tokens of a response, as to a short prompt; the last one ends the turn."""
    return replies(form, [records.Comparison(form.probe, (text,), {})], False)[0][1][0]


def cuts(form: Template, bos: bool) -> tuple[int, tuple[int, ...]]:
    """See `chat.cuts`: the start token stays; a turn begins with a special token."""
    more = "and what then"
    turns = [*form.probe, (records.ASSISTANT, SAID), (records.USER, more)]
    ids = prompt_ids(form, form.probe, bos)
    head = int(bool(ids) and ids[0] == form.tok.bos_id)
    try:
        whole = render(form, turns).text
    except errors.DataError:
        return head, ()
    start, stop = whole.rfind(SAID) + len(SAID), whole.rfind(more)
    between = special_tokens.encode(form.tok, [whole[start:stop]])[0].ids.tolist()
    special = set(form.tok.control.values()) - set(form.stop_ids)
    return head, tuple([i for i in between if i in special][:1])


def text(form: Template, ids: Iterable[int]) -> str:
    """What a response says, up to what ends it, without what begins every response."""
    ids = [int(i) for i in ids]
    at = next((n for n, i in enumerate(ids) if i in form.stop_ids), len(ids))
    return form.tok.decode(ids[:at]).removeprefix(form.before)


def messages(
    turns: Sequence[records.Turn], fields: Sequence[Mapping | None] | None = None
) -> list[dict[str, Any]]:
    """Turns as templates read them; what an assistant thought goes by all its names."""
    found = []
    for i, (role, text) in enumerate(turns):
        message = {"role": role, "content": text, **((fields and fields[i]) or {})}
        thought = next((message[n] for n in REASONING if n in message), None)
        if thought is not None:
            message = {"thinking": thought, **message, "reasoning_content": thought}
        found.append(message)
    return found


def render(
    form: Template,
    turns: Sequence[records.Turn],
    *,
    prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    fields: Sequence[Mapping | None] | None = None,
) -> rendering.Rendered:
    """Turns as the template writes them; see `rendering.render`."""
    return rendering.render(
        form.with_tools if tools else form.source,
        messages(turns, fields),
        prompt=prompt,
        tools=tools,
        names=form.tok.names,
    )


def _spans(form: Template, chat: records.Chat, train_on: str):
    """The text of a dialogue, and where the replies are that count."""
    roles = [role for role, _ in chat.turns]
    mine = [i for i, role in enumerate(roles) if role == records.ASSISTANT]
    learned = chat.learned(train_on)
    known = dict(tools=chat.tools, fields=chat.fields)
    whole = render(form, chat.turns, **known)
    if rendering.tracks(form.with_tools if chat.tools else form.source):
        spans = [span for span in whole.spans if span[0] < span[1]]
        if not spans:
            raise errors.DataError("the template generates nothing of it")
        if train_on == "last" or chat.skipped:
            if len(spans) != len(mine):
                raise errors.DataError(
                    f"the template generates {len(spans)} pieces of {len(mine)} turns "
                    "of the assistant, so which are to be trained on? say "
                    'data.train_on = "all", with no weights of 0'
                )
            spans = [span for i, span in zip(mine, spans, strict=True) if i in learned]
        return whole.text, spans
    spans = []
    for i in learned:
        prompt = render(form, chat.turns[:i], prompt=True, **known).text
        so_far = render(form, chat.turns[: i + 1], **known).text
        so_far = so_far[: _end(form, so_far, len(prompt))]
        for part, what in ((prompt, "before"), (so_far, "with")):
            if not whole.text.startswith(part):
                raise errors.DataError(
                    f"turn {i + 1}: the template writes what is {what} it in another "
                    f"way once more is said: {_apart(part, whole.text)}. Some strip "
                    "earlier thoughts, for instance. A model would learn from what it "
                    'never gets; say data.train_on = "last", or give data.chat a '
                    "template with {% generation %} around what the assistant says"
                )
        if not so_far.startswith(prompt):
            raise errors.DataError(
                f"turn {i + 1}: what the template writes for the assistant to go on "
                f"with is not how it then writes the turn: {_apart(prompt, so_far)}"
            )
        spans.append((len(prompt), len(so_far)))
    return whole.text, spans


def _end(form: Template, text: str, start: int) -> int:
    """Where the first turn ends that is in the text from `start` on."""
    names = [n for n, i in special_tokens.marks(form.tok).items() if i in form.stop_ids]
    places = [(text.find(name, start), len(name)) for name in names]
    found = min(((at, -size) for at, size in places if at >= 0), default=None)
    return len(text) if found is None else found[0] - found[1]


def _apart(part: str, whole: str) -> str:
    """Where two texts part."""
    pairs = zip(part, whole, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(whole))
    start = max(0, at - 20)
    return f"{part[start : at + 30]!r} is then {whole[start : at + 30]!r}"


def _reply(form: Template, tokens: special_tokens.Marked, start: int, stop: int):
    """The tokens of a reply, from its first to the one that ends it.

    That is the last in it which ends a turn, or the token after it, where a template
    generates the text only; or else the last special token, as some templates end
    earlier turns in another way.
    """
    first, last = tokens.between(start, stop)
    ids = tokens.ids.tolist()
    ends = [i for i in range(first, last) if ids[i] in form.stop_ids]
    if not ends and first < last < len(ids) and ids[last] in form.stop_ids:
        ends = [last]
    known = form.stop_ids if ends else {*form.tok.control.values()}
    if ends := ends or [i for i in range(first, last) if ids[i] in known]:
        at = ends[-1]
        while at > first and ids[at - 1] in known:
            at -= 1
        return first, at + 1
    raise errors.DataError(
        "the template writes a reply without a token that ends the turn, so a model "
        "would not learn to stop"
    )


def _rest(
    form, prompt: str, before, whole: str, tokens: special_tokens.Marked
) -> list[int]:
    """The tokens of a response beyond those of its prompt."""
    n = len(before)
    if n < len(tokens.ids) and (tokens.ids[:n] == before).all():
        tokens = special_tokens.Marked(*(column[n:] for column in tokens))
    else:
        found = special_tokens.encode(form.tok, [whole[len(prompt) :]])[0]
        joined = [*before.tolist(), *found.ids.tolist()]
        if form.tok.decode(joined) != form.tok.decode(tokens.ids.tolist()):
            raise errors.DataError(
                "its first token would be partly of the prompt, and the tokenizer "
                "cannot write the two apart; leave it out"
            )
        shift = len(prompt)
        tokens = special_tokens.Marked(
            found.ids, found.starts + shift, found.stops + shift
        )
    stop = _end(form, whole, len(prompt))
    first, last = _reply(form, tokens, len(prompt), stop)
    return tokens.ids[first:last].tolist()


def _started(tok, ids: np.ndarray, bos: bool) -> np.ndarray:
    """The ids with one start token, if there is to be one: the template's or ours."""
    if bos and (not len(ids) or ids[0] != tok.bos_id):
        return np.concatenate([[tok.bos_id], ids])
    return np.asarray(ids)


def _check_said(tok: base.Tokenizer, chat: records.Chat) -> None:
    """Refuses what spells a control token."""
    special = {*special_tokens.marks(tok), *tok.names.values()}
    for i, (role, said) in enumerate(chat.turns):
        for text in (said, *_texts(chat.fields and chat.fields[i])):
            if reason := special_tokens.fault_of_text(text, special):
                raise errors.DataError(f"turn {i + 1}, {role}: {reason}")
    for text in _texts(chat.tools):
        if reason := special_tokens.fault_of_text(text, special):
            raise errors.DataError(f"tools: {reason}")


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (str(key), *_texts(item))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)

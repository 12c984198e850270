# SPDX-License-Identifier: Apache-2.0
"""Dialogues to tokens by a chat template, and which of the tokens are trained on.

A format, `data.chat`, is the name of a built-in template, such as "roles", for control
tokens of a tokenizer trained here; "tokenizer", for the template that came with the
tokenizer; or the path of a .jinja file. See `templates`.

The text that a template writes is tokenised as a whole, as in transformers. A reply is
the text of the template's `{% generation %}` blocks. Where it has none, a reply is the
text beyond the rendering of all before it, which has to be a beginning of the whole
(the prefix property): else a model would be trained on prompts that it never gets.

A reply ends with one token that ends a turn, and nothing after it counts: a template
may write a new line there, but nobody asks the model for it. A token that is partly of
a reply counts, as in transformers; few templates leave room for one, since control
tokens or new lines stand between turns.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data import records
from alignjax.data.chat import faults, rendering, templates
from alignjax.data.tokenizers import base, special_tokens, tokenizer_files
from alignjax.data.tokens import tokenizing

SYSTEM, USER, ASSISTANT = faults.SYSTEM, records.USER, records.ASSISTANT
CONTROL = templates.CONTROL
STOP = CONTROL[-1]
keep = templates.keep

QUESTION, REPLY, MORE = "what does alignjax ask", "so alignjax replies", "and what then"
PROBES = (
    ((USER, QUESTION),),
    ((SYSTEM, "alignjax begins"), (USER, QUESTION)),
)
CALLS = "tool_calls"
REASONING = ("reasoning_content", "thinking", "reasoning")


class Request(NamedTuple):
    """A dialogue to be rendered; see `records.Chat` and `rendering.Dialogue`."""

    turns: Sequence[records.Turn]
    prompt: bool = False
    tools: Sequence[Mapping[str, Any]] | None = None
    fields: Sequence[Mapping[str, Any] | None] | None = None
    template_kwargs: Mapping[str, Any] | None = None


class ChatFormat(NamedTuple):
    """How one tokenizer writes dialogues by one template; `of` makes it, once.

    Attributes:
      tok: the tokenizer.
      source: the template.
      with_tools: that of dialogues with tools; mostly the same.
      literal: as of `templates.BuiltIn`.
      trusted: whether the template is of this package.
      special: `{name: id}` of the tokens that are special where a template spells them.
      control: finds what turns may not spell or, in a literal format, spell as text.
      stop_ids: tokens that end a turn of the assistant: the one that the template
        writes, then those that the tokenizer has.
      before: what a template writes before each reply.
      probe: turns that it can write, the last one the user's.
      text_arguments: whether it writes arguments of calls only as JSON text.
    """

    tok: base.Tokenizer
    source: str
    with_tools: str
    literal: bool
    trusted: bool
    special: Mapping[str, int]
    control: re.Pattern
    stop_ids: tuple[int, ...] = ()
    before: str = ""
    probe: tuple[records.Turn, ...] = ()
    text_arguments: bool = False

    def encode(self, texts: Sequence[str]) -> list[special_tokens.Placed]:
        """The tokens of texts that the template wrote, and their places."""
        if self.literal:
            return special_tokens.encode_pieces(self.tok, texts, self.special)
        return special_tokens.encode(self.tok, texts)

    def render(self, requests: Sequence[Request]) -> list[rendering.Rendered]:
        """Dialogues as the template writes them; see `rendering.render`."""
        dialogues = [
            rendering.Dialogue(
                self.with_tools if request.tools else self.source,
                self._messages(request),
                request.prompt,
                request.tools,
                request.template_kwargs,
            )
            for request in requests
        ]
        return rendering.render(dialogues, self.tok.names, trusted=self.trusted)

    def prompt_ids(self, turns: Iterable[records.Turn], bos: bool) -> list[int]:
        """The tokens of a prompt, up to and with what makes the assistant speak.

        Raises:
          DataError: a prompt that is none.
        """
        turns = tuple(turns)
        if reason := faults.of_prompt(turns, self.literal):
            raise errors.DataError(reason)
        self._check_spelling(records.Chat(turns))
        (rendered,) = self.render([Request(turns, prompt=True)])
        (tokens,) = self.encode([rendered.text])
        return self._started(tokens.ids.tolist(), bos)

    def replies(
        self, groups: Sequence[records.Comparison], bos: bool
    ) -> list[tuple[list[int], list[list[int]]]]:
        """The tokens of each prompt, and of each response to it.

        A prompt has the tokens of `prompt_ids`. Where a token would be partly of the
        response, the two are tokenised apart.

        Raises:
          DataError: a template that refuses a prompt, or writes it in another way
            before a reply; a text that spells a control token.
        """
        requests = []
        for group in groups:
            last = [(ASSISTANT, text) for text in group.responses]
            more = {"tools": group.tools, "template_kwargs": group.template_kwargs}
            self._check_spelling(records.Chat((*group.prompt, *last), **more))
            requests.append(Request(group.prompt, prompt=True, **more))
            requests += [Request((*group.prompt, turn), **more) for turn in last]
        texts = [rendered.text for rendered in self.render(requests)]
        rendered = zip(texts, self.encode(texts), strict=True)
        rows = []
        for group in groups:
            prompt, tokens = next(rendered)
            wholes = itertools.islice(rendered, len(group.responses))
            responses = [self._response(prompt, tokens.ids, *whole) for whole in wholes]
            rows.append((self._started(tokens.ids.tolist(), bos), responses))
        return rows

    def response_ids(self, text: str) -> list[int]:
        """The tokens of a response; the last one ends the turn.

        Where a template writes a reply in a way that depends on the prompt, `replies`
        is exact; this is a reply to a short one.
        """
        group = records.Comparison(self.probe, (text,), {})
        return self.replies([group], bos=False)[0][1][0]

    def text(self, ids: Iterable[int]) -> str:
        """The text of a response, up to what ends it, without what begins them all."""
        ids = [int(i) for i in ids]
        end = next((n for n, i in enumerate(ids) if i in self.stop_ids), len(ids))
        return self.tok.decode(ids[:end]).removeprefix(self.before)

    def cuts(self, bos: bool) -> tuple[int, tuple[int, ...]]:
        """Where prompts may be cut: how many tokens stay, and which begin a turn."""
        if self.literal:
            return int(bos), tuple(self.special[f"<{role}>"] for role in (SYSTEM, USER))
        ids = self.prompt_ids(self.probe, bos)
        head = int(bool(ids) and ids[0] == self.tok.bos_id)
        return head, tuple(self._between_turns()[:1])

    def edges(self) -> tuple[int, int]:
        """Tokens that a turn of the user begins with, and those after a prompt's text.

        The first of the former is one of `cuts`; what makes the assistant speak is of
        the latter.
        """
        ((text, _),) = self.render([Request(self.probe, prompt=True)])
        question = "\0" if self.literal else QUESTION
        (after,) = self.encode([text[text.rfind(question) + len(question) :]])
        header = 1 if self.literal else len(self._between_turns())
        return header, len(after.ids)

    def _between_turns(self) -> list[int]:
        """What the template writes from a reply's end to the next text of the user.

        From the first control token on that ends no reply; nothing if there is none.
        """
        turns = [*self.probe, (ASSISTANT, REPLY), (USER, MORE)]
        try:
            ((text, _),) = self.render([Request(turns)])
        except errors.DataError:
            return []
        between = text[text.rfind(REPLY) + len(REPLY) : text.rfind(MORE)]
        starts = set(self.tok.control.values()) - set(self.stop_ids)
        ids = self.encode([between])[0].ids.tolist()
        return list(itertools.dropwhile(lambda i: i not in starts, ids))

    def tokenize(
        self, chats: Sequence[records.Chat], *, train_on: str, bos: bool
    ) -> list[tokenizing.Tokens]:
        """Dialogues; see the function of this name."""
        learned = [chat.learned(train_on) for chat in chats]
        requests = []
        for chat, turns in zip(chats, learned, strict=True):
            self._check_spelling(chat)
            requests += self._requests(chat, turns)
        rendered = iter(self.render(requests))
        texts, spans = [], []
        for chat, turns in zip(chats, learned, strict=True):
            whole = next(rendered)
            texts.append(whole.text)
            if self._tracks(chat):
                spans.append(_generated(whole.spans, chat, turns, train_on))
            else:
                parts = itertools.islice(rendered, 2 * len(turns))
                spans.append(self._beyond(whole.text, turns, parts))
        rows = []
        for chat, where, tokens in zip(chats, spans, self.encode(texts), strict=True):
            weights = np.zeros(len(tokens.ids))
            for start, stop in where:
                first, last = self._reply(tokens, start, stop)
                weights[first:last] = chat.weight
            ids = self._started(tokens.ids.tolist(), bos)
            before = np.zeros(len(ids) - len(weights))
            rows.append(tokenizing.Tokens(ids, np.concatenate([before, weights])))
        return rows

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        """Turns as templates read them; reasoning goes by all of its names."""
        messages = []
        for i, (role, text) in enumerate(request.turns):
            if self.literal:
                text = f"\0{self.control.sub(_parted, text)}\0"
            more = (request.fields and request.fields[i]) or {}
            if self.text_arguments and CALLS in more:
                more = {**more, CALLS: [_with_text(call) for call in more[CALLS]]}
            message = {"role": role, "content": text, **more}
            thought = next((message[n] for n in REASONING if n in message), None)
            if thought is not None:
                message = {"thinking": thought, **message, "reasoning_content": thought}
            messages.append(message)
        return messages

    def _check_spelling(self, chat: records.Chat) -> None:
        """Refuses texts that spell a control token, where it would be taken for one."""
        if self.literal:
            return
        for i, (role, text) in enumerate(chat.turns):
            for part in (text, *_texts(chat.fields and chat.fields[i])):
                self._check_text(part, f"turn {i + 1}, {role}")
        for part in _texts(chat.tools):
            self._check_text(part, "tools")
        for part in _texts(chat.template_kwargs):
            self._check_text(part, "chat_template_kwargs")

    def _check_text(self, text: str, where: str) -> None:
        if name := self.control.search(text):
            raise errors.DataError(
                f"{where}: it spells the control token {name[0]!r}, which would be "
                "taken for one; take it out"
            )

    def _tracks(self, chat: records.Chat) -> bool:
        return rendering.tracks(self.with_tools if chat.tools else self.source)

    def _requests(self, chat: records.Chat, learned: Sequence[int]) -> list[Request]:
        """What is rendered of a dialogue: the whole, and what `_beyond` needs."""
        more = chat.tools, chat.fields, chat.template_kwargs
        whole = Request(chat.turns, False, *more)
        if self._tracks(chat):
            return [whole]
        parts = [
            whole._replace(turns=chat.turns[: i + int(not prompt)], prompt=prompt)
            for i in learned
            for prompt in (True, False)
        ]
        return [whole, *parts]

    def _beyond(
        self, whole: str, learned: Sequence[int], parts: Iterator[rendering.Rendered]
    ) -> list[tuple[int, int]]:
        """Where in the text replies are: each beyond its prompt, to its end."""
        spans = []
        for i in learned:
            prompt, so_far = next(parts).text, next(parts).text
            so_far = so_far[: self._end(so_far, len(prompt))]
            for part, what in ((prompt, "before"), (so_far, "with")):
                if not whole.startswith(part):
                    raise errors.DataError(
                        f"turn {i + 1}: the template writes what is {what} it in "
                        "another way once more turns follow: "
                        f"{_difference(part, whole)}. Some strip earlier thoughts, for "
                        "instance. A model would learn from what it never gets; set "
                        'data.train_on = "last", or give data.chat a template with '
                        "{% generation %} around what the assistant says"
                    )
            if not so_far.startswith(prompt):
                raise errors.DataError(
                    f"turn {i + 1}: what the template writes for the assistant to go "
                    "on with is not how it then writes the turn: "
                    f"{_difference(prompt, so_far)}"
                )
            spans.append((len(prompt), len(so_far)))
        return spans

    def _end(self, text: str, start: int) -> int:
        """Where the first turn ends that is in the text from `start` on."""
        names = [name for name, i in self.special.items() if i in self.stop_ids]
        match = special_tokens.pattern(names).search(text, start)
        return match.end() if match else len(text)

    def _reply(
        self, tokens: special_tokens.Placed, start: int, stop: int
    ) -> tuple[int, int]:
        """The tokens of a reply, from its first to the one that ends it.

        That is the last in it which ends a turn, or the token after it, where a
        template generates the text only; or else the last special token, as some
        templates end earlier turns in another way.
        """
        first, last = tokens.between(start, stop)
        ids = tokens.ids[first : last + 1].tolist()
        after = ids.pop() if len(ids) > last - first else None
        ends = self.stop_ids
        at = _last_of(ids, ends)
        if at is None and ids and after in ends:
            return first, last + 1
        if at is None:
            ends = {*self.tok.control.values()}
            at = _last_of(ids, ends)
        if at is None:
            raise errors.DataError(
                "the template writes a reply without a token that ends the turn, so a "
                "model would not learn to stop"
            )
        while at and ids[at - 1] in ends:
            at -= 1
        return first, first + at + 1

    def _response(
        self,
        prompt: str,
        prompt_ids: np.ndarray,
        whole: str,
        tokens: special_tokens.Placed,
    ) -> list[int]:
        """The tokens of a response beyond those of its prompt."""
        if not whole.startswith(prompt):
            raise errors.DataError(
                "the template writes the prompt in another way before a reply than "
                f"without one: {_difference(prompt, whole)}"
            )
        n = len(prompt_ids)
        if n < len(tokens.ids) and (tokens.ids[:n] == prompt_ids).all():
            tokens = special_tokens.Placed(*(column[n:] for column in tokens))
        else:
            (apart,) = self.encode([whole[len(prompt) :]])
            both = [*prompt_ids.tolist(), *apart.ids.tolist()]
            if self.tok.decode(both) != self.tok.decode(tokens.ids.tolist()):
                raise errors.DataError(
                    "its first token would be partly of the prompt, and the tokenizer "
                    "cannot write the two apart; leave it out"
                )
            starts, stops = apart.starts + len(prompt), apart.stops + len(prompt)
            tokens = special_tokens.Placed(apart.ids, starts, stops)
        stop = self._end(whole, len(prompt))
        first, last = self._reply(tokens, len(prompt), stop)
        return tokens.ids[first:last].tolist()

    def _started(self, ids: list[int], bos: bool) -> list[int]:
        """The ids with one start token if `bos`: the template's or ours."""
        return [self.tok.bos_id, *ids] if bos and ids[:1] != [self.tok.bos_id] else ids


def of(tok: base.Tokenizer, format: str) -> ChatFormat:
    """A format as this tokenizer writes it.

    Raises:
      ConfigError: there is no such template, it cannot be rendered, or its replies do
        not end in a token of their own.
    """
    key = _Same(tok)
    if format == templates.OWN:
        return _of(key, format, *_own_templates(key))
    source = templates.find(tok, format)  # a file may have changed
    return _of(key, format, source, source)


class _Same:
    """A tokenizer as a key of a cache, in which it stays: equal to itself only."""

    def __init__(self, tok: base.Tokenizer):
        self.tok = tok

    def __hash__(self) -> int:
        return id(self.tok)

    def __eq__(self, other) -> bool:
        return self.tok is other.tok


@functools.lru_cache(maxsize=16)
def _own_templates(key: _Same) -> list[str]:
    """The tokenizer's own template, and that of dialogues with tools."""
    return [templates.find(key.tok, templates.OWN, tools=t) for t in (False, True)]


@functools.lru_cache(maxsize=16)
def _of(key: _Same, format: str, source: str, with_tools: str) -> ChatFormat:
    tok, built_in = key.tok, templates.BUILT_IN.get(format, templates.OTHER)
    special = special_tokens.ids_by_name(tok)
    if missing := [name for name in built_in.tokens if name not in special]:
        raise errors.ConfigError(
            f"tokenizer.control_tokens: data.chat = {format!r} needs "
            f"{', '.join(missing)}, which the tokenizer does not have as special "
            f"tokens; take another format, or give {built_in.tokens} and train from a "
            "new tokenizer"
        )
    if built_in.literal:
        special = {name: special[name] for name in built_in.tokens}
        control = special_tokens.pattern(list(special))
    else:
        control = special_tokens.pattern([*special, *tok.names.values()])
    trusted = {source, with_tools} <= templates.sources()
    form = ChatFormat(
        tok, source, with_tools, built_in.literal, trusted, special, control
    )
    rendering.check(source, trusted=trusted)
    refusals = []
    for probe in PROBES:
        requests = [Request([*probe, (ASSISTANT, REPLY)]), Request(probe, prompt=True)]
        try:
            (whole, _), (prompt, _) = form.render(requests)
            break
        except errors.DataError as error:
            refusals.append(str(error))
    else:
        raise errors.ConfigError(
            f"data.chat: {format!r} cannot write a question and a reply: {refusals[0]}"
        )
    at = whole.rfind(REPLY)
    if at < 0:
        raise errors.ConfigError(
            f"data.chat: {format!r} does not write what the assistant says"
        )
    after = whole[at + len(REPLY) :]
    end = _end_of_turn(tok, form.encode([after])[0].ids.tolist())
    if end is None:
        raise errors.ConfigError(
            f"data.chat: {format!r} ends a reply with {after!r}, where the tokenizer "
            "has no special token, so a model would not learn to stop; use the "
            "tokenizer that it was made for, or a template that ends in one of "
            f"{', '.join(special) or 'none that it has'}"
        )
    stop_ids = (end,) if form.literal else tuple(dict.fromkeys([end, *tok.stop_ids]))
    before = whole[len(prompt) : at] if whole.startswith(prompt) else ""
    if form.literal:  # any prompt will do, also for a tokenizer of few characters
        probe, before = ((USER, ""),), before.replace("\0", "")
    text_arguments = not trusted and _wants_text(form, probe)
    return form._replace(
        stop_ids=stop_ids, before=before, probe=probe, text_arguments=text_arguments
    )


def _wants_text(form: ChatFormat, probe: Sequence[records.Turn]) -> bool:
    """Whether calls can be written with arguments as JSON text, not as an object."""

    def writes(arguments: Any) -> bool:
        function = {"name": "alignjax", "arguments": arguments}
        calls = [{"type": "function", "id": "alignjax0", "function": function}]
        fields = [*(None for _ in probe), {CALLS: calls}]
        try:
            form.render([Request([*probe, (ASSISTANT, "")], fields=fields)])
        except errors.DataError:
            return False
        return True

    return not writes({"a": "b"}) and writes('{"a": "b"}')


def _with_text(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """A call whose arguments are JSON text."""
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(arguments, Mapping):
        return call
    text = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


def _end_of_turn(tok: base.Tokenizer, after: Sequence[int]) -> int | None:
    """The token that ends a turn, of those after a reply.

    It is the first special one, or of several together one that the tokenizer has to
    end a text.
    """
    special = {*tok.control.values(), *tok.stop_ids}
    from_first = itertools.dropwhile(lambda i: i not in special, after)
    run = list(itertools.takewhile(lambda i: i in special, from_first))
    return next((i for i in run if i in tok.stop_ids), run[0] if run else None)


def start_note(tok: base.Tokenizer, format: str | None, bos: bool) -> str | None:
    """A line where `bos` puts a start token before what the tokenizer's files do not.

    Those are the files that came with it: its own template, or how it reads plain text.
    """
    if tok.bos_id is None or not tokenizer_files.MODELS.intersection(tok.files):
        return None
    start = tok.names.get("bos_token", tok.bos_id)
    if format == templates.OWN:
        form = of(tok, format)
        if not bos or form.prompt_ids(form.probe, False)[:1] == [tok.bos_id]:
            return None
        return (
            f"data.bos: True puts the start token {start!r} before dialogues, where "
            "the folder's own template writes none; False leaves it out"
        )
    adds = tokenizer_files.adds_start(tok.files)
    if format or bos == adds:
        return None
    return (
        f"data.bos: {bos}, where the folder's own tokenizer puts "
        f"{'the' if adds else 'no'} start token {start!r} before a text"
    )


def check(tok: base.Tokenizer, format: str, bos: bool = False) -> None:
    """Raises ConfigError if the tokenizer cannot write dialogues in this format."""
    problems = []
    try:
        of(tok, format)
    except errors.ConfigError as error:
        problems += error.problems
    if bos and tok.bos_id is None:
        problems.append(
            "data.bos: True, but the tokenizer has no start token; set it to False"
        )
    if problems:
        raise errors.ConfigError(problems)


def tokenize(
    tok: base.Tokenizer,
    chats: Sequence[records.Chat],
    *,
    format: str,
    train_on: str,
    bos: bool,
) -> list[tokenizing.Tokens]:
    """Dialogues of Chat; the weights of what is not trained on are 0.

    Args:
      train_on: the assistant's turns that are, "all" of them or the "last", but for
        `Chat.skipped`. Their tokens and what ends each count `Chat.weight`.
      bos: whether there is a start token; a template that writes one has but that one.

    Raises:
      ConfigError: as `check` does.
      DataError: a dialogue that is none, see `faults`; one that
        the template refuses, or that spells a control token.
    """
    check(tok, format, bos)
    form = of(tok, format)
    for chat in chats:
        if reason := faults.of_chat(chat, form.literal, train_on):
            raise errors.DataError(reason)
    return form.tokenize(chats, train_on=train_on, bos=bos)


tokenize.key = "alignjax.data.chat:tokenize"  # see `cache.build`


tokenize.key = "alignjax.data.chat:tokenize"  # see `cache.build`


def tokenize_everything(
    tok: base.Tokenizer,
    documents: Sequence[records.Chat | records.Text],
    *,
    format: str,
    bos: bool,
) -> list[tokenizing.Tokens]:
    """Dialogues among other documents, every token of which is learned.

    So a model is pretrained that has met the format before it is fine-tuned. Tokens of
    a dialogue count its weight, but for those of `Chat.skipped`.

    Raises:
      ConfigError, DataError: as `tokenize`.
    """
    options = dict(format=format, train_on="all", bos=bos)
    chats = [d for d in documents if not isinstance(d, records.Text)]
    texts = [d for d in documents if isinstance(d, records.Text)]
    rows_of_chats = iter(tokenize(tok, [_skipping(c, ()) for c in chats], **options))
    # What is left out is what would be learned if nothing else were.
    others = [_skipping(c, c.learned("all")) for c in chats if _skips(c)]
    left_out = iter(tokenize(tok, others, **options))
    rows_of_texts = iter(tokenizing.tokenize_text(tok, texts, bos=bos))
    rows = []
    for document in documents:
        if isinstance(document, records.Text):
            rows.append(next(rows_of_texts))
            continue
        ids = next(rows_of_chats).ids
        weights = np.full(len(ids), document.weight)
        if _skips(document):
            weights[np.asarray(next(left_out).weights) > 0] = 0.0
        rows.append(tokenizing.Tokens(ids, weights if (weights != 1).any() else None))
    return rows


tokenize_everything.key = "alignjax.data.chat:tokenize_everything"


def _skips(chat: Any) -> bool:
    return isinstance(chat, records.Chat) and bool(chat.skipped)


def _skipping(chat: Any, turns: Iterable[int]) -> Any:
    """With these turns skipped instead, where some are."""
    return chat._replace(skipped=tuple(turns)) if _skips(chat) else chat


def _parted(name: re.Match) -> str:
    """A name that is text, so that `special_tokens.encode_pieces` does not see it."""
    return f"{name[0][0]}\0{name[0][1:]}"


def _generated(
    spans: Sequence[tuple[int, int]],
    chat: records.Chat,
    learned: Sequence[int],
    train_on: str,
) -> list[tuple[int, int]]:
    """The `{% generation %}` blocks of the turns that are learned."""
    spans = [(start, stop) for start, stop in spans if start < stop]
    if not spans:
        raise errors.DataError("the template generates nothing of it")
    if train_on == "all" and not chat.skipped:
        return spans
    replies = [i for i, (role, _) in enumerate(chat.turns) if role == ASSISTANT]
    if len(spans) != len(replies):
        raise errors.DataError(
            f"the template generates {len(spans)} pieces of {len(replies)} turns of "
            "the assistant, so which of them to train on is unknown; set "
            'data.train_on = "all", with no weights of 0'
        )
    return [span for i, span in zip(replies, spans, strict=True) if i in learned]


def _last_of(ids: Sequence[int], among: Collection[int]) -> int | None:
    """The index of the last of `ids` that is among these."""
    return next((i for i in range(len(ids) - 1, -1, -1) if ids[i] in among), None)


def _difference(part: str, whole: str) -> str:
    """Where two texts begin to differ."""
    pairs = zip(part, whole, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(whole))
    start = max(0, at - 20)
    return f"{part[start : at + 30]!r} is then {whole[start : at + 30]!r}"


def _texts(value: Any) -> Iterable[str]:
    """All texts of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (str(key), *_texts(item))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)

# SPDX-License-Identifier: Apache-2.0
"""Prompts and replies as tokens by a chat template; `dialogues` has those of SFT.

A format, `data.chat`, is the name of a built-in template, such as "roles", for control
tokens of a tokenizer trained here; "tokenizer", for the template that came with the
tokenizer; or the path of a .jinja file. See `templates`.

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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data import records
from alignjax.data.chat import rendering, templates
from alignjax.data.tokenizers import base, special_tokens, tokenizer_files

SYSTEM, USER, ASSISTANT = records.SYSTEM, records.USER, records.ASSISTANT
ROLES = (SYSTEM, "developer", USER, ASSISTANT, "tool")
LITERAL_ROLES = (SYSTEM, USER, ASSISTANT)

QUESTION, REPLY, MORE = "what does alignjax ask", "so alignjax replies", "and what then"
PROBES = (((USER, QUESTION),), ((SYSTEM, "alignjax begins"), (USER, QUESTION)))
CALLS = "tool_calls"
REASONING = ("reasoning_content", "thinking", "reasoning")


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
      prefix: what a template writes before the text of each reply.
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
    prefix: str = ""
    probe: tuple[records.Turn, ...] = ()
    text_arguments: bool = False

    def encode(self, texts: Sequence[str]) -> list[special_tokens.Placed]:
        """The tokens of texts that the template wrote, and their places."""
        if self.literal:
            return special_tokens.encode_pieces(self.tok, texts, self.special)
        return special_tokens.encode(self.tok, texts)

    def render(
        self, dialogues: Sequence[tuple[records.Chat, bool]]
    ) -> list[rendering.Rendered]:
        """Dialogues, each with whether the assistant is to speak next, as text."""
        requests = [
            rendering.Dialogue(
                self.with_tools if chat.tools else self.source,
                self._messages(chat),
                prompt,
                chat.tools,
                chat.template_kwargs,
            )
            for chat, prompt in dialogues
        ]
        return rendering.render(requests, self.tok.names, trusted=self.trusted)

    def prompt_ids(
        self, turns: records.Chat | Iterable[records.Turn], bos: bool
    ) -> list[int]:
        """The tokens of a prompt, up to and with what makes the assistant speak."""
        chat = turns if isinstance(turns, records.Chat) else records.Chat(tuple(turns))
        if reason := fault(chat, self.literal, prompt=True):
            raise errors.DataError(reason)
        self.check(chat)
        ((text, _),) = self.render([(chat, True)])
        return self.with_bos(self.encode([text])[0].ids.tolist(), bos)

    def replies(
        self, groups: Sequence[records.Comparison], bos: bool
    ) -> list[tuple[list[int], list[list[int]]]]:
        """The tokens of each prompt, which are those of `prompt_ids`, and responses.

        Where a token would be partly of a response, the two are tokenised apart.
        Raises a DataError where a text spells a control token, or the template refuses
        a prompt, or writes it in another way before a reply.
        """
        dialogues = []
        for group in groups:
            last = [(ASSISTANT, text) for text in group.responses]
            self.check(group.chat(*last))
            dialogues.append((group.chat(), True))
            dialogues += [(group.chat(turn), False) for turn in last]
        texts = [rendered.text for rendered in self.render(dialogues)]
        rendered = zip(texts, self.encode(texts), strict=True)
        rows = []
        for group in groups:
            prompt, tokens = next(rendered)
            wholes = itertools.islice(rendered, len(group.responses))
            responses = [self._response(prompt, tokens.ids, *whole) for whole in wholes]
            rows.append((self.with_bos(tokens.ids.tolist(), bos), responses))
        return rows

    def response_ids(self, text: str) -> list[int]:
        """The tokens of a response; the last one ends the turn.

        Where a template writes a reply in a way that depends on the prompt, `replies`
        is exact; this is a reply to a short one.
        """
        group = records.Comparison(self.probe, (text,), {})
        return self.replies([group], bos=False)[0][1][0]

    def awaits_reply(self, ids: Sequence[int]) -> bool:
        """Whether tokens end as prompts do, where the assistant is to speak."""
        _, tail = self.edges()
        ((prompt, _),) = self.replies([records.Comparison(self.probe, (), {})], False)
        return tail > 0 and list(ids[-tail:]) == prompt[-tail:]

    def text(self, ids: Iterable[int]) -> str:
        """The text of a response, up to what ends it, without what begins them all."""
        ids = [int(i) for i in ids]
        end = next((n for n, i in enumerate(ids) if i in self.stop_ids), len(ids))
        return self.tok.decode(ids[:end]).removeprefix(self.prefix)

    def prompt_cuts(self, bos: bool) -> tuple[int, tuple[int, ...]]:
        """Where prompts may be cut: how many tokens stay, and which begin a turn."""
        if self.literal:
            return int(bos), tuple(self.special[f"<{role}>"] for role in (SYSTEM, USER))
        starts = self.prompt_ids(self.probe, bos)[:1] == [self.tok.bos_id]
        return int(starts), tuple(self._between_turns()[:1])

    def edges(self) -> tuple[int, int]:
        """How many tokens a turn of the user begins with, and are after its text.

        The first of the former is one of `prompt_cuts`; what makes the assistant speak
        is of the latter.
        """
        ((text, _),) = self.render([(records.Chat(self.probe), True)])
        question = "\0" if self.literal else QUESTION
        (after,) = self.encode([text[text.rfind(question) + len(question) :]])
        header = 1 if self.literal else len(self._between_turns())
        return header, len(after.ids)

    def _between_turns(self) -> list[int]:
        """What the template writes from a reply's end to the next text of the user.

        From the first control token on that ends no reply; nothing if there is none.
        """
        turns = (*self.probe, (ASSISTANT, REPLY), (USER, MORE))
        try:
            ((text, _),) = self.render([(records.Chat(turns), False)])
        except errors.DataError:
            return []
        between = text[text.rfind(REPLY) + len(REPLY) : text.rfind(MORE)]
        starts = set(self.tok.control.values()) - set(self.stop_ids)
        ids = self.encode([between])[0].ids.tolist()
        return list(itertools.dropwhile(lambda i: i not in starts, ids))

    def _messages(self, chat: records.Chat) -> list[dict[str, Any]]:
        """Turns as templates read them; reasoning goes by all of its names."""
        messages = []
        for i, (role, text) in enumerate(chat.turns):
            if self.literal:  # a NUL in a name keeps `encode_pieces` from seeing it
                text = self.control.sub(lambda m: f"{m[0][0]}\0{m[0][1:]}", text)
                text = f"\0{text}\0"
            more = (chat.fields and chat.fields[i]) or {}
            if self.text_arguments and CALLS in more:
                more = {**more, CALLS: [_with_text(call) for call in more[CALLS]]}
            message = {"role": role, "content": text, **more}
            thought = next((message[n] for n in REASONING if n in message), None)
            if thought is not None:
                message = {"thinking": thought, **message, "reasoning_content": thought}
            messages.append(message)
        return messages

    def check(self, chat: records.Chat) -> None:
        """Refuses what would be lost in silence, and texts that spell control tokens.

        Those would be taken for tokens. Of literal formats `fault` refuses more.
        """
        if self.literal:
            return
        source = self.with_tools if chat.tools else self.source
        calls = any(CALLS in (fields or ()) for fields in chat.fields or ())
        for name, there in ((CALLS, calls), ("tools", chat.tools)):
            if there and not re.search(rf"\b{name}\b", source):
                raise errors.DataError(
                    f"{name}: not written by the template of data.chat; take one that "
                    "writes them ('tokenizer', or a .jinja file), or leave them out"
                )
        places = [
            (f"turn {i + 1}, {role}", (text, chat.fields and chat.fields[i]))
            for i, (role, text) in enumerate(chat.turns)
        ]
        places.append(("tools", chat.tools))
        places.append(("chat_template_kwargs", chat.template_kwargs))
        for where, value in places:
            for text in _texts(value):
                if name := self.control.search(text):
                    raise errors.DataError(
                        f"{where}: it spells the control token {name[0]!r}, which "
                        "would be taken for one; take it out"
                    )

    def end_of_turn(self, text: str, start: int) -> int:
        """Where the first turn ends that is in the text from `start` on."""
        names = [name for name, i in self.special.items() if i in self.stop_ids]
        match = special_tokens.pattern(names).search(text, start)
        return match.end() if match else len(text)

    def reply_tokens(
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
        if ids and after in ends and not {*ids} & {*ends}:
            return first, last + 1
        if not {*ids} & {*ends}:
            ends = {*self.tok.control.values()}
        at = max((i for i, token in enumerate(ids) if token in ends), default=None)
        if at is None:
            raise errors.DataError(
                "the template writes a reply without a token that ends the turn, so a "
                "model would not learn to stop"
            )
        while at and ids[at - 1] in ends:
            at -= 1
        return first, first + at + 1

    def _response(
        self, prompt: str, prompt_ids: np.ndarray, whole: str, tokens
    ) -> list[int]:
        """The tokens of a response beyond those of its prompt."""
        if not whole.startswith(prompt):
            raise errors.DataError(
                "the template writes the prompt in another way before a reply than "
                f"without one: {difference(prompt, whole)}"
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
        stop = self.end_of_turn(whole, len(prompt))
        first, last = self.reply_tokens(tokens, len(prompt), stop)
        return tokens.ids[first:last].tolist()

    def with_bos(self, ids: list[int], bos: bool) -> list[int]:
        """The ids with one start token if `bos`: the template's or ours."""
        return [self.tok.bos_id, *ids] if bos and ids[:1] != [self.tok.bos_id] else ids


def fault(chat: records.Chat, literal: bool, prompt: bool = False) -> str | None:
    """Why a format cannot write a dialogue, or a prompt to be answered; None if it can.

    The order of turns is checked of literal formats; elsewhere the template judges it.
    """
    names = sorted({name for more in chat.fields or () for name in more or ()})
    names += ["tools"] * bool(chat.tools)
    names += ["chat_template_kwargs"] * bool(chat.template_kwargs)
    if literal and names:
        return f'{", ".join(names)}: not in the format "roles"; set another data.chat'
    if prompt and not chat.turns:
        return "the prompt is empty"
    where = "prompt: " if prompt else ""
    roles, before = LITERAL_ROLES if literal else ROLES, None
    for i, (role, text) in enumerate(chat.turns, start=1):
        if role not in roles:
            remedy = f"known: {', '.join(roles)}"
            return f"{where}turn {i}: unknown role {role!r}; {remedy}"
        if literal and role == SYSTEM and before is not None:
            return f"{where}turn {i}: a system turn that is not the first one"
        if literal and role == ASSISTANT and before in (None, SYSTEM):
            return f"{where}turn {i}: the assistant speaks before the user"
        if literal and role == before:
            return f"{where}turns {i - 1} and {i}: two {role} turns in a row"
        silent = text == "" and (role == "tool" or (chat.fields and chat.fields[i - 1]))
        if not silent and (reason := records.fault_of_text(text)):
            return f"{where}turn {i}, {role}: {reason}"
        before = role
    if prompt and before not in ((USER,) if literal else (USER, "tool")):
        return f"the prompt ends in a turn of the {before}, not the user"
    return None


def of(tok: base.Tokenizer, format: str) -> ChatFormat:
    """A format as this tokenizer writes it.

    Raises:
      ConfigError: there is no such template, it cannot be rendered, or its replies do
        not end in a token of their own.
    """
    if format == templates.OWN:
        return _of(tok, format, *_own_templates(tok))
    source = templates.find(tok, format)  # a file may have changed
    return _of(tok, format, source, source)


@functools.lru_cache(maxsize=16)
def _own_templates(tok: base.Tokenizer) -> list[str]:
    """The tokenizer's own template, and that of dialogues with tools."""
    return [templates.find(tok, templates.OWN, tools=t) for t in (False, True)]


@functools.lru_cache(maxsize=16)
def _of(tok: base.Tokenizer, format: str, source: str, with_tools: str) -> ChatFormat:
    built_in = templates.BUILT_IN.get(format, templates.OTHER)
    special = special_tokens.ids_by_name(tok)
    if missing := [name for name in built_in.tokens if name not in special]:
        raise errors.ConfigError(
            f"tokenizer.control_tokens: data.chat = {format!r} needs "
            f"{', '.join(missing)}, special tokens that the tokenizer does not have; "
            "take another format, such as 'inherit' or 'tokenizer'; a tokenizer that "
            f"is trained here may have {built_in.tokens}"
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
    refusals = []
    for probe in PROBES:
        answered = records.Chat((*probe, (ASSISTANT, REPLY)))
        try:
            (whole, _), (prompt, _) = form.render(
                [(answered, False), (records.Chat(probe), True)]
            )
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
    end = _first_stop(tok, form.encode([after])[0].ids.tolist())
    if end is None:
        raise errors.ConfigError(
            f"data.chat: {format!r} ends a reply with {after!r}, where the tokenizer "
            "has no special token, so a model would not learn to stop; use another "
            f"tokenizer, or a template that ends in one of {', '.join(special)}"
        )
    stop_ids = (end,) if form.literal else tuple(dict.fromkeys([end, *tok.stop_ids]))
    prefix = whole[len(prompt) : at] if whole.startswith(prompt) else ""
    if form.literal:  # any prompt will do, also for a tokenizer of few characters
        probe, prefix = ((USER, ""),), prefix.replace("\0", "")
    text_arguments = not trusted and _wants_text(form, probe)
    return form._replace(
        stop_ids=stop_ids, prefix=prefix, probe=probe, text_arguments=text_arguments
    )


def _wants_text(form: ChatFormat, probe: Sequence[records.Turn]) -> bool:
    """Whether calls can be written with arguments as JSON text, not as an object."""

    def writes(arguments: Any) -> bool:
        function = {"name": "alignjax", "arguments": arguments}
        calls = [{"type": "function", "id": "alignjax0", "function": function}]
        fields = (*(None for _ in probe), {CALLS: calls})
        chat = records.Chat((*probe, (ASSISTANT, "")), fields=fields)
        try:
            form.render([(chat, False)])
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


def _first_stop(tok: base.Tokenizer, after: Sequence[int]) -> int | None:
    """The token that ends a turn, of those after a reply.

    It is the first special one, or of several together one that the tokenizer has to
    end a text.
    """
    special = {*tok.control.values(), *tok.stop_ids}
    from_first = itertools.dropwhile(lambda i: i not in special, after)
    run = list(itertools.takewhile(lambda i: i in special, from_first))
    return next((i for i in run if i in tok.stop_ids), run[0] if run else None)


def start_note(tok: base.Tokenizer, format: str | None, bos: bool) -> str | None:
    """A line where `bos` is not what the files that came with a tokenizer do.

    Those are its own template, or how it reads plain text.
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
    puts = f"puts {'the' if adds else 'no'} start token {start!r} before a text"
    return f"data.bos: {bos}, where the folder's own tokenizer {puts}"


def difference(part: str, whole: str) -> str:
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

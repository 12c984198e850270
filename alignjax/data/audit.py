# SPDX-License-Identifier: Apache-2.0
"""Faults of loss masks: which tokens of finished rows are trained on and should not be.

It reads rows, the tokenizer and renderings of the chat template, and none of the code
that made the rows. A thread is a text as attention sees it: a segment, or the beginning
of one with a branch; each fault is a function of a thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data import records
from alignjax.data.chat import format as chat
from alignjax.data.tokenizers import base, special_tokens

# The kind of a token: the start, before any turn, between turns, a turn's role, text,
# its end.
START, BEFORE, BETWEEN = "start", "before", "between"
MARKER, TEXT, END = "marker", "text", "end"
# Markers of templates; a text that contains one has been rendered before.
TEMPLATES = ("<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<start_of_turn>")
TEMPLATES += ("<|start_header_id|>", "<|eot_id|>", "\n\nHuman:", "\n\nAssistant:")
# A short dialogue, whose rendering shows the markers of a template.
PROBE = ("alignjax first", "then alignjax asks", "so alignjax replies")
PROBE += ("again alignjax asks", "last alignjax replies")
LONGEST_ROLE = 24  # tokens of the name of a role
TOOL, ANSWER = "tool", {"tool_call_id": "alignjax0", "name": "alignjax"}
FEWEST = 3  # fewer tokens, none of them special, could as well be part of a text


class Thread(NamedTuple):
    """The first input of a text and all targets, n tokens.

    Attributes:
      where: the row, the segment and the branch.
      ids: ints [n].
      weights: floats [n], of the targets; that of the first is 0.
      responses: ints [n], the number of the response that each is of, 0 for none.
      whole: whether inputs, targets and positions are consecutive.
      grouped: whether it is of a group of responses.
    """

    where: str
    ids: np.ndarray
    weights: np.ndarray
    responses: np.ndarray
    whole: bool
    grouped: bool


class Turn(NamedTuple):
    """The text between a marker of a role and the next, by indices of a thread.

    `start` is its first token after the marker, `stop` the end of its text, `end` the
    token that ends it, or None.
    """

    role: str
    start: int
    stop: int
    end: int | None

    @property
    def after(self) -> int:
        """The index after the token that ends it, or after its text."""
        return self.stop if self.end is None else self.end + 1


class Parsed(NamedTuple):
    """A thread with its turns and the kind of each token.

    `ends` are the tokens that end turns or documents, `stop` the name of the first.
    """

    thread: Thread
    turns: list[Turn]
    kinds: list[str]
    tok: base.Tokenizer
    ends: frozenset[int | None]
    stop: str

    def said(self, turn: Turn) -> str:
        """The text of a turn."""
        return self.tok.decode(self.thread.ids[turn.start : turn.stop].tolist())

    @property
    def trained(self) -> list[Turn]:
        """The assistant's turns with a token of weight."""
        turns = [turn for turn in self.turns if turn.role == chat.ASSISTANT]
        return [t for t in turns if self.thread.weights[t.start : t.after].any()]


def _no_terminator(text: Parsed) -> Iterator[str]:
    for turn in text.trained:
        if turn.end is not None and not text.thread.weights[turn.end]:
            yield f"the {text.stop} at {turn.end} is not trained: a model never stops"


def _two_terminators(text: Parsed) -> Iterator[str]:
    ids = text.thread.ids.tolist()
    for i in range(1, len(ids)):
        if ids[i] in text.ends and ids[i - 1] in text.ends:
            yield f"the tokens at {i - 1} and {i} both end a turn"


def _user_trained(text: Parsed) -> Iterator[str]:
    for turn in text.turns:
        count = np.count_nonzero(text.thread.weights[turn.start : turn.after])
        if count and turn.role != chat.ASSISTANT:
            yield f"{count} tokens of a turn of the {turn.role} count"


def _prompt_trained(text: Parsed) -> Iterator[str]:
    kinds = np.array(text.kinds)
    outside = np.isin(kinds, [START, BETWEEN, MARKER])
    if text.thread.grouped:
        outside = text.thread.responses == 0
    counted = np.flatnonzero(outside & (text.thread.weights != 0))
    if len(counted):
        tokens = f"{len(counted)} tokens of the prompt or the template"
        yield f"{tokens} count, the first at {counted[0]}"


def _two_starts(text: Parsed) -> Iterator[str]:
    at = np.flatnonzero(text.thread.ids == text.tok.bos_id).tolist()
    if at not in ([], [0]):
        yield f"start tokens at {', '.join(map(str, at))}"


def _leak(text: Parsed) -> Iterator[str]:
    if not text.thread.whole:
        yield "inputs, targets and positions are not those of one text"
    systems = [text.said(turn) for turn in text.turns if turn.role == chat.SYSTEM]
    if len(systems) > len(set(systems)):
        yield "a second dialogue begins in it, with the system turn of the first"
    numbers = set(text.thread.responses.tolist()) - {0}
    if len(numbers) > 1:
        yield f"it has responses {sorted(numbers)}, which see one another"


def _truncated(text: Parsed) -> Iterator[str]:
    if text.turns and text.turns[-1].end is None:
        yield f"the last turn, of the {text.turns[-1].role}, has no {text.stop}"
    for turn in text.trained:
        if turn.end is None:
            yield f"the reply at {turn.start} has no {text.stop}"
    if BEFORE in text.kinds and not text.thread.grouped:
        yield "it begins inside of a turn"


def _template_inside(text: Parsed) -> Iterator[str]:
    for turn in text.turns:
        for marker in (*text.tok.control, *TEMPLATES):
            if marker in text.said(turn):
                yield f"the text of the {turn.role} at {turn.start} spells {marker!r}"


def _reply_lost(text: Parsed) -> Iterator[str]:
    for turn in text.trained:
        lost = np.flatnonzero(text.thread.weights[turn.start : turn.stop] == 0)
        if len(lost):
            which = "the first token" if lost[0] == 0 else f"token {lost[0]}"
            yield f"{which} of the reply at {turn.start} counts nothing"


def _nothing_trained(text: Parsed) -> Iterator[str]:
    if not text.thread.weights.any():
        yield "no token of it counts"


FAULTS: dict[str, Callable[[Parsed], Iterator[str]]] = {
    "no terminator": _no_terminator,
    "two terminators": _two_terminators,
    "user trained": _user_trained,
    "prompt trained": _prompt_trained,
    "two starts": _two_starts,
    "leak": _leak,
    "truncated": _truncated,
    "template inside": _template_inside,
    "reply lost": _reply_lost,
    "nothing trained": _nothing_trained,
}
# These need no roles.
PLAIN = ("two starts", "leak", "nothing trained")
PADDING = "padding trained"
LENGTHS = "lengths"


def faults(
    rows: Mapping[str, Any], tok: base.Tokenizer, *, format: str | None = "roles"
) -> list[str]:
    """The faults of rows of a dataset, a line each; it begins with the fault's name.

    Args:
      format: of the dialogues, see `chat`; None for plain text, which is checked for
        the faults that need no roles.
    """
    lines = _padding(rows) + _lengths(rows)
    parse = parser(tok, format)
    for _, _, thread in placed(rows):
        text = parse(thread)
        for name, check in FAULTS.items():
            if (format or name in PLAIN) and (reason := next(check(text), None)):
                lines.append(f"{name}: {thread.where}: {reason}")
    return lines


def _padding(rows: Mapping[str, Any]) -> list[str]:
    padding = np.asarray(rows["segment_ids"]) == 0
    counted = np.asarray(rows["weights"]) != 0
    if "responses" in rows:
        counted = counted | (np.asarray(rows["responses"]) > 0)
    wrong = (padding & counted).reshape(len(padding), -1).sum(1)
    return [
        f"{PADDING}: row {i}: {wrong[i]} places of padding count"
        for i in np.flatnonzero(wrong).tolist()
    ]


def _lengths(rows: Mapping[str, Any]) -> list[str]:
    """Groups whose `lengths` are not those of the responses in the row."""
    if "responses" not in rows:
        return []
    lengths, lines = np.asarray(rows["lengths"]), []
    size = lengths[0].size if len(lengths) else 0
    for i, row in enumerate(np.asarray(rows["responses"])):
        count = np.bincount(row.ravel(), minlength=size + 1)[1:]
        if count.tolist() != lengths[i].ravel().tolist():
            lines.append(f"{LENGTHS}: row {i}: not those of its responses")
        silent = (lengths[i] > 0).any(1) & (np.asarray(rows["group_weights"])[i] == 0)
        if silent.any():
            lines.append(f"{LENGTHS}: row {i}: a group of weight 0")
    return lines


def placed(
    rows: Mapping[str, Any],
) -> Iterator[tuple[tuple[int, ...], np.ndarray, Thread]]:
    """The index of its sequence, its positions there, and each thread of rows.

    A segment with branches has a thread for each branch.
    """
    grouped = "responses" in rows
    shape = rows["inputs"].shape
    flat = {
        name: np.asarray(rows[name]).reshape(-1, shape[-1])
        for name in ("inputs", "targets", "weights", "segment_ids", "positions")
    }
    nothing = np.zeros_like(flat["inputs"])
    branches = np.asarray(rows.get("branches", nothing)).reshape(nothing.shape)
    responses = np.asarray(rows.get("responses", nothing)).reshape(nothing.shape)
    for s in range(len(nothing)):
        row = f"row {s // shape[1]}" if grouped else f"row {s}"
        if grouped and shape[1] > 1:
            row += f", sequence {s % shape[1]}"
        segments = flat["segment_ids"][s]
        for segment in np.unique(segments[segments > 0]).tolist():
            inside = segments == segment
            for branch in np.unique(branches[s][inside]).tolist():
                several = branches[s][inside].any()
                if several and not branch:
                    continue  # the beginning, which is part of every branch
                at = np.flatnonzero(inside & np.isin(branches[s], [0, branch]))
                where = f"{row}, segment {segment}"
                where += f", branch {branch}" if several else ""
                one = {name: values[s, at] for name, values in flat.items()}
                thread = Thread(
                    where=where,
                    ids=np.concatenate([one["inputs"][:1], one["targets"]]),
                    weights=np.concatenate([[0.0], one["weights"]]),
                    responses=np.concatenate([[0], responses[s, at]]),
                    whole=_whole(one, several or (np.diff(at) == 1).all()),
                    grouped=grouped,
                )
                yield np.unravel_index(s, shape[:-1]), at, thread


def _whole(one: Mapping[str, np.ndarray], together: bool) -> bool:
    shifted = (one["inputs"][1:] == one["targets"][:-1]).all()
    counted = (one["positions"] == np.arange(len(one["positions"]))).all()
    return bool(together and shifted and counted)


def parser(tok: base.Tokenizer, format: str | None) -> Callable[[Thread], Parsed]:
    """The function that finds the turns of threads of a format; None for plain text."""
    if format is None:
        return lambda thread: Parsed(thread, [], [], tok, frozenset(), "")
    form = chat.of(tok, format)
    markers, ends = _markers(form), frozenset([*form.stop_ids, tok.eos_id])
    header = _any_header(tok, markers, ends)
    names = {i: name for name, i in special_tokens.ids_by_name(tok).items()}
    stop = names.get(form.stop_ids[0], str(form.stop_ids[0]))

    def parse(thread: Thread) -> Parsed:
        turns, kinds = _turns(thread.ids.tolist(), tok, markers, header)
        return Parsed(thread, turns, kinds, tok, ends, stop)

    return parse


def roles(text: Parsed) -> list[str]:
    """The role of each token of a thread; that before a turn is part of the turn."""
    out = [""] * len(text.kinds)
    before = 0
    for turn in text.turns:
        out[before : turn.after] = [turn.role] * (turn.after - before)
        before = turn.after
    return out


class Marker(NamedTuple):
    """Tokens that a template writes between two turns.

    Attributes:
      ids: the tokens.
      role: of the turn after them, or None.
      end: the index of the id that ends the turn before, or None.
    """

    ids: tuple[int, ...]
    role: str | None
    end: int | None


def _markers(form: chat.ChatFormat) -> list[Marker]:
    """The markers of a template, from short dialogues, the longest first."""
    markers: dict[Marker, None] = {}
    for turns in (
        ("user", "assistant", "user", "assistant"),
        ("system", "user", "assistant", "user", "assistant"),
        *([] if form.literal else [("user", "assistant", TOOL, "assistant")]),
    ):
        try:
            markers |= dict.fromkeys(_markers_between(form, turns))
        except errors.DataError:  # such as a template without system turns
            continue
    # A response of a group ends where its turn does.
    markers |= {Marker((stop,), None, 0): None for stop in form.stop_ids}
    return sorted(markers, key=lambda marker: -len(marker.ids))


def _markers_between(form: chat.ChatFormat, roles: Sequence[str]) -> list[Marker]:
    turns = tuple(zip(roles, PROBE[-len(roles) :], strict=True))
    fields = tuple(ANSWER if role == TOOL else None for role in roles)
    chat_of = lambda i: records.Chat(turns[:i], fields=fields[:i])
    ((text, _),) = form.render([(chat_of(len(turns)), False)])
    (tokens,) = form.encode([text])
    ids, at, markers = tokens.ids.tolist(), 0, []
    for i, (role, content) in enumerate([*turns, (None, "")]):
        start, stop = at, text.find(content, at) if content else len(text)
        if stop < 0:
            return markers
        if role == records.ASSISTANT:  # up to the end of the prompt of a generation
            ((prompt, _),) = form.render([(chat_of(i), True)])
            stop = len(prompt) if text.startswith(prompt) else stop
        inside = (tokens.starts >= start) & (tokens.stops <= stop) & (stop > start)
        between = [token for token, yes in zip(ids, inside, strict=True) if yes]
        if between and between[0] == form.tok.bos_id:
            between = between[1:]
        if len(between) >= FEWEST or {*between} & {*form.tok.control.values()}:
            ends = [n for n, token in enumerate(between) if token in form.stop_ids]
            end = ends[0] if ends and i else None
            markers.append(Marker(tuple(between), role, end))
            # A row may begin after the end of a turn.
            rest = () if end is None else tuple(between[end + 1 :])
            if role and {*rest} & {*form.tok.control.values()}:
                markers.append(Marker(rest, role, None))
        at = text.find(content, at) + len(content)
    return markers


def _any_header(
    tok: base.Tokenizer, markers: Sequence[Marker], ends: frozenset[int | None]
) -> Callable[[Sequence[int], int], Marker | None]:
    """The function that finds the beginning of a turn of any role, such as a tool's.

    Where turns of the user and of the assistant begin and end their headers alike, what
    stands in between is the role.
    """
    starts = set(tok.control.values()) - ends
    headers = {}
    for marker in markers:
        after = marker.ids[0 if marker.end is None else marker.end + 1 :]
        header = list(itertools.dropwhile(lambda i: i not in starts, after))
        shortest = headers.get(marker.role, header)
        headers[marker.role] = min(header, shortest, key=len) or shortest
    user, reply = (headers.get(role) or [] for role in (records.USER, chat.ASSISTANT))
    pairs = zip(reversed(user[1:]), reversed(reply[1:]), strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    last = user[len(user) - same :]
    if not last or user[0] != reply[0] or user == reply:
        return lambda ids, i: None

    def find(ids: Sequence[int], i: int) -> Marker | None:
        if ids[i] != user[0]:
            return None
        for stop in range(i + 2, min(i + 2 + LONGEST_ROLE, len(ids) - same + 1)):
            if ids[stop - 1] in starts | ends:
                return None
            if ids[stop : stop + same] == last:
                role = tok.decode(ids[i + 1 : stop]).strip()
                return Marker(tuple(ids[i : stop + same]), role, None) if role else None
        return None

    return find


def _turns(
    ids: Sequence[int], tok: base.Tokenizer, markers: Sequence[Marker], header
) -> tuple[list[Turn], list[str]]:
    """The turns that stand between markers, and the kind of each token."""
    kinds, turns, role, start = [], [], None, 0
    special = set(tok.control.values())

    def other_end(stop: int) -> int | None:
        """Where a turn ends in a token of its own, such as one after a call."""
        at = next((i for i in range(stop - 1, start, -1) if ids[i] in special), None)
        return None if at is None or tok.decode(ids[at + 1 : stop]).strip() else at

    while len(kinds) < len(ids):
        i = len(kinds)
        here = (m for m in markers if tuple(ids[i : i + len(m.ids)]) == m.ids)
        if (marker := next(here, None) or header(ids, i)) is None:
            outside = BETWEEN if MARKER in kinds else BEFORE
            kinds.append(TEXT if role else START if ids[i] == tok.bos_id else outside)
            continue
        kinds += [MARKER] * len(marker.ids)
        end = other_end(i) if marker.end is None else i + marker.end
        if role is not None:
            turns.append(Turn(role, start, i if end is None else end, end))
        if marker.end is not None or (role is not None and end is not None):
            kinds[end:i] = [END, *[BETWEEN] * (i - end - 1)][: max(0, i - end)]
            kinds[end] = END
        role, start = marker.role, len(kinds)
    if role is not None and (start < len(ids) or role != chat.ASSISTANT):
        end = other_end(len(ids))
        turns.append(Turn(role, start, len(ids) if end is None else end, end))
    return turns, kinds

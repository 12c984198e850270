# SPDX-License-Identifier: Apache-2.0
"""Which tokens are trained on, and what is wrong with it: the faults that masks have.

It reads finished rows and the tokenizer, and nothing of the code that made them. A
thread is what attention sees as one text: a segment, or the beginning of one and a
branch; each fault is a function that looks at one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from alignjax.data import template_marks
from alignjax.data.chat import format as chat
from alignjax.data.tokenizers import base

# What a token is: the start, before any turn, between turns, a turn's role, text, end.
START, BEFORE, BETWEEN = "start", "before", "between"
MARKER, TEXT, END = "marker", "text", "end"
# Marks of templates, whose presence in a text says that it has been through one.
TEMPLATES = ("<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<start_of_turn>")
TEMPLATES += ("<|start_header_id|>", "<|eot_id|>", "\n\nHuman:", "\n\nAssistant:")


class Thread(NamedTuple):
    """The first input of a text and all targets, n tokens.

    Attributes:
      where: the row, and which of its texts.
      ids: ints [n].
      weights: floats [n], of the targets; that of the first is 0.
      responses: ints [n], whose response it is, 0 for none.
      whole: whether inputs, targets and positions go together, one after the other.
      grouped: whether it is of a group of responses.
    """

    where: str
    ids: np.ndarray
    weights: np.ndarray
    responses: np.ndarray
    whole: bool
    grouped: bool


class Turn(NamedTuple):
    """What is said between a marker of a role and the next; indices of a thread.

    `start` is its first token after the marker, `stop` the end of its text; `end` is
    its `<end>`, or None.
    """

    role: str
    start: int
    stop: int
    end: int | None


class Text(NamedTuple):
    """A thread with what its tokens are.

    `ends` are the tokens that end turns or documents, `stop` the name of the first.
    """

    thread: Thread
    turns: list[Turn]
    kinds: list[str]
    tok: base.Tokenizer
    ends: frozenset[int | None]
    stop: str

    @property
    def trained(self) -> list[Turn]:
        """The assistant's turns of which something counts."""
        weights = self.thread.weights
        stops = [(t, t.stop if t.end is None else t.end + 1) for t in self.turns]
        return [
            turn
            for turn, stop in stops
            if turn.role == chat.ASSISTANT and weights[turn.start : stop].any()
        ]


def _no_terminator(text: Text) -> str | None:
    for turn in text.trained:
        if turn.end is not None and not text.thread.weights[turn.end]:
            return f"the {text.stop} at {turn.end} is not trained: a model never stops"
    return None


def _two_terminators(text: Text) -> str | None:
    ids = text.thread.ids.tolist()
    for i in range(1, len(ids)):
        if ids[i] in text.ends and ids[i - 1] in text.ends:
            return f"the tokens at {i - 1} and {i} both end a turn"
    return None


def _user_trained(text: Text) -> str | None:
    for turn in text.turns:
        stop = turn.stop if turn.end is None else turn.end + 1
        count = np.count_nonzero(text.thread.weights[turn.start : stop])
        if count and turn.role != chat.ASSISTANT:
            return f"{count} tokens of a turn of the {turn.role} count"
    return None


def _prompt_trained(text: Text) -> str | None:
    kinds = np.array(text.kinds)
    outside = np.isin(kinds, [START, BETWEEN, MARKER])
    if text.thread.grouped:
        outside = text.thread.responses == 0
    if count := np.count_nonzero(text.thread.weights[outside]):
        first = np.flatnonzero(outside & (text.thread.weights != 0))[0]
        return (
            f"{count} tokens of the prompt or the template count, the first at {first}"
        )
    return None


def _two_starts(text: Text) -> str | None:
    if text.tok.bos_id is None:
        return None
    at = np.flatnonzero(text.thread.ids == text.tok.bos_id).tolist()
    if at not in ([], [0]):
        return f"start tokens at {', '.join(map(str, at))}"
    return None


def _leak(text: Text) -> str | None:
    if not text.thread.whole:
        return "inputs, targets and positions are not those of one text"
    systems = [i for i, turn in enumerate(text.turns) if turn.role == chat.SYSTEM]
    if systems not in ([], [0]):
        return "a second dialogue begins in it"
    numbers = set(text.thread.responses.tolist()) - {0}
    if len(numbers) > 1:
        return f"it has responses {sorted(numbers)}, which see one another"
    return None


def _truncated(text: Text) -> str | None:
    if text.turns and text.turns[-1].end is None:
        return f"the last turn, of the {text.turns[-1].role}, has no {text.stop}"
    for turn in text.trained:
        if turn.end is None:
            return f"the reply at {turn.start} has no {text.stop}"
    if BEFORE in text.kinds and not text.thread.grouped:
        return "it begins inside of a turn"
    return None


def _template_inside(text: Text) -> str | None:
    for turn in text.turns:
        said = text.tok.decode(text.thread.ids[turn.start : turn.stop].tolist())
        for mark in (*text.tok.control, *TEMPLATES):
            if mark in said:
                return f"the text of the {turn.role} at {turn.start} spells {mark!r}"
    return None


def _reply_lost(text: Text) -> str | None:
    for turn in text.trained:
        lost = np.flatnonzero(text.thread.weights[turn.start : turn.stop] == 0)
        if len(lost):
            which = "the first token" if lost[0] == 0 else f"token {lost[0]}"
            return f"{which} of the reply at {turn.start} counts nothing"
    return None


def _nothing_trained(text: Text) -> str | None:
    return None if text.thread.weights.any() else "no token of it counts"


FAULTS: dict[str, Callable[[Text], str | None]] = {
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
# These are seen without reading what is said.
PLAIN = ("two starts", "leak", "nothing trained")
PADDING = "padding trained"
LENGTHS = "lengths"


def faults(
    rows: Mapping[str, Any], tok: base.Tokenizer, *, format: str | None = "roles"
) -> list[str]:
    """What is wrong with rows, a line each, which begins with the name of the fault.

    Args:
      rows: of a `dataset.Dataset`, text or groups.
      format: that of `chat` which they are in; None for plain text, of which only what
        needs no roles is looked at.
    """
    found = _padding(rows) + _lengths(rows)
    parse = parser(tok, format)
    for thread in threads(rows):
        text = parse(thread)
        for name, check in FAULTS.items():
            if (format or name in PLAIN) and (reason := check(text)):
                found.append(f"{name}: {thread.where}: {reason}")
    return found


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
    lengths, found = np.asarray(rows["lengths"]), []
    size = lengths[0].size if len(lengths) else 0
    for i, row in enumerate(np.asarray(rows["responses"])):
        count = np.bincount(row.ravel(), minlength=size + 1)[1:]
        if count.tolist() != lengths[i].ravel().tolist():
            found.append(f"{LENGTHS}: row {i}: not what its responses have")
        silent = (lengths[i] > 0).any(1) & (np.asarray(rows["group_weights"])[i] == 0)
        if silent.any():
            found.append(f"{LENGTHS}: row {i}: a group that counts nothing")
    return found


def threads(rows: Mapping[str, Any]) -> Iterator[Thread]:
    """All texts of rows; of a segment with branches one for each branch."""
    return (thread for _, _, thread in placed(rows))


def placed(
    rows: Mapping[str, Any],
) -> Iterator[tuple[tuple[int, ...], np.ndarray, Thread]]:
    """(the sequence, the places in it, the text) of all texts of rows."""
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
                    continue  # the beginning, which every branch has
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


def parser(tok: base.Tokenizer, format: str | None) -> Callable[[Thread], Text]:
    """What reads threads of a format: their turns, and what each token is."""
    if format is None:
        return lambda thread: Text(thread, [], [], tok, frozenset(), "")
    shape = template_marks.of(tok, format)
    return lambda thread: _parse(thread, tok, shape)


def said(text: Text) -> list[str]:
    """Whose turn each token of a thread is of; what is before a turn is of it."""
    roles = [""] * len(text.kinds)
    before = 0
    for turn in text.turns:
        stop = turn.stop if turn.end is None else turn.end + 1
        roles[before:stop] = [turn.role] * (stop - before)
        before = stop
    return roles


def _parse(thread: Thread, tok: base.Tokenizer, shape: template_marks.Shape) -> Text:
    kinds, turns, role, start = [], [], None, 0
    ids = thread.ids.tolist()
    while len(kinds) < len(ids):
        i = len(kinds)
        mark = shape.at(ids, i)
        if mark is None:
            started = MARKER in kinds
            outside = BETWEEN if started else BEFORE
            kinds.append(TEXT if role else START if ids[i] == tok.bos_id else outside)
            continue
        kinds += [MARKER] * len(mark.ids)
        if mark.end is not None:
            kinds[i + mark.end] = END
        if role is not None:
            end = None if mark.end is None else i + mark.end
            turns.append(Turn(role, start, i, end))
        role, start = mark.role, len(kinds)
    if role is not None and (start < len(ids) or role != chat.ASSISTANT):
        turns.append(Turn(role, start, len(ids), None))
    ends = shape.stop_ids | {tok.eos_id}
    return Text(thread, turns, kinds, tok, ends, shape.stop)

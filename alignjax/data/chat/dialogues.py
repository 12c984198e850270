# SPDX-License-Identifier: Apache-2.0
"""Dialogues to tokens, and which of these are trained on.

The text that a template writes is tokenised as a whole, as in transformers. A reply is
the text of the template's `{% generation %}` blocks. Where it has none, a reply is the
text beyond the rendering of all before it, which has to be a beginning of the whole
(the prefix property): else a model would be trained on prompts that it never gets.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from alignjax import errors
from alignjax.data import records
from alignjax.data.chat import format as chats
from alignjax.data.chat import rendering
from alignjax.data.tokenizers import base
from alignjax.data.tokens import tokenizing


def tokenize(
    tok: base.Tokenizer,
    dialogues: Sequence[records.Chat],
    *,
    format: str,
    train_on: str,
    bos: bool,
) -> list[tokenizing.Tokens]:
    """Dialogues as tokens; the weights of what is not trained on are 0.

    Args:
      train_on: the assistant's turns that are, "all" of them or the "last", but for
        `Chat.skipped`. Their tokens and what ends each count `Chat.weight`.
      bos: whether there is a start token; a template that writes one has but that one.

    Raises:
      ConfigError: as of `format.of`.
      DataError: a record that is no dialogue to train on; one that the template
        refuses, or that spells a control token.
    """
    form = chats.of(tok, format)
    requests = []
    for dialogue in dialogues:
        if reason := _fault(dialogue, form.literal, train_on):
            raise errors.DataError(reason)
        form.check(dialogue)
        requests.append((dialogue, False))
        if not _marks_replies(form, dialogue):
            for i in dialogue.learned(train_on):  # without and with each reply
                requests.append((dialogue._replace(turns=dialogue.turns[:i]), True))
                so_far = dialogue.turns[: i + 1]
                requests.append((dialogue._replace(turns=so_far), False))
    rendered = iter(form.render(requests))
    texts, spans = [], []
    for dialogue in dialogues:
        whole, turns = next(rendered), dialogue.learned(train_on)
        texts.append(whole.text)
        if _marks_replies(form, dialogue):
            spans.append(_generated(whole.spans, dialogue, turns, train_on))
        else:
            spans.append(_beyond(form, whole.text, turns, rendered))
    rows = []
    encoded = form.encode(texts)
    for dialogue, replies, tokens in zip(dialogues, spans, encoded, strict=True):
        weights = np.zeros(len(tokens.ids))
        for start, stop in replies:
            first, last = form.reply_tokens(tokens, start, stop)
            weights[first:last] = dialogue.weight
        ids = form.with_bos(tokens.ids.tolist(), bos)
        before = np.zeros(len(ids) - len(weights))
        rows.append(tokenizing.Tokens(ids, np.concatenate([before, weights])))
    return rows


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
    """
    tokens_of = functools.partial(tokenize, tok, format=format, train_on="all", bos=bos)
    dialogues = [d for d in documents if not isinstance(d, records.Text)]
    texts = [d for d in documents if isinstance(d, records.Text)]
    whole = [
        d._replace(skipped=()) if isinstance(d, records.Chat) else d for d in dialogues
    ]
    rows_of_dialogues = iter(tokens_of(whole))
    # What is left out is what would be learned if nothing else were.
    others = [d._replace(skipped=(*d.learned("all"),)) for d in dialogues if d.skipped]
    left_out = iter(tokens_of(others))
    rows_of_texts = iter(tokenizing.tokenize_text(tok, texts, bos=bos))
    rows = []
    for document in documents:
        if isinstance(document, records.Text):
            rows.append(next(rows_of_texts))
            continue
        ids = next(rows_of_dialogues).ids
        weights = np.full(len(ids), document.weight)
        if document.skipped:
            weights[np.asarray(next(left_out).weights) > 0] = 0.0
        rows.append(tokenizing.Tokens(ids, weights if (weights != 1).any() else None))
    return rows


tokenize_everything.key = "alignjax.data.chat:tokenize_everything"


def _fault(dialogue: Any, literal: bool, train_on: str) -> str | None:
    """Why this is no dialogue to train on."""
    if not isinstance(dialogue, records.Chat):
        return (
            f"expected a dialogue, found {type(dialogue).__name__}; set the source's "
            "option format to what its rows are, or leave data.chat out for plain text"
        )
    reason = chats.fault(dialogue, literal)
    reason = reason or records.fault_of_weight(dialogue.weight)
    if not reason and not dialogue.learned(train_on):
        which = " of a weight above 0" if dialogue.skipped else ""
        reason = f"no turn of the assistant{which}, so nothing to train on"
    return reason


def _marks_replies(form: chats.ChatFormat, dialogue: records.Chat) -> bool:
    return rendering.marks_replies(form.with_tools if dialogue.tools else form.source)


def _beyond(
    form: chats.ChatFormat,
    whole: str,
    learned: Sequence[int],
    parts: Iterator[rendering.Rendered],
) -> list[tuple[int, int]]:
    """Where in the text replies are: each beyond its prompt, to its end.

    Args:
      parts: for each reply the dialogue before and with it.
    """
    spans = []
    for i in learned:
        prompt, so_far = next(parts).text, next(parts).text
        so_far = so_far[: form.end_of_turn(so_far, len(prompt))]
        for part, what in ((prompt, "before"), (so_far, "with")):
            if not whole.startswith(part):
                raise errors.DataError(
                    f"turn {i + 1}: the template writes what is {what} it in another "
                    f"way once more turns follow: {chats.difference(part, whole)}, so "
                    "a model would learn from what it never gets; set data.train_on = "
                    '"last", or give data.chat a template with {% generation %} around '
                    "what the assistant says"
                )
        if not so_far.startswith(prompt):
            raise errors.DataError(
                f"turn {i + 1}: what the template writes for the assistant to go on "
                f"with is not how it begins: {chats.difference(prompt, so_far)}"
            )
        spans.append((len(prompt), len(so_far)))
    return spans


def _generated(
    spans: Sequence[tuple[int, int]],
    dialogue: records.Chat,
    learned: Sequence[int],
    train_on: str,
) -> list[tuple[int, int]]:
    """The `{% generation %}` blocks of the turns that are learned."""
    spans = [(start, stop) for start, stop in spans if start < stop]
    if not spans:
        raise errors.DataError("the template generates nothing of it")
    if train_on == "all" and not dialogue.skipped:
        return spans
    replies = records.Chat(dialogue.turns).learned("all")
    if len(spans) != len(replies):
        raise errors.DataError(
            f"the template generates {len(spans)} pieces of {len(replies)} turns of "
            "the assistant, so which of them to train on is unknown; set "
            'data.train_on = "all", with no weights of 0'
        )
    return [span for i, span in zip(replies, spans, strict=True) if i in learned]

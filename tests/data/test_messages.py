# SPDX-License-Identifier: Apache-2.0
"""What messages may look like, what of them is read, and what is refused."""

import groups
import pytest
import test_chat

from alignjax import errors
from alignjax.data import formats, messages, records
from alignjax.data.chat import dialogues

USER, REPLY = ("user", "hi"), ("assistant", "hello")


def message(role, text, **more):
    return {"role": role, "content": text, **more}


def columns(**of):
    return {"role": ["user", "assistant"], "content": ["hi", "hello"]} | of


def reply(**more):
    return [message("user", "hi"), message("assistant", "hello", **more)]


@pytest.mark.parametrize(
    "value",
    [
        reply(),
        reply(id=1, timestamp="now", weight=None, train=None, name=""),
        reply(weight=1),
        columns(weight=[None, 1], name=None),
    ],
)
def test_messages_are_turns(value):
    assert messages.turns(value, "prompt") == (USER, REPLY)
    assert messages.dialogue(value, "messages") == ((USER, REPLY), None, ())


@pytest.mark.parametrize("format", ["messages", "prompt_response", "preference"])
@pytest.mark.parametrize(
    "value, reason",
    [
        ([], "expected messages, found none"),
        ({}, "expected messages, found dict"),
        (message("assistant", "a"), "role, content are no lists of one length; give a"),
        (message("ab", "cd"), "role, content are no lists of one length"),
        (columns(content=["a"]), "role, content are no lists of one length"),
        (columns(role=None), "message 1 has no role and content"),
        (columns(id=3), "role, content, id are no lists of one length"),
        ([message(None, "okay")], "message 1 has a role that is no text: None"),
        ([message(["user"], "okay")], "message 1 has a role that is no text: ['user']"),
        (reply(train=False), "message 2 has 'train', which is not read; leave it out"),
        (reply(loss=True), "message 2 has 'loss', which is not read"),
        (reply(weight=0.5), "message 2, of the assistant, has weight 0.5; that is 0"),
        (reply(weight=[0]), "message 2, of the assistant, has weight [0]"),
        ([message("user", "hi", weight=1)], "message 1, of the user, has weight 1"),
    ],
)
def test_what_are_no_messages_is_refused(format, value, reason):
    row = dict(messages=value, prompt=value, response="a", chosen=value, rejected=value)
    bad = formats.reader(format).read(row)
    assert isinstance(bad, records.BadRow) and reason in bad.reason


@pytest.mark.parametrize(
    "more, what",
    [
        (dict(name="jack"), "name"),
        (dict(reasoning="hm"), "reasoning"),
        (dict(weight=0), "weight 0"),
    ],
)
def test_what_comparisons_cannot_have_is_not_lost(more, what):
    row = {"chosen": reply(**more), "rejected": reply()}
    bad = formats.reader("preference").read(row)
    assert bad.reason.startswith(f"field 'chosen': message 2 has {what}, which only di")
    if what != "weight 0":
        found = formats.reader("messages").read({"messages": reply(**more)})
        with pytest.raises(errors.DataError, match=f"{what}: not in the format"):
            test_chat.tokens_of(found.turns, fields=found.fields)


DIALOGUE = [
    *(message("system", "be brief", weight=0), message("user", "hi", weight=0)),
    *(message("assistant", "hello", weight=0), message("user", "bye")),
    message("assistant", "so long", weight=1),
]


def test_a_reply_of_weight_0_is_not_learned():
    found = formats.reader("messages").read({"messages": DIALOGUE, "weight": 0.5})
    assert found == records.Chat(test_chat.DIALOGUE, 0.5, skipped=(2,))
    last = test_chat.tokens_of(test_chat.DIALOGUE, weight=0.5, train_on="last")
    for train_on in ("all", "last"):
        options = dict(format="roles", train_on=train_on, bos=False)
        (row,) = dialogues.tokenize(groups.TOK, [found], **options)
        assert list(row.ids) == list(last.ids)
        assert list(row.weights) == list(last.weights)
    silent = found._replace(skipped=(4,))
    with pytest.raises(errors.DataError, match="assistant of a weight above 0, so no"):
        dialogues.tokenize(groups.TOK, [silent], **options)

# SPDX-License-Identifier: Apache-2.0
"""What ends a response, and the text that is left."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import subject

from alignjax import models, sampling
from alignjax.sampling import text


@functools.cache
def constant(*cycle):
    """A model that goes round `cycle`, where its place is the position and no more.

    What follows a start of document alone is the first of the cycle.
    """
    room = 64
    section = subject.SHAPE | dict(positions="learned", tied=False, d_model=room)
    model = models.build(
        section | dict(max_length=room, heads=2, layers=1), subject.ROWS
    )
    params = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        nn.unbox(jax.eval_shape(model.init, jax.random.key(0))),
    )
    params["position_embed"] = jnp.eye(room)
    params["norm"]["scale"] = jnp.ones(room)
    following = np.resize(cycle, room)
    params["head"] = (
        jnp.zeros((room, subject.ROWS)).at[np.arange(room), following].set(10.0)
    )
    return model, params


def test_the_end_of_document_stops_by_default():
    model_and_params = constant(97, 98, subject.EOS)
    (row,) = subject.generate([""], model_and_params, temperature=0)
    assert row.ids == [97, 98, subject.EOS] and row.text == "ab"
    assert (row.finish_reason, row.stop) == ("stop_token", subject.EOS)
    (row,) = subject.generate([""], model_and_params, temperature=0, stop_ids=[98])
    assert row.ids == [97, 98] and row.text == "a" and row.stop == 98
    (row,) = subject.generate([""], model_and_params, temperature=0, max_tokens=2)
    assert row.text == "ab" and (row.finish_reason, row.stop) == ("length", None)
    (row,) = subject.generate([[subject.BOS, 97, 98]], model_and_params, temperature=0)
    assert row.ids == [subject.EOS] and row.text == ""


def test_stop_tokens_end_a_row_and_its_text():
    rows = subject.generate(subject.PROMPTS, stop_ids=list(range(128)))
    for row in rows:
        assert row.finish_reason == "stop_token" and row.stop == row.ids[-1] < 128
        assert all(i >= 128 for i in row.ids[:-1])
        assert row.text == bytes(row.ids[:-1]).decode(errors="replace")
        assert len(row.logprobs) == len(row.model_logprobs) == len(row.ids)
    assert len({len(row.ids) for row in rows}) > 1


@pytest.mark.parametrize(
    "string, stop, expected, used, which",
    [
        ("hello world, ", ["wor"], "hello ", 9, "wor"),
        ("hello world, ", [", h", "zzz"], "hello world", 14, ", h"),
        ("abcdef", ["bcd", "b"], "a", 2, "b"),  # complete first
        ("abcdef", ["cd", "bcd"], "a", 4, "bcd"),  # complete together: the leftmost
        ("na na café ", ["é"], "na na caf", 11, "é"),
        ("tick 🚀 ", ["🚀"], "tick ", 9, "🚀"),
        ("0123456789abcdefgh", ["g"], "0123456789abcdef", 17, "g"),  # second chunk
        ("0123456789abcdefgh", ["fg"], "0123456789abcde", 17, "fg"),  # across chunks
        ("abc", ["abd"], "abcabcabcabcabcabcabcabcabcabc", 30, None),
    ],
)
def test_stop_strings_cut_the_text(string, stop, expected, used, which):
    options = dict(max_tokens=30, temperature=0, stop=stop)
    (row,) = subject.generate([""], constant(*string.encode()), **options)
    assert row.text == expected
    assert len(row.ids) == len(row.logprobs) == len(row.model_logprobs) == used
    assert bytes(row.ids) == (string.encode() * 30)[:used]
    assert (row.stop, row.finish_reason) == (
        which,
        "stop_string" if which else "length",
    )
    pieces = list(
        sampling.stream(
            *constant(*string.encode()), subject.TOKENIZER, "", **options, chunk=1
        )
    )
    assert "".join(pieces) == expected
    assert len(pieces) > 1 or len(expected) == 1


def test_stop_strings_do_not_depend_on_the_batch():
    options = dict(max_tokens=40, stop_ids=[])
    free = subject.generate(subject.PROMPTS, **options)
    options["stop"] = [next(c for c in row.text[7:] if c.isascii()) for row in free]
    rows = subject.generate(subject.PROMPTS, **options)
    alone = [
        subject.generate([p], seeds=[i], **options)[0]
        for i, p in enumerate(subject.PROMPTS)
    ]
    subject.assert_same(rows, alone)
    assert [row.finish_reason for row in rows] == ["stop_string"] * 4
    for row, other in zip(rows, free, strict=True):
        assert other.text.startswith(row.text + row.stop)
        assert other.ids[: len(row.ids)] == row.ids


def test_a_prompt_that_holds_the_stop_string_goes_on():
    (row,) = subject.generate(
        ["hello "], constant(*b"hello "), stop=["hello "], temperature=0
    )
    assert row.finish_reason == "stop_string"
    assert len(row.ids) == 6 and row.text == ""


def test_text_of_a_response_keeps_what_decoders_drop_in_front():
    # As sentencepiece does: a word's space is part of it, and the first is dropped.
    decode = lambda ids: "".join([" to", " be", " or"][i] for i in ids).removeprefix(
        " "
    )
    assert text.of_response(decode, [0], [1, 2]) == " be or"
    assert text.of_response(decode, [], [1, 2]) == "be or"
    rocket = list("🚀!".encode())
    assert text.of_response(subject.TOKENIZER.decode, rocket[:2], rocket[2:]) == "🚀!"
    assert text.of_response(subject.TOKENIZER.decode, [97, *rocket[:1]], [98]) == "b"
    assert (
        text.of_response(subject.TOKENIZER.decode, [97], rocket[:3]) == text.UNDECODED
    )


def test_streamed_text_is_never_taken_back():
    assert text.settled("abc<", ["<end>"]) == "abc"
    assert text.settled("abc<e", ["x", "<end>"]) == "abc"
    assert text.settled("abc<f", ["<end>"]) == "abc<f"
    assert text.settled("ab" + text.UNDECODED, []) == "ab"
    for seed in range(3):
        options = dict(max_tokens=25, temperature=0.9)
        (row,) = subject.generate(["ab"], seeds=[seed], stop=["q"], **options)
        stream = sampling.stream(
            *subject.nano(), subject.TOKENIZER, "ab", seed=seed, stop=["q"], **options
        )
        assert "".join(stream) == row.text

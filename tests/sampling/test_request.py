# SPDX-License-Identifier: Apache-2.0
"""What cannot be generated is refused, by name."""

import math

import numpy as np
import pytest
import subject

from alignjax import errors, models, sampling
from alignjax.data.tokenizers import base
from alignjax.sampling import text


def test_prompts_of_tokens_are_taken_as_they_are():
    text_row, token_row = (
        subject.generate(["ab"])[0],
        subject.generate([[subject.BOS, 97, 98]])[0],
    )
    subject.assert_same([text_row], [token_row])
    assert subject.generate([np.array([97, 98])])[0].prompt_ids == [97, 98]
    assert subject.generate([]) == []


def test_bad_settings_are_refused_together_and_by_name():
    with pytest.raises(errors.ConfigError) as caught:
        subject.generate(
            ["a", "b"],
            max_tokens=0,
            temperature=-0.5,
            top_k=0,
            top_p=1.5,
            min_p=-0.1,
            stop=[""],
            stop_ids=[subject.ROLE + 1],
            seeds=[-1],
            batch_size=True,
        )
    named = {problem.partition(":")[0] for problem in caught.value.problems}
    assert named == {
        *("max_tokens", "temperature", "top_k", "top_p", "min_p"),
        *("stop", "stop_ids", "seeds", "batch_size"),
    }
    for bad in (
        *(dict(temperature=x) for x in (math.nan, math.inf, True, "1", 1e-9)),
        *(dict(top_p=x) for x in (0, math.nan)),
        *(dict(top_k=x) for x in (1.5, True)),
        *(dict(stop=x) for x in ("word", [text.UNDECODED], [b"x"])),
        dict(seeds=[2**32]),
        dict(max_tokens=1.5),
        *(dict(seeds=x) for x in (3, "3", [1, 2])),
        *(dict(stop_ids=x) for x in (257, "a", [None])),
        dict(stop=3),
    ):
        with pytest.raises(errors.ConfigError, match=f"^{next(iter(bad))}: "):
            subject.generate(["a"], **bad)


@pytest.mark.parametrize(
    "prompts, max_tokens, message",
    [
        (
            ["a", "x" * 300],
            12,
            r"prompts\[1\]: 301 tokens .* = 256; shorten .* 46 tokens",
        ),
        (
            ["x" * 100],
            156,
            r"prompts\[0\]: 101 tokens .* set max_tokens to 155 at most",
        ),
        ([[1, 259]], 12, r"prompts\[0\]: 259 is not a token"),
        ([[1.5]], 12, r"prompts\[0\]: 1.5 is not a token"),
        ([None], 12, r"prompts\[0\]: None is no list"),
        ([[[1, 2]]], 12, r"prompts\[0\]: \[1, 2\] is not a token"),
        (np.ones((1, 1, 2), int), 12, r"prompts\[0\]: array.* is not a token"),
        (3, 12, "prompts: 3 is no list"),
        ("abc", 12, r"prompts: 'abc' is no list"),
        (["a", []], 12, r"prompts\[1\]: empty, and the tokenizer has no start"),
        (["a", "\udcff"], 12, r"prompts\[1\]: .*Unicode"),
    ],
)
def test_bad_prompts_are_refused_by_place(prompts, max_tokens, message):
    with pytest.raises(errors.ConfigError, match=message):
        subject.generate(prompts, max_tokens=max_tokens)


@pytest.mark.parametrize(
    "prompts, message",
    [
        (["a", "x" * 60], r"prompts\[1\]: 61 tokens.* = 150, .*max_tokens to 90 at"),
        (["x" * 180], r"prompts\[0\]: 181 tokens.* the prompt by 31 tokens at least"),
    ],
)
def test_longrope_is_refused_texts_that_may_become_long(prompts, message):
    """Before any is begun: the cache of a short one grows on the way."""
    scaling = dict(kind="longrope", original_length=150)
    scaling |= dict(short_factor=[1.0] * 4, long_factor=[4.0] * 4)
    shape = subject.SHAPE | dict(rope_scaling=scaling, max_length=400)
    model, params = models.build(shape, subject.ROWS), subject.nano()[1]
    with pytest.raises(errors.ConfigError, match=message):
        subject.generate(prompts, (model, params), max_tokens=100)
    with pytest.raises(errors.ConfigError, match="to the numbers of long_factor"):
        given = (subject.TOKENIZER, prompts[-1])
        sampling.stream(model, params, *given, max_tokens=100)


def test_what_the_tokenizer_cannot_start_or_spell_is_refused():
    model_and_params = subject.nano()
    startless = subject.TOKENIZER._replace(bos_id=None)
    with pytest.raises(errors.ConfigError, match=r"prompts\[0\]: empty, and the tok"):
        sampling.generate(*model_and_params, startless, [""], max_tokens=3)
    files = {"chars.json": b'{"chars": "ab", "control": []}'}
    chars = base.from_files("chars", files)
    with pytest.raises(errors.ConfigError, match=r"prompts\[1\]: character 'c'"):
        sampling.generate(*model_and_params, chars, ["ab", "abc"], max_tokens=3)


def test_the_whole_of_max_length_can_be_used():
    (row,) = subject.generate(["x" * 100], max_tokens=155, stop_ids=[])
    assert len(row.prompt_ids + row.ids) == 256
    assert (row.model_logprobs < 0).all()

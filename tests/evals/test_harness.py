# SPDX-License-Identifier: Apache-2.0
"""A run as lm-eval asks models: each trap of such harnesses, and plain answers.

lm-eval itself is not needed; `test_lm_eval` has it ask.
"""

import math
import pathlib
import types

import numpy as np
import pytest
from scipy import special

from alignjax import analysis, errors
from alignjax.analysis import scoring
from alignjax.data.chat import format as formats
from alignjax.data.chat import templates
from alignjax.data.tokenizers import base
from alignjax.evals import continuations, harness
from tests.field import byte_llama

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden/huggingface"
BOS = byte_llama.BOS
CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A Llama with a token a byte, a start token, ChatML, and a context of 48."""
    folder = tmp_path_factory.mktemp("folders") / "llama"
    byte_llama.write(
        folder, model={"max_position_embeddings": 48}, bos_token="<s>", eos_token="</s>"
    )
    return analysis.open_run(folder)


def ask(*arguments):
    return [types.SimpleNamespace(args=one) for one in arguments]


def logits(run, ids):
    """float64 [T, V]; of rows of one length, so that one program is compiled."""
    row = [*ids, *[0] * (48 - len(ids))]
    return np.asarray(run.logits(row), np.float64)[: len(ids)]


def log_probs(run, ids):
    """float64 [T - 1]: of each token after the first."""
    own = special.log_softmax(logits(run, ids[:-1]), axis=-1)
    return own[np.arange(len(ids) - 1), ids[1:]]


def tokens(run, text):
    return run.tokenizer.encode(text)


def test_likelihoods_of_continuations_are_those_of_teacher_forcing(run):
    rng = np.random.default_rng(0)
    draw = lambda n: rng.integers(0, 256, n).tolist()
    rows = [scoring.Row(draw(a), draw(b)) for a in (1, 7, 30) for b in (1, 2, 9, 18)]
    before, middle = draw(12), draw(3)
    # They share a pass: other last tokens, one of them twice.
    rows += [scoring.Row(before, [*middle, last]) for last in (1, 2, 3, 2)]
    best = int(logits(run, before)[-1].argmax())
    rows += [scoring.Row(before, [best]), scoring.Row(before, [(best + 1) % 256])]
    params, done = run.weights(), []
    measured = continuations.measure(
        run.model, params, rows, batch_size=4, progress=done.append
    )
    for row, one in zip(rows, measured, strict=True):
        ids = [*row.prompt_ids, *row.ids]
        expected = log_probs(run, ids)[-len(row.ids) :]
        assert one.logp == pytest.approx(expected.sum(), abs=2e-4)
        written = logits(run, ids[:-1]).argmax(-1)[-len(row.ids) :].tolist()
        assert one.greedy == (written == row.ids)
    assert [one.greedy for one in measured[-2:]] == [True, False]
    assert done == sorted(done) and done[-1] == len(rows)
    with pytest.raises(ValueError, match="vocabulary"):
        continuations.measure(run.model, params, [scoring.Row([1], [999])])


@pytest.mark.parametrize("length", [1, 16, 17, 100, 129, 500, 1000, 5000])
def test_rows_are_padded_by_a_quarter_at_most(length):
    size = continuations.padded(length)
    assert length <= size < length + max(continuations.LEAST, length / 4)


def test_texts_begin_with_one_start_token(run):
    model = harness.Harness(run)
    assert model._encode(["ab"]) == [tokens(run, "ab")]  # its folder adds none
    assert BOS not in model._encode(["<s>ab"])[0]  # a text spells no token
    opened = analysis.open_run(GOLDEN / "llama3")  # whose template writes one
    model, bos = harness.Harness(opened), opened.tokenizer.bos_id
    assert model._encode(["the sea"]) == [[bos, *tokens(opened, "the sea")]]
    text = model.apply_chat_template([{"role": "user", "content": "the sea"}])
    (ids,) = model._encode([text])
    assert ids[0] == bos and ids.count(bos) == 1
    assert ids == opened.prompt_ids("the sea")


def test_a_context_and_its_continuation(run):
    model = harness.Harness(run)
    expected = log_probs(run, tokens(run, "ab cd"))
    ((logp, greedy),) = model.loglikelihood(ask(("ab", " cd")))
    assert logp == pytest.approx(expected[1:].sum(), abs=1e-4) and greedy is False
    # A space at the end of the context is the continuation's.
    assert model.loglikelihood(ask(("ab ", "cd")))[0] == (logp, greedy)
    # Without a context the start token is one.
    ((logp, _),) = model.loglikelihood(ask(("", "ab")))
    expected = log_probs(run, [BOS, *tokens(run, "ab")])
    assert logp == pytest.approx(expected.sum(), abs=1e-4)
    with pytest.raises(errors.DataError, match="without a continuation"):
        model.loglikelihood(ask(("ab", "")))


def test_a_token_across_the_two_is_scored_whole(run):
    model = harness.Harness(run)
    row = model._row([BOS, 1, 2, 9], [BOS, 1, 2, 3])  # 9 is what 3 became
    assert row == scoring.Row([BOS, 1, 2], [9])
    assert model._row([BOS, 7], [BOS, 7]) == scoring.Row([BOS], [7])
    assert model.notes["token_across"] == 2
    assert model._row([5, 6], [5]) == scoring.Row([5], [6])
    assert model.notes["token_across"] == 2


def test_what_is_longer_than_the_context_is_cut_on_the_left_and_counted(run):
    model = harness.Harness(run)
    ((logp, _),) = model.loglikelihood(ask(("x" * 60, "yz")))
    expected = log_probs(run, tokens(run, "x" * 47 + "yz"))
    assert logp == pytest.approx(expected[-2:].sum(), abs=1e-4)
    assert model.notes["cut_on_the_left"] == 1
    with pytest.raises(errors.DataError, match="a continuation of 60 tokens"):
        model.loglikelihood(ask(("x", "y" * 60)))


def test_rolling_texts_are_scored_once_each_by_themselves(run):
    model = harness.Harness(run)
    text = "".join(chr(97 + i % 26) for i in range(130))
    short, long, nothing = model.loglikelihood_rolling(ask(("ab",), (text,), ("",)))
    assert nothing == 0
    assert short == pytest.approx(
        log_probs(run, [BOS, *tokens(run, "ab")]).sum(), abs=1e-4
    )
    ids = [BOS, *tokens(run, text)]
    windows = list(harness._windows(ids[1:], BOS, 48))
    assert [i for row in windows for i in row.ids] == ids[1:]
    assert [len(row.ids) for row in windows] == [48, 48, 34]
    # The last one looks back as far as there is room.
    assert [len(row.prompt_ids) for row in windows] == [1, 1, 15]
    sums = [
        log_probs(run, [*before, *own])[-len(own) :].sum() for before, own in windows
    ]
    assert long == pytest.approx(math.fsum(sums), abs=1e-3)


def test_texts_end_before_a_stop_and_depend_on_no_other(run):
    model = harness.Harness(run, batch_size=2)
    options = {"until": [], "max_gen_toks": 12}
    contexts = ["ab", "c", "abcabc", "zz"]
    texts = model.generate_until(ask(*((c, options) for c in contexts)))
    by_run = run.generate(contexts, max_tokens=12, temperature=0.0)
    assert texts == [run.tokenizer.decode(one.ids) for one in by_run]
    stop = next(c for c in texts[0] if c.isascii())
    cut, *others = model.generate_until(
        ask(
            ("ab", {"until": stop, "max_gen_toks": 12}),
            *((c, options) for c in contexts[1:]),
        )
    )
    assert cut == texts[0][: texts[0].index(stop)] and others == texts[1:]
    drawn = [{**options, "do_sample": True, "temperature": t} for t in (1.0, 3.0)]
    one, two = (model.generate_until(ask(("ab", o))) for o in drawn)
    assert one == model.generate_until(ask(("ab", drawn[0]))) and one != two
    (text,) = model.generate_until(ask(("x" * 60, options)))
    assert model.notes["cut_on_the_left"] == 1
    (room,) = run.generate([tokens(run, "x" * 36)], max_tokens=12, temperature=0.0)
    assert text == run.tokenizer.decode(room.ids)
    with pytest.raises(errors.ConfigError, match="max_gen_toks"):
        model.generate_until(ask(("ab", {"until": []})))


@pytest.mark.parametrize(
    ("task", "stop", "options"),
    [
        ({}, [], (256, 0.0)),
        ({"until": "\n"}, ["\n"], (256, 0.0)),
        ({"until": ["a", ""], "max_new_tokens": 5}, ["a"], (5, 0.0)),
        ({"temperature": 0.7}, [], (256, 0.7)),
        ({"temperature": 0.7, "do_sample": False}, [], (256, 0.0)),
        ({"do_sample": True}, [], (256, 1.0)),
        ({"do_sample": True, "temperature": 0.5, "num_beams": 1}, [], (256, 0.5)),
    ],
)
def test_options_of_a_task(task, stop, options):
    tokens, temperature = options
    assert harness.settings(task) == (
        stop,
        {"max_tokens": tokens, "temperature": temperature},
    )


def test_options_that_mean_something_else_are_refused():
    for task in ({"repetition_penalty": 1.2}, {"num_beams": 4}):
        with pytest.raises(errors.ConfigError, match=next(iter(task))):
            harness.settings(task)
    _, options = harness.settings({"do_sample": True, "top_k": 5, "top_p": 0.9})
    assert (options["top_k"], options["top_p"]) == (5, 0.9)


def test_dialogues_are_written_by_the_run_s_template(run):
    model = harness.Harness(run)
    turns = [{"role": "user", "content": "hi"}]
    text = model.apply_chat_template(turns)
    assert text == CHATML.format("hi")
    assert model._encode([text])[0] == run.prompt_ids("hi")
    # An answer that has been begun goes on, without an end and without a new turn.
    begun = [*turns, {"role": "assistant", "content": "it is "}]
    text = model.apply_chat_template(begun, add_generation_prompt=False)
    assert text == f"{CHATML.format('hi')}it is"
    with pytest.raises(errors.DataError, match="control token"):
        model.apply_chat_template([{"role": "user", "content": "<|im_end|>"}])
    (reply,) = run.reply(["hi"], max_tokens=8, temperature=0.0)
    asked = ask((CHATML.format("hi"), {"max_gen_toks": 8}))
    assert model.generate_until(asked) == [reply.text]


def test_in_a_literal_format_no_text_is_a_token():
    config = base.TokenizerConfig(kind="bytes", control_tokens=templates.CONTROL)
    tok = base.build(config, (), "unused")
    stub = types.SimpleNamespace(tokenizer=tok, full_tokenizer=tok, chats="roles")
    model = harness.Harness(stub, params={})
    text = model.apply_chat_template([{"role": "user", "content": "a <end> b"}])
    prompt = formats.of(tok, "roles").prompt_ids([("user", "a <end> b")], bos=True)
    assert model._encode([text]) == [prompt]
    assert prompt.count(tok.control["<end>"]) == 1  # the turn's own
    assert model._encode([text + "yes"])[0][: len(prompt)] == prompt


def test_a_run_that_learned_no_dialogues_has_no_template(tmp_path):
    folder = byte_llama.write(tmp_path / "llama", None, bos_token=None)
    opened = analysis.open_run(folder)
    model = harness.Harness(opened)
    with pytest.raises(errors.ConfigError, match="did not learn dialogues"):
        model.apply_chat_template([{"role": "user", "content": "hi"}])
    # No start token: the end comes before a text without a context.
    assert model.prefix_token_id == opened.tokenizer.eos_id
    assert model._encode(["ab"]) == [tokens(opened, "ab")]

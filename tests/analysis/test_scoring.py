# SPDX-License-Identifier: Apache-2.0
"""Given responses under a run: the numbers of training, in one call or command."""

import functools
import json
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest

from alignjax import analysis, cli, errors, models, score, types
from alignjax.analysis import scoring
from alignjax.data.chat import templates
from alignjax.data.tokenizers import base
from alignjax.evals import rows
from alignjax.objectives import logprobs, reward_model
from tests.data import groups
from tests.fixtures import tiny

SIZE = dict(d_model=16, layers=1, heads=2, d_ff=24, max_length=128)
MODEL = {"family": "llama", "name": "nano", **SIZE}
REWARD = {"name": "reward_model", "loss": "bradley_terry", "members": 2}
SIZES = {"wide": {"d_model": 32}, "padded": {"vocab_size": 288}}
CONFIGS = {
    "dialogues": {"data": {"chat": "roles", "bos": True}, "seed": 3},
    "texts": {},
    "wide": {},
    "padded": {},
    "other": {},
    "reward": {"data": {"chat": "roles", "bos": True}, "objective": REWARD},
}
TURNS = [("user", "hi"), ("assistant", "yes?"), ("user", "why")]


@functools.cache
def weights(seed: int, **fields):
    model = models.build(MODEL | fields, 262)
    return jax.jit(lambda key: nn.unbox(model.init(key)))(jax.random.key(seed))


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Runs by name, of models that were not trained."""
    parent = tmp_path_factory.mktemp("runs")
    for name, own in CONFIGS.items():
        fields = {"score_heads": 2} if name == "reward" else SIZES.get(name, {})
        config, workdir = {"model": MODEL | fields, **own}, parent / name
        control = ("<other>",) if name == "other" else templates.CONTROL
        kind = base.TokenizerConfig(kind="bytes", control_tokens=control)
        tok = base.build(kind, (), workdir)
        params = weights(int(name in ("texts", "wide")), **fields)
        params = jax.tree.map(lambda x: 5 * x, params)
        with tiny.checkpoints_of(workdir, config=config) as checkpoints:
            tok.save(workdir / "tokenizer")
            state = types.TrainState(jax.numpy.int32(5), params, ())
            checkpoints.maybe_save(5, state)
    return parent


@pytest.fixture
def run(workdirs):
    return analysis.open_run(workdirs / "dialogues")


def rows_of(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def command(capsys, *arguments):
    """(exit code, lines of standard output, standard error) of the command."""
    code = cli.main(["score", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_scores_are_the_log_probs_of_training(run, tmp_path):
    options, layout = dict(count=6, turns=2), "packed"
    data = groups.build(
        tmp_path,
        {"a": {"kind": "tests.data.groups:load", **options}},
        length=128,
        bos=True,
        **groups.LAYOUTS[layout],
    )
    rows = data.epoch_rows(np.arange(data.num_rows))
    batch = types.batch(rows)
    flat = logprobs.flatten_sequences(batch)
    params = run.params()
    tokens = jax.jit(lambda p, flat: logprobs.tokens(run.model, p, flat))(params, flat)
    total = logprobs.response_logprobs(batch, tokens).total
    total = np.asarray(total).reshape(batch.lengths.shape)
    trained = {
        sides: total[i, group, k] for (i, group, k), sides in groups.seen(rows).items()
    }
    pairs = groups.comparisons(**options)
    prompts = [pair.prompt for pair in pairs for _ in pair.responses]
    responses = [response for pair in pairs for response in pair.responses]
    scores = run.score(prompts, responses)
    assert len(scores) == len(trained) == 12
    for one in scores:
        want = trained[tuple(one.prompt_ids), tuple(one.ids)]
        np.testing.assert_allclose(one.logp, want, rtol=1e-6, atol=2e-5)
        np.testing.assert_allclose(one.logprobs.sum(), want, rtol=1e-6, atol=2e-5)


def test_a_dialogue_may_be_given_in_any_way(run):
    messages = [{"role": role, "content": text} for role, text in TURNS]
    expected = run.logprobs(TURNS, "well")
    assert len(expected) == len(" well") + 1  # its space, and the end of the turn
    for prompt in (tuple(TURNS), messages, run.prompt_ids(TURNS), run.tokenize(TURNS)):
        np.testing.assert_array_equal(run.logprobs(prompt, "well"), expected)
    one = run.logprobs("hi", "well")
    for prompt in ([("user", "hi")], {"role": "user", "content": "hi"}):
        np.testing.assert_array_equal(run.logprobs(prompt, "well"), one)
    plain = run.logprobs("hi", "well", plain=True)
    assert len(plain) == len("well")
    np.testing.assert_array_equal(run.logprobs(run.tokenize("hi"), "well"), plain)
    whole = run.tokenize([*TURNS, ("assistant", "well")])
    (one,) = run.score([TURNS], ["well"])
    assert whole == one.prompt_ids + one.ids
    assert run.prompt_ids(messages) == run.prompt_ids(TURNS)


def test_many_replies_are_of_few_shapes(run, monkeypatch):
    shapes, figures = [], scoring._figures
    monkeypatch.setattr(
        scoring,
        "_figures",
        lambda *a: (shapes.append(a[2].inputs.shape), figures(*a))[1],
    )
    responses = ["a" * n for n in range(1, 25)]
    scores = run.score(["hi"] * 24, responses)
    assert set(shapes) == {(24 + 8, 16), (24 + 8, 32)}
    alone = run.score(["hi"], [responses[20]])[0]
    np.testing.assert_allclose(alone.logprobs, scores[20].logprobs, atol=1e-5)


@pytest.mark.parametrize(
    "prompt, response, error, field",
    [
        ([], [1, 2], errors.ConfigError, "prompts[0]"),
        ("hi", "", errors.DataError, "prompts[0]"),
        ("hi", [300], errors.ConfigError, "prompts[0]"),
        ("hi", [1.5], errors.ConfigError, "response"),
        ("hi", "x" * 200, errors.ConfigError, "prompts[0]"),
        ([("user", "hi", "x")], "x", errors.DataError, "prompts[0]"),
        ([("assistant", "hi")], "x", errors.DataError, "prompts[0]"),
        ([{"role": "user"}], "x", errors.DataError, "prompts[0]"),
        (5, "x", errors.DataError, "prompts[0]"),
        ("hi", 5, errors.ConfigError, "response"),
    ],
)
def test_what_cannot_be_scored_is_refused(run, prompt, response, error, field):
    with pytest.raises(error) as caught:
        run.score([prompt], [response])
    assert str(caught.value).startswith(f"{field}: ")


def test_a_response_that_cannot_be_read_is_no_error_for_the_others():
    """Of a template whose control tokens no text may spell."""
    files = {"bytes.json": b'{"control": ["<|im_start|>", "<|im_end|>"]}'}
    config = SimpleNamespace(vocab_size=260, max_length=60)
    run = SimpleNamespace(
        tokenizer=base.from_files("bytes", files),
        chats="chatml",
        model=SimpleNamespace(config=config),
        score=lambda prompts, responses: list(zip(prompts, responses, strict=True)),
    )
    texts = ["fine", "a <|im_end|> b", "\0", "x" * 100, "good"]
    first, *bad, last = scoring.score_or_fault(run, [[("user", "hi")]] * 5, texts)
    for text, found in (("fine", first), ("good", last)):
        row = scoring.row_of_pair(run.tokenizer, "chatml", [("user", "hi")], text)
        assert found == tuple(row)
    for reason, found in zip(("control token", "NUL", "1 to 60"), bad, strict=True):
        assert isinstance(found, str) and reason in found
    assert scoring.score_or_fault(run, [[("user", "hi")]], ["\0"]) == [bad[1]]


def test_prompts_and_responses_are_as_many(run):
    with pytest.raises(errors.ConfigError, match="responses: 2 for 1"):
        run.score(["hi"], ["a", "b"])


@pytest.mark.parametrize("value", ["hi", {"role": "user", "content": "hi"}, 5])
def test_a_prompt_alone_is_no_list(run, value):
    refused = pytest.raises(errors.ConfigError, match="is no list; give one")
    for samples in (None, 2):
        with refused:
            run.generate(value, samples=samples, max_tokens=1)
        with refused:
            run.reply(value, samples=samples, max_tokens=1)
    with refused:
        run.score(value, ["a", "b"])


def test_rewards_are_those_of_the_objective(workdirs):
    run = analysis.open_run(workdirs / "reward")
    (one,) = run.score([TURNS], ["well"])
    ids = [*one.prompt_ids, *one.ids]
    sequences = types.Sequences.of([ids], prompts=[len(one.prompt_ids)])
    batch = scoring.groups_of(sequences)
    scores = jax.jit(lambda params: reward_model.score(run.model, params, batch))
    want = np.asarray(scores(run.params()))
    np.testing.assert_allclose(one.reward, want.mean(), rtol=1e-5)
    assert one.rewards.shape == (1,)  # two members, of one attribute


def test_hidden_states_make_the_logits(run):
    ids = [[256, 72, 105], [256, 65, 66]]
    x_BTD = run.hidden(ids)
    assert x_BTD.shape == (2, 3, 16) and x_BTD.dtype == np.float32
    logits = run.model.unembed(run.params(), x_BTD)
    np.testing.assert_allclose(run.logits(ids), logits, atol=1e-4)
    assert run.hidden(ids[0], every_layer=True).shape == (2, 3, 16)


def test_several_samples_of_a_prompt(run):
    options = dict(max_tokens=6, temperature=2.0)
    several = run.reply(["hi", "why"], samples=2, **options)
    assert [len(replies) for replies in several] == [2, 2]
    flat = run.reply(["hi", "hi", "why", "why"], seeds=[0, 1, 0, 1], **options)
    assert [r.ids for replies in several for r in replies] == [r.ids for r in flat]
    with pytest.raises(errors.ConfigError, match="samples: 0"):
        run.generate(["hi"], samples=0, max_tokens=1)
    with pytest.raises(errors.ConfigError, match="seeds: 1 for 2"):
        run.generate(["hi"], samples=2, seeds=[1], max_tokens=1)


PAIRS = [
    {"prompt": "hi", "chosen": "there", "rejected": "no"},
    {"prompt": [dict(role="user", content="a")], "chosen": "b", "rejected": "c" * 30},
]


def test_a_file_is_scored_line_by_line(workdirs, tmp_path, capsys):
    path = rows_of(tmp_path / "pairs.jsonl", PAIRS)
    run = analysis.open_run(workdirs / "dialogues")
    code, lines, err = command(capsys, f"--run={run.path}", f"--data={path}")
    assert code == errors.DONE and "preference" in err
    lines = [json.loads(line) for line in lines]
    scores = run.score(["hi", "hi", "a", "a"], ["there", "no", "b", "c" * 30])
    for line, one, place in zip(lines, scores, np.ndindex(2, 2), strict=True):
        assert (line["prompt"], line["sample"]) == place
        assert line["where"] == f"{path}:{1 + place[0]}"
        assert line["ids"] == one.ids and line["tokens"] == len(one.ids)
        np.testing.assert_allclose(line["logp"], one.logp, atol=1e-4)
        np.testing.assert_allclose(line["entropy"], one.entropy, atol=1e-4)
        assert line["schema"] == "alignjax.answer/1" and line["digest"] == run.digest()
        assert line["finished"] and line["step"] == 5 and line["reward"] is None
    assert [line["text"] for line in lines] == ["there", "no", "b", "c" * 30]
    answers = rows.read(rows_of(tmp_path / "scores.jsonl", lines))
    assert [answer.logp for answer in answers] == [line["logp"] for line in lines]
    _, lines, _ = command(capsys, f"--run={workdirs / 'reward'}", f"--data={path}")
    assert all(isinstance(json.loads(line)["reward"], float) for line in lines)


@pytest.mark.parametrize(
    "row, text, count",
    [
        ({"messages": [dict(role=r, content=t) for r, t in TURNS[:2]]}, "yes?", 6),
        ({"prompt": "hi", "response": "ho"}, "ho", 4),
        ({"prompt": "hi", "completion": "ho", "label": True}, "ho", 4),
        ({"prompt": "hi", "responses": ["ho"]}, "ho", 4),
        ({"text": "ho"}, "ho", 3),
    ],
)
def test_rows_of_every_kind_are_scored(workdirs, tmp_path, capsys, row, text, count):
    path = rows_of(tmp_path / "rows.jsonl", [row])
    run = f"--run={workdirs / 'dialogues'}"
    code, (line,), _ = command(capsys, run, f"--data={path}")
    line = json.loads(line)
    assert (code, line["text"], line["tokens"]) == (errors.DONE, text, count)
    renamed = {"question" if k == "prompt" else k: v for k, v in row.items()}
    path = rows_of(tmp_path / "renamed.jsonl", [renamed])
    if renamed != row:
        columns = '--columns={"prompt": "question"}'
        _, (again,), _ = command(capsys, run, f"--data={path}", columns)
        assert json.loads(again)["logp"] == line["logp"]


@pytest.mark.parametrize("other", ["texts", "wide"])
def test_scores_beside_a_reference_are_sums_over_the_vocabulary(
    run, workdirs, tmp_path, capsys, other
):
    reference = analysis.open_run(workdirs / other)
    responses = ["well", "no" * 20]
    alone = run.score(["hi", "why"], responses)
    scores = run.score(["hi", "why"], responses, reference=workdirs / other)
    for one, single in zip(scores, alone, strict=True):
        ids = np.array([*one.prompt_ids, *one.ids])
        at = np.arange(len(one.prompt_ids) - 1, len(ids) - 1)
        p, q = (
            nn.log_softmax(run.logits(ids[:-1])[at].astype(np.float64))
            for run in (run, reference)
        )
        targets = np.arange(len(at)), ids[at + 1]
        np.testing.assert_allclose(one.logp, single.logp, atol=1e-4)
        np.testing.assert_allclose(one.ref_logp, q[targets].sum(), rtol=1e-4)
        np.testing.assert_allclose(one.kl, (np.exp(p) * (p - q)).sum(), rtol=1e-4)
        assert (single.ref_logp, single.kl) == (None, None)
    rows = [
        {"prompt": p, "response": r}
        for p, r in zip(("hi", "why"), responses, strict=True)
    ]
    path = rows_of(tmp_path / "rows.jsonl", rows)
    flags = f"--run={run.path}", f"--data={path}"
    code, lines, _ = command(capsys, *flags, f"--reference={reference.path}@5")
    assert code == errors.DONE
    for line, one in zip(map(json.loads, lines), scores, strict=True):
        assert line["reference"] == reference.digest()
        np.testing.assert_allclose(
            [line["ref_logp"], line["kl"]], [one.ref_logp, one.kl], rtol=1e-5
        )
    line = json.loads(command(capsys, *flags)[1][0])
    assert (line["reference"], line["ref_logp"], line["kl"]) == (None, None, None)


def test_a_run_is_no_way_from_itself(run):
    (one,) = run.score(["hi"], ["well"], reference=run)
    assert one.ref_logp == one.logp and one.kl == 0


@pytest.mark.parametrize(
    "other, code",
    [
        ("other", errors.CONFIG),
        ("padded", errors.CONFIG),
        ("absent", errors.CHECKPOINT),
        ("wide@4", errors.CHECKPOINT),
    ],
)
def test_a_reference_of_other_tokens_is_refused(
    workdirs, tmp_path, capsys, other, code
):
    path = rows_of(tmp_path / "rows.jsonl", [{"prompt": "hi", "response": "ho"}])
    arguments = f"--run={workdirs / 'dialogues'}", f"--data={path}"
    ended, lines, err = command(capsys, *arguments, f"--reference={workdirs / other}")
    assert (ended, lines) == (code, []) and "Traceback" not in err


def test_a_run_of_texts_goes_on_from_prompts(workdirs, tmp_path, capsys):
    path = rows_of(tmp_path / "rows.jsonl", [{"prompt": "hi", "response": " ho"}])
    run = analysis.open_run(workdirs / "texts")
    _, (line,), _ = command(capsys, f"--run={run.path}", f"--data={path}")
    np.testing.assert_allclose(
        json.loads(line)["logp"], run.logprobs("hi", " ho").sum(), atol=1e-4
    )


def test_a_stopped_command_goes_on(workdirs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(score, "BLOCK", 2)
    rows = [{"prompt": "hi", "response": "a" * n} for n in range(1, 8)]
    path = rows_of(tmp_path / "rows.jsonl", rows)
    arguments = f"--run={workdirs / 'dialogues'}", f"--data={path}"
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert command(capsys, *arguments, f"--out={whole}")[0] == errors.DONE
    assert not whole.with_name("whole.jsonl.partial").exists()
    text = whole.read_bytes()
    partial = out.with_name("out.jsonl.partial")
    partial.write_bytes(text[: len(text) * 2 // 3])
    _, _, err = command(capsys, *arguments, f"--out={out}")
    assert "goes on after 4 lines" in err
    assert out.read_bytes() == text and not partial.exists()
    # What another run or file left is not gone on from.
    partial.write_bytes(text.replace(b'"step": 5', b'"step": 4'))
    _, _, err = command(capsys, *arguments, f"--out={out}")
    assert "goes on" not in err and out.read_bytes() == text


def test_bad_rows_are_refused_or_counted(workdirs, tmp_path, capsys):
    rows = [
        {"prompt": "hi", "response": "a"},
        {"prompt": "hi"},
        {"prompt": "hi", "response": ""},
        {"prompt": "hi", "response": "a" * 200},
        {"prompt": "hi", "response": "b"},
    ]
    path, out = rows_of(tmp_path / "rows.jsonl", rows), tmp_path / "new" / "out.jsonl"
    arguments = f"--run={workdirs / 'dialogues'}", f"--data={path}"
    code, lines, err = command(capsys, *arguments, f"--out={out}")
    assert code == errors.DATA and not lines and list(out.parent.iterdir()) == []
    assert "Traceback" not in err
    code, lines, err = command(capsys, *arguments, "--on_bad_row=skip")
    assert code == errors.DONE and "3 bad rows skipped" in err
    assert all(err.count(f"{path}:{n}: ") == 1 for n in (2, 3, 4))
    assert [json.loads(line)["text"] for line in lines] == ["a", "b"]


@pytest.mark.parametrize(
    "rows, flags, code",
    [
        ([{"a": 1}], [], errors.DATA),
        ([[1]], [], errors.DATA),
        ([{"text": "a"}], ["--format=hhh"], errors.CONFIG),
        ([{"text": "a"}], ["--columns=text"], errors.CONFIG),
        ([{"text": "a"}], ["--batch_size=0"], errors.CONFIG),
        ([{"text": "a"}], ["--step=4"], errors.CHECKPOINT),
        ([{"text": "a"}], ["--data=/absent.jsonl"], errors.DATA),
    ],
)
def test_the_command_refuses(workdirs, tmp_path, capsys, rows, flags, code):
    path = rows_of(tmp_path / "rows.jsonl", rows)
    run = f"--run={workdirs / 'dialogues'}"
    data = () if "--data" in "".join(flags) else (f"--data={path}",)
    ended, lines, err = command(capsys, run, *data, *flags)
    assert (ended, lines) == (code, []) and "Traceback" not in err

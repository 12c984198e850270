# SPDX-License-Identifier: Apache-2.0
"""A one-layer Llama folder with a token for each byte, and the tokens of its data."""

import json
import pathlib

import numpy as np
import pytest

from alignjax.experiment import build
from configs import base

safetensors = pytest.importorskip("safetensors.numpy", reason="of the extra hf")
tokenizers = pytest.importorskip("tokenizers", reason="of the extra hf")

CONTROL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<pad>", "<|call_end|>")
BOS, EOS, START, END, PAD, CALL_END = range(256, 262)  # their ids
CHATML = """\
{%- for m in messages -%}
{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
WITH_TOOLS = (
    "{%- if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}"
    "{% endif -%}" + CHATML
)
WITH_CALLS = WITH_TOOLS.replace(
    "m.content + '<|im_end|>\n' }}",
    "(m.content or '') }}{% for call in m.tool_calls or [] %}"
    "{{ call.function.name + (call.function.arguments | tojson) }}"
    "{% endfor %}{{ '<|im_end|>\\n' }}",
)
TOOL = {"type": "function", "function": {"name": "thermostat", "parameters": {}}}


def write(
    folder: pathlib.Path,
    template: str | None = CHATML,
    *,
    weights: dict[str, np.ndarray] | None = None,
    model: dict | None = None,
    **tokenizer,
) -> pathlib.Path:
    """A folder as transformers saves one; replies end in <|im_end|>.

    Args:
      weights: tensors that replace random ones, by their Hugging Face names.
      model, tokenizer: more fields of config.json and tokenizer_config.json.
    """
    folder.mkdir(parents=True)
    size = 256 + len(CONTROL)
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    tok = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tok.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    tok.decoder = tokenizers.decoders.ByteLevel()
    tok.add_special_tokens(
        [tokenizers.AddedToken(t, special=True, normalized=False) for t in CONTROL]
    )
    tok.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    write_json(folder / "tokenizer_config.json", settings | tokenizer)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": size,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    write_json(folder / "config.json", fields | (model or {}))
    layer = "model.layers.0."
    shapes = {f"{layer}self_attn.{name}_proj.weight": (16, 16) for name in "qkvo"}
    shapes |= {f"{layer}mlp.{name}_proj.weight": (32, 16) for name in ("gate", "up")}
    shapes[f"{layer}mlp.down_proj.weight"] = (16, 32)
    shapes |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (size, 16))
    random = np.random.default_rng(0)
    tensors = {
        name: random.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    for name in (f"{layer}input_layernorm", f"{layer}post_attention_layernorm"):
        tensors[f"{name}.weight"] = np.ones(16, np.float32)
    tensors["model.norm.weight"] = np.ones(16, np.float32)
    tensors |= weights or {}
    safetensors.save_file(tensors, folder / "model.safetensors")
    return folder


def several_templates(folder: pathlib.Path, place: str) -> pathlib.Path:
    """A folder of ChatML and of a template for dialogues with tools.

    Args:
      place: of the latter: "tokenizer_config", in a list of both, or the name of a
        folder of templates inside of `folder`.
    """
    special = "{{ '<|im_start|>thermostats\n' + (tools | tojson) + '<|im_end|>\n' }}"
    special += CHATML
    if place == "tokenizer_config":
        both = {"default": CHATML, "tool_use": special}
        named = [{"name": k, "template": v} for k, v in both.items()]
        return write(folder, None, chat_template=named)
    write(folder)
    (folder / place).mkdir()
    (folder / place / "tool_use.jinja").write_text(special)
    return folder


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value))


def write_rows(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
    """A file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def dialogue(question: str, answer: str, **columns) -> dict:
    """A row of the format "messages"."""
    turns = [("user", question), ("assistant", answer)]
    messages = [{"role": role, "content": text} for role, text in turns]
    return {"messages": messages, **columns}


def config(recipe: str, folder, path, *, kind="jsonl", format="messages", length=256):
    """A config of `configs.base` on one source, which starts from `folder`.

    Its cache is beside `folder`.
    """
    c = getattr(base, recipe)()
    c.init.run, c.cache_dir = str(folder), str(folder.parent / "cache")
    c.steps, c.batch_size, c.length = 1, 8, length
    c.data.sources.rows = dict(kind=kind, path=str(path), format=format, weight=1.0)
    c.data.chat, c.data.validation_fraction = "tokenizer", 0.0
    c.data.bos, c.data.workers = False, 1
    c.optimizer.learning_rate, c.schedule.warmup_steps = 1e-2, 0
    c.log.tensorboard = False
    return c


def texts(section) -> tuple[str, str, str]:
    """(what the model reads of all rows, what it learns, the report of the data).

    Raises:
      ConfigError, DataError: the config or its data are refused.
    """
    run = build.build(section)
    rows = run.train.epoch_rows(np.arange(run.train.num_rows))
    tok = tokenizers.Tokenizer.from_file(f"{section.init.run}/tokenizer.json")

    def decode(ids) -> str:
        return tok.decode(ids.tolist(), skip_special_tokens=False)

    inputs = np.asarray(rows["inputs"])[np.asarray(rows["segment_ids"]) > 0]
    learned = np.asarray(rows["targets"])[np.asarray(rows["weights"]) > 0]
    return decode(inputs), decode(learned), run.train.report

# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders made by hand, of a Llama with two layers; no torch."""

import json
import pathlib

import ml_dtypes
import numpy as np
import safetensors.numpy

V, D, L, N, K, H, F = 24, 8, 2, 4, 2, 2, 12
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": L,
    "num_attention_heads": N,
    "num_key_value_heads": K,
    "intermediate_size": F,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LAYER = {
    "input_layernorm.weight": (D,),
    "self_attn.q_proj.weight": (N * H, D),
    "self_attn.k_proj.weight": (K * H, D),
    "self_attn.v_proj.weight": (K * H, D),
    "self_attn.o_proj.weight": (D, N * H),
    "post_attention_layernorm.weight": (D,),
    "mlp.gate_proj.weight": (F, D),
    "mlp.up_proj.weight": (F, D),
    "mlp.down_proj.weight": (D, F),
}
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def tensors(dtype: str = "float32", tied: bool = False) -> dict[str, np.ndarray]:
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    for i in range(L):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in LAYER.items()}
    if not tied:
        shapes["lm_head.weight"] = (V, D)
    random = np.random.default_rng(0)
    return {
        name: random.standard_normal(shape).astype(DTYPES[dtype])
        for name, shape in shapes.items()
    }


def write(path, weights=None, *, files: int = 1, **fields) -> pathlib.Path:
    """A folder of these weights, and of CONFIG with other values of some `fields`."""
    weights = tensors() if weights is None else weights
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    known = {k: v for k, v in {**CONFIG, **fields}.items() if v is not None}
    (path / "config.json").write_text(json.dumps(known))
    if files == 1:
        safetensors.numpy.save_file(weights, path / "model.safetensors")
        return path
    index = {}
    for i in range(files):
        name = f"model-{i + 1:05d}-of-{files:05d}.safetensors"
        part = dict(list(weights.items())[i::files])
        safetensors.numpy.save_file(part, path / name)
        index |= dict.fromkeys(part, name)
    file = path / "model.safetensors.index.json"
    file.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


def words(path: pathlib.Path, count: int = V) -> None:
    """Puts a tokenizer of `count` whole words there."""
    import tokenizers

    names = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(count - 3))]
    model = tokenizers.models.WordLevel({n: i for i, n in enumerate(names)}, "<unk>")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.save(str(path / "tokenizer.json"))
    known = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (path / "tokenizer_config.json").write_text(json.dumps(known))


def read(path) -> dict[str, np.ndarray]:
    """All tensors of a folder, by the library."""
    found = {}
    for file in sorted(pathlib.Path(path).glob("*.safetensors")):
        found |= safetensors.numpy.load_file(file)
    return found


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """The same names, dtypes, shapes and bits."""
    bits = lambda x: (str(x.dtype), x.shape, x.tobytes())
    return a.keys() == b.keys() and all(bits(a[k]) == bits(b[k]) for k in a)

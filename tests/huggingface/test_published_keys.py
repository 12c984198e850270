# SPDX-License-Identifier: Apache-2.0
"""The keys of config.json of models as they are published, at tiny sizes, are read.

Sizes are not theirs; keys, and the values that decide what is computed, are. What names
code of a folder's own, as Phi's files do, is left out: it is refused, see
`test_bad_folders`.
"""

import pytest

from alignjax import errors, models
from alignjax.huggingface import config_json

# What nearly all files have.
COMMON = dict(
    attention_dropout=0.0,
    bos_token_id=1,
    eos_token_id=2,
    hidden_size=32,
    initializer_range=0.02,
    intermediate_size=48,
    num_attention_heads=4,
    num_hidden_layers=3,
    num_key_value_heads=2,
    max_position_embeddings=128,
    rms_norm_eps=1e-6,
    torch_dtype="bfloat16",
    transformers_version="4.46.3",
    use_cache=True,
    vocab_size=64,
)
SILU = COMMON | dict(hidden_act="silu", rope_theta=1e6, tie_word_embeddings=False)


def of(kind: str, name: str, base: dict = SILU, **keys) -> dict:
    return base | dict(model_type=kind, architectures=[f"{name}ForCausalLM"]) | keys


LLAMA = of(
    "llama",
    "Llama",
    attention_bias=False,
    mlp_bias=False,
    pretraining_tp=1,
    rope_scaling=None,
)
LLAMA_3 = dict(
    head_dim=8,
    eos_token_id=[2, 3, 4],
    rope_scaling=dict(
        factor=8.0,
        high_freq_factor=4.0,
        low_freq_factor=1.0,
        original_max_position_embeddings=32,
        rope_type="llama3",
    ),
)
SMOL = dict(is_llama_config=True, rope_interleaved=False, pad_token_id=2)
SMOL |= dict(tie_word_embeddings=True)
QWEN_2 = of(
    "qwen2",
    "Qwen2",
    max_window_layers=3,
    sliding_window=128,
    use_sliding_window=False,
    tie_word_embeddings=True,
)
QWEN_3 = dict(
    attention_bias=False,
    head_dim=8,
    max_window_layers=3,
    rope_scaling=None,
    sliding_window=None,
    use_sliding_window=False,
)
GEMMA = COMMON | dict(
    attention_bias=False, head_dim=8, pad_token_id=0, rope_theta=10_000.0
)
TANH = "gelu_pytorch_tanh"
GEMMA_2 = dict(
    attn_logit_softcapping=50.0,
    cache_implementation="hybrid",
    final_logit_softcapping=30.0,
    hidden_act=TANH,
    hidden_activation=TANH,
    query_pre_attn_scalar=8,
    sliding_window=16,
)
GEMMA_3 = GEMMA_2 | dict(
    attn_logit_softcapping=None,
    eos_token_id=[1, 2],
    final_logit_softcapping=None,
    rope_local_base_freq=10_000,
    rope_scaling=None,
    rope_theta=1_000_000,
)
del GEMMA_3["hidden_act"]
LISTS = dict(long_factor=[2.0] * 4, short_factor=[1.0] * 4)
PHI = of(
    "phi3",
    "Phi3",
    attention_bias=False,
    embd_pdrop=0.0,
    original_max_position_embeddings=64,
    pad_token_id=0,
    resid_pdrop=0.0,
    rope_scaling=None,
    sliding_window=63,
)
GPT_2 = dict(
    activation_function="gelu_new",
    architectures=["GPT2LMHeadModel"],
    attn_pdrop=0.1,
    bos_token_id=1,
    embd_pdrop=0.1,
    eos_token_id=1,
    initializer_range=0.02,
    layer_norm_epsilon=1e-5,
    model_type="gpt2",
    n_ctx=128,
    n_embd=32,
    n_head=4,
    n_layer=3,
    n_positions=128,
    resid_pdrop=0.1,
    summary_activation=None,
    summary_first_dropout=0.1,
    summary_proj_to_labels=True,
    summary_type="cls_index",
    summary_use_proj=True,
    task_specific_params={"text-generation": dict(do_sample=True, max_length=50)},
    vocab_size=64,
)

PUBLISHED = {
    "TinyLlama-1.1B-Chat": LLAMA,
    "Llama-2-7b": {k: v for k, v in LLAMA.items() if "bias" not in k}
    | dict(_name_or_path="meta-llama/Llama-2-7b-hf"),
    "Llama-3.1-8B": LLAMA | LLAMA_3,
    "Llama-3.2-1B": LLAMA | LLAMA_3 | dict(tie_word_embeddings=True),
    "SmolLM2-135M": LLAMA | SMOL,
    "SmolLM2-135M-Instruct": LLAMA
    | SMOL
    | {"transformers.js_config": dict(kv_cache_dtype=dict(q4f16="float16"))},
    "Qwen2.5-0.5B": QWEN_2 | dict(use_mrope=False),
    "Qwen2.5-0.5B-Instruct": QWEN_2,
    "DeepSeek-R1-Distill-Qwen-1.5B": QWEN_2 | dict(use_mrope=False, sliding_window=16),
    "Qwen2.5-0.5B, saved by transformers 5": {
        k: v for k, v in QWEN_2.items() if k not in ("torch_dtype", "rope_theta")
    }
    | dict(
        dtype="bfloat16",
        layer_types=["full_attention"] * 3,
        pad_token_id=None,
        rope_parameters=dict(rope_theta=1e6, rope_type="default"),
        sliding_window=None,
        use_mrope=False,
    ),
    "Qwen3-0.6B": of("qwen3", "Qwen3", **QWEN_3, tie_word_embeddings=True),
    "Qwen3-30B-A3B": of(
        "qwen3_moe",
        "Qwen3Moe",
        **QWEN_3,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        moe_intermediate_size=16,
        norm_topk_prob=True,
        num_experts=4,
        num_experts_per_tok=2,
        output_router_logits=False,
        router_aux_loss_coef=0.001,
    ),
    "Mistral-7B-v0.3": of("mistral", "Mistral", head_dim=8, sliding_window=None),
    "Mistral-7B, with a bias that is none": of(
        "mistral", "Mistral", attention_bias=False, sliding_window=16
    ),
    "Mixtral-8x7B-v0.1": of(
        "mixtral",
        "Mixtral",
        num_experts_per_tok=2,
        num_local_experts=4,
        output_router_logits=False,
        router_aux_loss_coef=0.02,
        router_jitter_noise=0.0,
        sliding_window=None,
    ),
    "gemma-2b": of("gemma", "Gemma", GEMMA, hidden_act="gelu", hidden_activation=None),
    "gemma-7b": of("gemma", "Gemma", GEMMA, hidden_act=TANH),
    "gemma-2-2b": of("gemma2", "Gemma2", GEMMA, **GEMMA_2),
    "gemma-3-1b-it": of(
        "gemma3_text", "Gemma3", GEMMA | GEMMA_3, sliding_window_pattern=3
    ),
    "gemma-3-270m": of(
        "gemma3_text",
        "Gemma3",
        GEMMA | GEMMA_3,
        _sliding_window_pattern=6,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        use_bidirectional_attention=False,
    ),
    "OLMo-2-1124-7B": of("olmo2", "Olmo2", attention_bias=False, rope_scaling=None),
    "Phi-3-mini-4k-instruct": PHI,
    "Phi-3-mini-128k-instruct": PHI | dict(rope_scaling=dict(type="longrope", **LISTS)),
    "Phi-4-mini-instruct": PHI
    | dict(
        full_attn_mod=1,
        interpolate_factor=1,
        lm_head_bias=False,
        mlp_bias=False,
        partial_rotary_factor=0.5,
        rope_scaling=dict(
            type="longrope", long_factor=[2.0] * 2, short_factor=[1.0] * 2
        ),
        tie_word_embeddings=True,
    ),
    "gpt2": GPT_2,
    "gpt2-medium": GPT_2 | dict(n_special=0, predict_special_tokens=True),
    "distilgpt2": GPT_2
    | dict(_num_labels=1, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0}),
    "gpt2, trained with an older transformers": GPT_2
    | dict(
        gradient_checkpointing=False,
        n_inner=None,
        output_past=True,
        reorder_and_upcast_attn=False,
        scale_attn_by_inverse_layer_idx=False,
        scale_attn_weights=True,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_json_is_read(name):
    hf = PUBLISHED[name]
    family = config_json.family_of(hf)
    section = dict(family=family.name, **config_json.read(hf, family))
    c = models.build(section, 1).config
    assert (c.layers, c.d_model, c.max_length) == (3, 32, 128)
    assert c.attention_bias == {"qwen2": "qkv", "gpt2": "all"}.get(
        section["family"], "none"
    )


def test_keys_that_begin_with_an_underscore_are_notes():
    family, notes = config_json.family_of(QWEN_2), {"_model_name_or_path": "x", "_x": 1}
    read = config_json.read(QWEN_2, family)
    assert config_json.read(QWEN_2 | notes, family) == read
    with pytest.raises(errors.ConfigError, match="model_name_or_path"):
        config_json.read(QWEN_2 | {"model_name_or_path": "x"}, family)


@pytest.mark.parametrize("key", ["use_mrope", "rope_interleaved", "attention_bias"])
def test_a_harmless_key_is_refused_where_it_would_mean_something(key):
    with pytest.raises(errors.ConfigError, match=rf"{key}: True is not computed here"):
        config_json.read(QWEN_2 | {key: True}, config_json.family_of(QWEN_2))

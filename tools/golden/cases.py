# SPDX-License-Identifier: Apache-2.0
"""The tiny models, as transformers' configs, and the tokens that they are given.

Rows are longer than every sliding window and than the context before rotary scaling.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

VOCAB = 128
TOKENS = 300  # rows of the embedding of those with a byte-level tokenizer
SPECIAL = 288  # the first special token of these
LENGTH = 48
PROMPT = 36  # tokens that greedy generation goes on from
GENERATED = 16
SHORT = 20  # within the context before rotary scaling
WINDOW = 16
CONTEXT = 24  # before rotary scaling
# Where logits are kept: at both ends of windows and contexts, and between.
POSITIONS = (0, 1, 15, 16, 17, 24, 25, 33, 47)


class Case(NamedTuple):
    """A checkpoint: `config` goes to transformers as it is.

    Attributes:
      model_type: what config.json says.
      config: fields of transformers' config.
      offset: what the norms add to their weights, so that random ones are about 1.
      tokenizer: a name in `tokenizers.KINDS`, or None.
      gradients: whether whole gradients are kept, beside the norms of all.
    """

    model_type: str
    config: dict
    offset: float = 0.0
    tokenizer: str | None = None
    gradients: bool = False


def rope(theta: float = 10_000.0, kind: str = "default", **options) -> dict:
    return {"rope_type": kind, "rope_theta": theta, **options}


_SIZES = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
_SPOKEN = _SIZES | dict(vocab_size=TOKENS)
_SLIDING, _FULL = "sliding_attention", "full_attention"
_EXPERTS = dict(num_experts_per_tok=2, router_aux_loss_coef=0.02)

CASES = {
    "gpt2": Case(
        "gpt2",
        dict(
            vocab_size=VOCAB,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
    "llama2": Case(
        "llama", _SIZES | dict(num_key_value_heads=4, tie_word_embeddings=False)
    ),
    "llama3": Case(
        "llama",
        _SPOKEN
        | dict(
            bos_token_id=SPECIAL,
            eos_token_id=[SPECIAL + 1, SPECIAL + 4],
            pad_token_id=None,
            tie_word_embeddings=False,
            rms_norm_eps=1e-5,
            rope_parameters=rope(
                5000.0,
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=CONTEXT,
            ),
        ),
        tokenizer="llama3",
        gradients=True,
    ),
    "llama_tied": Case("llama", _SIZES | dict(tie_word_embeddings=True, head_dim=16)),
    "mistral": Case("mistral", _SIZES | dict(sliding_window=WINDOW, head_dim=8)),
    "qwen2": Case(
        "qwen2",
        _SPOKEN
        | dict(
            bos_token_id=SPECIAL,
            eos_token_id=[SPECIAL + 2, SPECIAL],
            pad_token_id=SPECIAL,
            tie_word_embeddings=True,
            rope_parameters=rope(1e6),
        ),
        tokenizer="chatml",
    ),
    "qwen2_window": Case(
        "qwen2",
        _SIZES
        | dict(
            num_hidden_layers=3,
            use_sliding_window=True,
            sliding_window=WINDOW,
            max_window_layers=1,
        ),
    ),
    "qwen3": Case(
        "qwen3",
        _SPOKEN
        | dict(
            bos_token_id=SPECIAL,
            eos_token_id=[SPECIAL + 2, SPECIAL],
            pad_token_id=SPECIAL,
            head_dim=16,
            tie_word_embeddings=True,
            rope_parameters=rope(1e6),
        ),
        tokenizer="chatml",
    ),
    "gemma": Case(
        "gemma", _SIZES | dict(num_key_value_heads=1, head_dim=16), offset=1.0
    ),
    "gemma2": Case(
        "gemma2",
        _SIZES
        | dict(
            num_hidden_layers=3,
            head_dim=16,
            query_pre_attn_scalar=12,
            sliding_window=WINDOW,
            attn_logit_softcapping=3.0,
            final_logit_softcapping=4.0,
        ),
        offset=1.0,
        gradients=True,
    ),
    "gemma3": Case(
        "gemma3_text",
        _SIZES
        | dict(
            vocab_size=376,
            bos_token_id=2,
            eos_token_id=[1, 5],
            num_hidden_layers=7,
            intermediate_size=24,
            num_key_value_heads=1,
            head_dim=8,
            query_pre_attn_scalar=10,
            sliding_window=WINDOW,
            layer_types=[_SLIDING] * 5 + [_FULL, _SLIDING],
            rope_parameters={
                _SLIDING: rope(1000.0),
                _FULL: rope(1e5, "linear", factor=8.0),
            },
        ),
        offset=1.0,
        tokenizer="gemma",
    ),
    "olmo2": Case("olmo2", _SIZES | dict(rope_parameters=rope(5e5))),
    "phi3": Case("phi3", _SIZES | dict(sliding_window=WINDOW)),
    "phi3_longrope": Case(
        "phi3",
        _SIZES
        | dict(
            num_attention_heads=2,
            num_key_value_heads=1,
            original_max_position_embeddings=CONTEXT,
            max_position_embeddings=4 * CONTEXT,
            partial_rotary_factor=0.75,
            rope_parameters=rope(
                kind="longrope",
                short_factor=[1.0, 1.1, 1.2, 1.3, 1.5, 1.8],
                long_factor=[1.0, 1.5, 2.5, 4.0, 6.0, 9.0],
                original_max_position_embeddings=CONTEXT,
                partial_rotary_factor=0.75,
            ),
        ),
    ),
    "mixtral": Case("mixtral", _SIZES | _EXPERTS | dict(num_local_experts=4)),
    "qwen3_moe": Case(
        "qwen3_moe",
        _SIZES
        | _EXPERTS
        | dict(
            head_dim=8,
            num_experts=4,
            moe_intermediate_size=24,
            norm_topk_prob=True,
            decoder_sparse_step=1,
            mlp_only_layers=[],
        ),
        gradients=True,
    ),
}


def tokens(case: Case, seed: int = 0) -> np.ndarray:
    """int64 [2, LENGTH], none of them special."""
    rng = np.random.default_rng([7, seed])
    return rng.integers(8, VOCAB, (2, LENGTH), dtype=np.int64)


def weight(name: str, shape: tuple[int, ...], offset: float, seed: int) -> np.ndarray:
    """float32 of `shape`, the same wherever it is made: nothing is 0 or 1.

    Matrices keep the size of what goes through them, so that every term of the model
    matters to the logits.

    Args:
      name: transformers' name; parameters of the same name and seed are the same.
      offset: what the norms add to their weights.
    """
    rng = np.random.default_rng([seed, *name.encode()])
    noise = rng.standard_normal(shape, np.float32)
    if name.endswith("bias"):
        return 0.3 * noise
    if len(shape) == 1 and "layers" not in name and ".h." not in name:
        # Signs at random keep a tied head from saying its own input again and again.
        return noise - np.float32(offset)
    if len(shape) == 1:
        return np.float32(1.0 - offset) + 0.3 * noise
    if "embed" in name or "wte" in name or "wpe" in name:
        return 0.5 * noise
    fan_in = shape[0] if ".c_" in name else shape[-1]
    return noise * np.float32(1.2 * fan_in**-0.5)

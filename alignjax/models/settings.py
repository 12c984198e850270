# SPDX-License-Identifier: Apache-2.0
"""The fields of a decoder, which families give their defaults, and what they allow."""

from __future__ import annotations

import dataclasses
from typing import Literal

from alignjax import config
from alignjax.models import attention


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder and how it computes; families set the defaults.

    Attributes:
      vocab_size: V, rows of the embedding.
      d_model, layers, heads, d_ff: D, L, N and F of the legend in `types`.
      max_length: T at most; learned positions have this many rows.
      kv_heads: K; the default, None, is as many as `heads`.
      head_dim: H; the default is d_model / heads.
      norm, norm_epsilon: the kind of norm and what is added to its variance.
      positions: rotary, or learned and added to the embeddings.
      rope_theta: base of the rotary frequencies.
      activation: of the MLP; `swiglu` and `geglu` are gated.
      attention_bias, mlp_bias: whether those projections have biases.
      qk_norm: RMSNorm of queries and keys, per head (arXiv:2302.05442).
      tied: the head is the transposed embedding.
      attention_softcap, logit_softcap: c in c * tanh(x / c), off by default.
      window: each query sees this many keys, itself included; None is all.
      dropout: on embeddings and on what each sublayer adds.
      embedding_noise: the alpha of NEFTune; see `noise`. The paper has 5 to 15.
      init_std: of all matrices; what adds to the residual is divided by sqrt(2 L).
      dtype: of activations and matrix products; parameters stay float32.
      attention: a name in `attention.BACKENDS`, or `auto`.
      remat: a name in `REMAT_POLICIES`.
      unroll: layers in one iteration of the scan; more compiles slower.
      score_heads: scalar heads over the last hidden states, of a reward model; each
        starts from values of its own, so that several make an ensemble.
    """

    vocab_size: int
    d_model: int
    layers: int
    heads: int
    d_ff: int
    max_length: int
    kv_heads: int | None = None
    head_dim: int | None = None
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_epsilon: float = 1e-6
    positions: Literal["rope", "learned"] = "rope"
    rope_theta: float = 10_000.0
    activation: Literal["swiglu", "geglu", "gelu"] = "swiglu"
    attention_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied: bool = True
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    window: int | None = None
    dropout: float = 0.0
    embedding_noise: float = 0.0
    init_std: float = 0.02
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: str = "auto"
    remat: Literal["none", "dots", "attention", "full"] = "none"
    unroll: int = 1
    score_heads: int = 0

    def __post_init__(self):
        problems = []
        sizes = (
            "vocab_size",
            "d_model",
            "layers",
            "heads",
            "d_ff",
            "max_length",
            "unroll",
        )
        for name in sizes + ("kv_heads", "head_dim", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name}: {value} must be positive")
        for name in ("score_heads", "embedding_noise"):
            if getattr(self, name) < 0:
                problems.append(f"{name}: {getattr(self, name)} must be at least 0")
        if not problems:
            if self.head_dim is None and self.d_model % self.heads:
                problems.append(
                    f"heads: {self.heads} do not divide d_model = {self.d_model}; "
                    "change either, or set head_dim"
                )
            if self.heads % self.num_kv_heads:
                problems.append(
                    f"kv_heads: {self.num_kv_heads} do not divide heads = {self.heads}"
                )
            if self.positions == "rope" and self.size_of_head % 2:
                problems.append(
                    f"head_dim: {self.size_of_head} is odd; rotary positions pair"
                )
            if self.layers % self.unroll:
                problems.append(
                    f"unroll: {self.unroll} does not divide layers = {self.layers}"
                )
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout: {self.dropout} is not in [0, 1)")
        if self.attention != "auto" and self.attention not in attention.BACKENDS:
            known = ", ".join(["auto", *attention.BACKENDS])
            problems.append(f"attention: {self.attention!r} is not one of {known}")
        if problems:
            raise config.ConfigError(problems)

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def size_of_head(self) -> int:
        return self.head_dim or self.d_model // self.heads

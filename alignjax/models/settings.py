# SPDX-License-Identifier: Apache-2.0
"""The fields of a decoder, which families give their defaults, and what they allow."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from alignjax import config
from alignjax.models import attention, layers, projection


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
      lora_rank: of the adapters of projections (LoRA, arXiv:2106.09685); 0 is none.
      lora_alpha, lora_rslora: what adapters add is multiplied by alpha / rank, or by
        alpha / sqrt(rank) (rsLoRA, arXiv:2312.03732), which suits high ranks.
      lora_targets: pattern of the projections that get adapters, which are `layers/q`,
        `k`, `v` and `o`, and `layers/mlp/gate`, `up` and `down`.
      lora_dropout: on what goes into adapters.
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
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: str = ".*"
    lora_rslora: bool = False
    lora_dropout: float = 0.0

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
        for name in ("score_heads", "embedding_noise", "lora_rank"):
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
        for name in ("dropout", "lora_dropout"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name}: {getattr(self, name)} is not in [0, 1)")
        problems += self._problems_of_lora()
        if self.attention != "auto" and self.attention not in attention.BACKENDS:
            known = ", ".join(["auto", *attention.BACKENDS])
            problems.append(f"attention: {self.attention!r} is not one of {known}")
        if problems:
            raise config.ConfigError(problems)

    def _problems_of_lora(self) -> list[str]:
        problems = []
        if not self.lora_rank:
            for field in dataclasses.fields(self):
                value = getattr(self, field.name)
                if field.name.startswith("lora_") and value != field.default:
                    problems.append(
                        f"{field.name}: {value!r} has no effect with lora_rank = 0; "
                        f"set that, or this to {field.default!r}"
                    )
        if self.lora_alpha <= 0:
            problems.append(f"lora_alpha: {self.lora_alpha} must be positive")
        try:
            found = [re.fullmatch(self.lora_targets, x) for x in self.projections]
        except re.error as error:
            problems.append(f"lora_targets: {self.lora_targets!r}: {error}")
        else:
            if not any(found):
                problems.append(
                    f"lora_targets: {self.lora_targets!r} matches no projection; there "
                    f"are: {', '.join(self.projections)}"
                )
        return problems

    @property
    def projections(self) -> list[str]:
        """Paths of all projections of a layer."""
        gated = layers.ACTIVATIONS[self.activation][1]
        mlp = ["gate", "up", "down"] if gated else ["up", "down"]
        return [f"layers/{x}" for x in ("q", "k", "v", "o", *(f"mlp/{m}" for m in mlp))]

    @property
    def lora_scale(self) -> float:
        root = 0.5 if self.lora_rslora else 1.0
        return self.lora_alpha / self.lora_rank**root

    def lora(self, train: bool) -> projection.Lora | None:
        """What adapters are like, where there are any; dropout is for training."""
        if not self.lora_rank:
            return None
        dropout = self.lora_dropout if train else 0.0
        return projection.Lora(
            self.lora_rank, self.lora_scale, self.lora_targets, dropout
        )

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def size_of_head(self) -> int:
        return self.head_dim or self.d_model // self.heads

# SPDX-License-Identifier: Apache-2.0
"""The fields of a decoder, which families give their defaults, and what they allow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from alignjax import errors
from alignjax.models import layers, projection, rope, validation


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder and how it computes; families set the defaults.

    Attributes:
      vocab_size: V, rows of the embedding.
      d_model, layers, heads, d_ff: D, L, N and F of the legend in `types`.
      max_length: T at most; learned positions have this many rows.
      context: how long texts may be that the model reads, where training is on shorter
        ones; what exports say. The default, None, is `max_length`.
      kv_heads: K; the default, None, is as many as `heads`.
      head_dim: H; the default is d_model / heads.
      norm, norm_epsilon: the kind of norm and what is added to its variance.
      norm_offset: what norms add to their scale: 1 in Gemma, whose scales are kept as
        differences from 1.
      norm_placement: whether sublayers have a norm of what goes in, of what comes out
        (arXiv:2501.00656), or of both (arXiv:2408.00118).
      positions: rotary, or learned and added to the embeddings.
      rope_theta: base of the rotary frequencies.
      local_rope_theta: the base in layers with a window, where it is another one; these
        are then not scaled (arXiv:2503.19786 section 2.1).
      rope_scaling: how frequencies are stretched to longer texts; see `rope.Scaling`.
      rope_fraction: of the dimensions of a head, the first of which are rotated.
      activation: of the MLP; `swiglu` and those that begin with `geglu` are gated.
        GELU by its tanh approximation, unless `exact` says by the error function.
      attention_bias: which projections of attention have biases: none, `qkv`, or all.
      mlp_bias: whether the projections of the MLP have biases.
      experts: E, how many MLPs a layer has of which each token goes through few; 0 is
        one MLP for all tokens. See `moe`.
      experts_per_token: how many that is.
      expert_d_ff: F of each; the default, None, is `d_ff`.
      norm_topk: whether the weights of a token's experts are made to sum to 1.
      router_loss, router_z_loss: coefficients of the balance loss and of the z-loss of
        routers, which every objective then adds; see `objectives.router`.
      qk_norm: RMSNorm of queries and keys, per `head` (arXiv:2302.05442), or over the
        `full` width of all heads (arXiv:2501.00656).
      embedding_scale: embeddings are multiplied by sqrt(D), rounded to `dtype`.
      attention_scale: what products of queries and keys are multiplied by; the default
        is 1 / sqrt(H).
      tied: the head is the transposed embedding.
      attention_softcap, logit_softcap: c in c * tanh(x / c), off by default.
      window: each query sees this many keys, itself included; None is all.
      window_pattern: which layers have the window: layer i where flag i modulo their
        number is true. Kept as the shortest that says the same; by default all have it.
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
        `k`, `v` and `o`, and `layers/mlp/gate`, `up` and `down`. Routers and experts
        get none.
      lora_dropout: on what goes into adapters.
      lora_dora: whether adapters learn the magnitude of each output apart from its
        direction (DoRA, arXiv:2402.09353); see `dora`.
      base: how kernels of projections that are not trained are kept; see `quantized`.
        Those of experts and routers stay float32.
    """

    vocab_size: int
    d_model: int
    layers: int
    heads: int
    d_ff: int
    max_length: int
    context: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_epsilon: float = 1e-6
    norm_offset: float = 0.0
    norm_placement: Literal["pre", "post", "both"] = "pre"
    positions: Literal["rope", "learned"] = "rope"
    rope_theta: float = 10_000.0
    local_rope_theta: float | None = None
    rope_scaling: rope.Scaling | None = None
    rope_fraction: float = 1.0
    activation: Literal["swiglu", "geglu", "geglu_exact", "gelu", "gelu_exact"] = (
        "swiglu"
    )
    attention_bias: Literal["none", "qkv", "all"] = "none"
    mlp_bias: bool = False
    experts: int = 0
    experts_per_token: int = 2
    expert_d_ff: int | None = None
    norm_topk: bool = True
    router_loss: float = 0.0
    router_z_loss: float = 0.0
    qk_norm: Literal["head", "full"] | None = None
    tied: bool = True
    embedding_scale: bool = False
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    window: int | None = None
    window_pattern: tuple[bool, ...] = (True,)
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
    lora_dora: bool = False
    base: Literal["float32", "bfloat16", "int8", "nf4"] = "float32"

    def __post_init__(self):
        if problems := validation.problems(self):
            raise errors.ConfigError(problems)
        object.__setattr__(self, "window_pattern", shortest(self.layers_with_window))

    @property
    def projections(self) -> list[str]:
        """Paths of all projections of a layer, which adapters can be of."""
        gated = layers.ACTIVATIONS[self.activation][1]
        mlp = ["gate", "up", "down"] if gated else ["up", "down"]
        mlp = [] if self.experts else mlp
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
            self.lora_rank,
            self.lora_scale,
            self.lora_targets,
            dropout,
            self.lora_dora,
        )

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def size_of_head(self) -> int:
        return self.head_dim or self.d_model // self.heads

    @property
    def size_of_expert(self) -> int:
        return self.expert_d_ff or self.d_ff

    @property
    def rotated_dimensions(self) -> int:
        """How many dimensions of a head rotary positions turn."""
        return int(self.size_of_head * self.rope_fraction)

    @property
    def layers_with_window(self) -> tuple[bool, ...]:
        """Of each layer, whether the pattern gives it the window, if there is one."""
        pattern = self.window_pattern
        return tuple(pattern[i % len(pattern)] for i in range(self.layers))


def shortest(flags: Sequence[bool]) -> tuple[bool, ...]:
    """The shortest beginning of `flags` that gives them all when it is repeated."""
    flags = tuple(flags)
    fits = lambda p: all(x == flags[i % p] for i, x in enumerate(flags))
    return flags[: next(p for p in range(1, len(flags) + 1) if fits(p))]

# SPDX-License-Identifier: Apache-2.0
"""The fields of a decoder and their checks; families set the defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

from alignjax import bounds, errors, patterns
from alignjax.models import attention, layers, projection, rope


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder and how it computes; families set the defaults.

    Attributes:
      vocab_size: V, rows of the embedding.
      d_model, layers, heads, d_ff: D, L, N and F of the legend in `types`.
      max_length: T at most; learned positions have this many rows.
      context: tokens that the model can read, for exports, where training is on shorter
        texts. The default, None, is `max_length`.
      kv_heads: K; the default, None, is as many as `heads`.
      head_dim: H; the default is d_model / heads.
      norm, norm_epsilon: the kind of norm, and the constant added to its variance.
      norm_offset: added to the scales of norms: 1 in Gemma, which stores them as
        differences from 1.
      norm_placement: whether sublayers have a norm of their input, of their output
        (arXiv:2501.00656), or of both (arXiv:2408.00118).
      positions: rotary, or learned and added to the embeddings.
      rope_theta: base of the rotary frequencies.
      local_rope_theta: the base in layers with a window, where it is another one; these
        are then not scaled (arXiv:2503.19786 section 2.1).
      rope_scaling: stretches frequencies to longer texts; see `rope.Scaling`.
      rope_fraction: of the dimensions of a head, the first of which are rotated.
      activation: of the MLP; `swiglu` and those that begin with `geglu` are gated.
        GELU by its tanh approximation, or with `exact` by the error function.
      attention_bias: which projections of attention have biases: none, `qkv`, or all.
      mlp_bias: whether the projections of the MLP have biases.
      experts: E, MLPs of a layer, of which each token goes through few; 0 is one MLP
        for all tokens. See `moe`.
      experts_per_token: J, the experts that one token goes through.
      expert_d_ff: F of each; the default, None, is `d_ff`.
      norm_topk: whether the weights of a token's experts are made to sum to 1.
      router_loss, router_z_loss: coefficients of the balance loss and of the z-loss of
        routers, which are added to every objective; see `router_loss`.
      qk_norm: RMSNorm of queries and keys, per `head` (arXiv:2302.05442), or over the
        `full` width of all heads (arXiv:2501.00656).
      embedding_scale: embeddings are multiplied by sqrt(D), rounded to `dtype`.
      attention_scale: factor of the products of queries and keys; the default, None,
        is 1 / sqrt(H).
      tied: the head is the transposed embedding.
      attention_softcap, logit_softcap: c in c * tanh(x / c), off by default.
      window: each query sees this many keys, itself included; None is all.
      window_pattern: which layers have the window: layer i where flag i modulo their
        number is true. Stored as the shortest equal pattern; by default all have it.
      dropout: rate on embeddings and on the output of each sublayer.
      embedding_noise: the alpha of NEFTune, 5 to 15 in its paper; see `layers`.
      init_std: of all matrices; of those that add to the residual over sqrt(2 L).
      dtype: of activations and matrix products; parameters stay float32. With "auto"
        it is float32 on CPUs, which have no fast bfloat16, and bfloat16 elsewhere.
      attention: a name in `attention.BACKENDS`, or `auto`: the kernel of the devices,
        `cudnn` or `splash`, where it can do what the model asks, else `xla`.
      remat: a name in `decoder.REMAT_POLICIES`; "auto" recomputes no more than the
        memory of the devices asks for. See `memory.choose`.
      unroll: layers in one iteration of the scan; more compiles slower. With "auto" all
        of them on GPUs, up to 32, and one elsewhere.
      score_heads: scalar heads over the last hidden states, of a reward model; each
        starts from values of its own, so that several make an ensemble.
      lora_rank: of the adapters of projections (LoRA, arXiv:2106.09685); 0 is none.
      lora_alpha, lora_rslora: the factor of adapters is alpha / rank, or
        alpha / sqrt(rank) (rsLoRA, arXiv:2312.03732), which suits high ranks.
      lora_targets: pattern of the projections that get adapters: `layers/q`, `k`, `v`
        and `o`, and `layers/mlp/gate`, `up` and `down`. Routers and experts get none.
      lora_dropout: rate on the input of adapters.
      lora_dora: whether adapters learn the magnitude of each output apart from its
        direction (DoRA, arXiv:2402.09353); see `projection`.
      base: dtype of the kernels of projections that are not trained; see `quantized`.
        Those of experts and routers stay float32.
    """

    vocab_size: bounds.Size
    d_model: bounds.Size
    layers: bounds.Many
    heads: bounds.Many
    d_ff: bounds.Size
    max_length: bounds.Size
    context: bounds.Size | None = None
    kv_heads: bounds.Many | None = None
    head_dim: bounds.Many | None = None
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_epsilon: bounds.Positive = 1e-6
    norm_offset: float = 0.0
    norm_placement: Literal["pre", "post", "both"] = "pre"
    positions: Literal["rope", "learned"] = "rope"
    rope_theta: bounds.Positive = 10_000.0
    local_rope_theta: bounds.Positive | None = None
    rope_scaling: rope.Scaling | None = None
    rope_fraction: bounds.PositiveShare = 1.0
    activation: Literal["swiglu", "geglu", "geglu_exact", "gelu", "gelu_exact"] = (
        "swiglu"
    )
    attention_bias: Literal["none", "qkv", "all"] = "none"
    mlp_bias: bool = False
    experts: bounds.ManyOrZero = 0
    experts_per_token: bounds.Many = 2
    expert_d_ff: bounds.Size | None = None
    norm_topk: bool = True
    router_loss: bounds.NonNegative = 0.0
    router_z_loss: bounds.NonNegative = 0.0
    qk_norm: Literal["head", "full"] | None = None
    tied: bool = True
    embedding_scale: bool = False
    attention_scale: bounds.Positive | None = None
    attention_softcap: bounds.Positive | None = None
    logit_softcap: bounds.Positive | None = None
    window: bounds.Size | None = None
    window_pattern: tuple[bool, ...] = (True,)
    dropout: bounds.Share = 0.0
    embedding_noise: bounds.NonNegative = 0.0
    init_std: bounds.NonNegative = 0.02
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    attention: str = "auto"
    remat: Literal["auto", "none", "dots", "attention", "full"] = "auto"
    unroll: bounds.Many | Literal["auto"] = "auto"
    score_heads: bounds.ManyOrZero = 0
    lora_rank: bounds.ManyOrZero = 0
    lora_alpha: bounds.Positive = 16.0
    lora_targets: str = ".*"
    lora_rslora: bool = False
    lora_dropout: bounds.Share = 0.0
    lora_dora: bool = False
    base: Literal["float32", "bfloat16", "int8", "nf4"] = "float32"

    def __post_init__(self):
        if problems := list(_problems(self)):
            raise errors.ConfigError(problems)
        object.__setattr__(self, "window_pattern", shortest(self.layers_with_window))

    def without_extras(self) -> DecoderConfig:
        """The same model without adapters and scores, all its kernels in float32."""
        extras = {
            field.name: field.default
            for field in dataclasses.fields(self)
            if field.name.startswith("lora_") or field.name in ("score_heads", "base")
        }
        return dataclasses.replace(self, **extras)

    @property
    def projections(self) -> list[str]:
        """Paths of all projections of a layer that can have adapters."""
        gated = layers.ACTIVATIONS[self.activation][1]
        mlp = ["gate", "up", "down"] if gated else ["up", "down"]
        mlp = [] if self.experts else mlp
        return [f"layers/{x}" for x in ("q", "k", "v", "o", *(f"mlp/{m}" for m in mlp))]

    @property
    def lora_scale(self) -> float:
        root = 0.5 if self.lora_rslora else 1.0
        return self.lora_alpha / self.lora_rank**root

    def lora(self, train: bool) -> projection.Lora | None:
        """The adapters of projections, or None; dropout is for training."""
        if not self.lora_rank:
            return None
        dropout = self.lora_dropout if train else 0.0
        return projection.Lora(
            self.lora_rank, self.lora_scale, self.lora_targets, dropout, self.lora_dora
        )

    @property
    def layers_a_turn(self) -> int:
        """Layers in one iteration of the scan; one where nothing has chosen."""
        return 1 if self.unroll == "auto" else self.unroll

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def size_of_head(self) -> int:
        return self.head_dim or self.d_model // self.heads

    @property
    def size_of_expert(self) -> int:
        return self.expert_d_ff or self.d_ff

    def attention_case(
        self, platform: str | None, branches: bool = False
    ) -> attention.Case:
        """What attention must do, on devices of a platform, with branches or without.

        The window is that of some layers or of all.
        """
        options = (self.attention_softcap, self.window, branches)
        dtype = self.dtype_on(platform)
        return attention.Case(platform, dtype, self.size_of_head, *options)

    def dtype_on(self, platform: str | None) -> str:
        """The name of the dtype on devices of a platform, of CPUs where it is None."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if platform in (None, "cpu") else "bfloat16"

    @property
    def rotated_dimensions(self) -> int:
        return int(self.size_of_head * self.rope_fraction)

    @property
    def short_length(self) -> int | None:
        """Tokens of a document up to which its frequencies are those of short ones.

        None where frequencies do not depend on its length.
        """
        s = self.rope_scaling
        return s.original_length if s is not None and s.by_length else None

    @property
    def layers_with_window(self) -> tuple[bool, ...]:
        """Whether each layer has the window, if there is one."""
        pattern = self.window_pattern
        return tuple(pattern[i % len(pattern)] for i in range(self.layers))


def shortest(flags: Sequence[bool]) -> tuple[bool, ...]:
    """The shortest beginning of `flags` that makes all of them when repeated."""
    flags, borders = tuple(flags), [0]  # of Knuth, Morris and Pratt: in linear time
    for flag in flags[1:]:
        border = borders[-1]
        while border and flag != flags[border]:
            border = borders[border - 1]
        borders.append(border + (flag == flags[border]))
    return flags[: len(flags) - borders[-1]]


def _problems(c: DecoderConfig) -> Iterator[str]:
    """Lines `field: problem`."""
    if c.head_dim is None and c.d_model % c.heads:
        yield (
            f"heads: {c.heads} do not divide d_model = {c.d_model}; "
            "change either, or set head_dim"
        )
    if c.heads % c.num_kv_heads:
        yield f"kv_heads: {c.num_kv_heads} do not divide heads = {c.heads}"
    if c.layers % c.layers_a_turn:
        yield f"unroll: {c.unroll} does not divide layers = {c.layers}"
    for check in (_windows, _positions, _experts, _adapters):
        yield from check(c)
    sizes = ("d_model", "d_ff", "size_of_head")
    if odd := [name for name in sizes if c.base == "nf4" and getattr(c, name) % 2]:
        yield f"base: 'nf4' keeps two codes a byte, and {odd[0]} is odd; choose another"
    if c.attention not in (names := ["auto", *attention.BACKENDS]):
        yield f"attention: {c.attention!r} is not one of {', '.join(names)}"
    platforms = {kernel: platform for platform, kernel in attention.KERNELS.items()}
    case = c.attention_case(platforms.get(c.attention))  # the devices that it is for
    if problem := attention.problem(c.attention, case):
        yield f"attention: {problem}"


def _without_effect(
    c: DecoderConfig, names: Sequence[str], where: str
) -> Iterator[str]:
    """Problems with those of some fields that are not at their defaults."""
    for field in dataclasses.fields(c):
        value = getattr(c, field.name)
        if field.name in names and value != field.default:
            yield (
                f"{field.name}: {value!r} has no effect {where}; set that, or this to "
                f"{field.default!r}"
            )


def _windows(c) -> Iterator[str]:
    if not c.window_pattern:
        yield "window_pattern: empty; leave it out where all layers have the window"
    elif c.window is None and not all(c.window_pattern):
        yield "window_pattern: has no effect without window; set that, or leave it"
    elif not any(c.window_pattern):
        yield "window_pattern: no layer has the window; leave both out"
    elif c.window is None:
        yield from _without_effect(c, ["local_rope_theta"], "without window")


def _positions(c) -> Iterator[str]:
    R, H = c.rotated_dimensions, c.size_of_head
    if c.context is not None and c.context < c.max_length:
        yield f"context: {c.context} is less than max_length = {c.max_length}"
    elif c.positions != "rope":
        names = ("rope_scaling", "local_rope_theta", "context", "rope_fraction")
        yield from _without_effect(c, names, f"with positions = {c.positions!r}")
    elif H % 2:
        yield f"head_dim: {H} is odd; rotary positions pair"
    elif R < 2 or R % 2:
        of = f"{c.rope_fraction} of head_dim = {H}"
        yield f"rope_fraction: {of} are {R} dimensions, which is not even"
    else:
        for name in ("short_factor", "long_factor"):
            numbers = getattr(c.rope_scaling, name, None)
            if numbers is not None and len(numbers) != R // 2:
                count = f"{len(numbers)} numbers for {R // 2} frequencies"
                yield f"rope_scaling.{name}: has {count}"


def _experts(c) -> Iterator[str]:
    if not c.experts:
        names = ("expert_d_ff", "router_loss", "router_z_loss")
        yield from _without_effect(c, names, "without experts")
        return
    if c.experts_per_token > c.experts:
        yield (
            f"experts_per_token: {c.experts_per_token} are more than the "
            f"experts = {c.experts} that there are"
        )
    if c.mlp_bias:
        yield "mlp_bias: experts have no biases; set it to False"


def _adapters(c) -> Iterator[str]:
    if not c.lora_rank:
        names = [x.name for x in dataclasses.fields(c) if x.name.startswith("lora_")]
        yield from _without_effect(c, names, "with lora_rank = 0")
    try:
        matches = patterns.matching([c.lora_targets], c.projections, "lora_targets")
    except errors.ConfigError as error:
        yield from error.problems
        return
    if not any(matches[0]):
        but = "; experts get no adapters" if c.experts else ""
        yield (
            f"lora_targets: {c.lora_targets!r} matches no projection; there "
            f"are: {', '.join(c.projections)}{but}"
        )

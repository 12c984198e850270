# SPDX-License-Identifier: Apache-2.0
"""A decoder-only transformer: one scanned block, `hidden`, `unembed`, a KV cache."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from alignjax import config, sharding, throughput, trees, types
from alignjax.models import attention, layers
from alignjax.models import cache as kv_cache

REMAT_POLICIES = {  # what the forward pass keeps for the backward pass
    "none": None,  # everything
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names("attention"),
    "full": jax.checkpoint_policies.nothing_saveable,  # only the input of each layer
}


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
      init_std: of all matrices; what adds to the residual is divided by sqrt(2 L).
      dtype: of activations and matrix products; parameters stay float32.
      attention: a name in `attention.BACKENDS`, or `auto`.
      remat: a name in `REMAT_POLICIES`.
      unroll: layers in one iteration of the scan; more compiles slower.
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
    init_std: float = 0.02
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: str = "auto"
    remat: Literal["none", "dots", "attention", "full"] = "none"
    unroll: int = 1

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


class Shared(NamedTuple):
    """What every layer is given: segments for whole rows, mask and slot for a cache."""

    rotations: Any = None  # cosines and sines, or None with learned positions
    segment_ids: Any = None
    mask: Any = None  # bool [B, T, S], the slots that each query may look at
    slot: Any = None  # int32, where in the cache the first of the T tokens goes


class Block(nn.Module):
    """Attention, then the MLP, each after a norm and added to its input."""

    config: DecoderConfig
    train: bool

    @nn.compact
    def __call__(self, carry, layer: jax.Array, shared: Shared):
        """(x_BTD, keys and values of the cache or None), before and after."""
        x_BTD, kv = carry
        c = self.config
        out_std = c.init_std * (2 * c.layers) ** -0.5
        norm = lambda name: layers.Norm(c.norm, c.norm_epsilon, "embed", name=name)
        dropout = nn.Dropout(c.dropout, deterministic=not self.train)
        add = lambda x, y: sharding.constrain(x + dropout(y), "batch", "seq", None)

        q_BTNH, k_BTKH, v_BTKH = self._heads(norm("attention_norm")(x_BTD), shared)
        if kv is None:
            backend = attention.resolve(c.attention, q_BTNH, c.attention_softcap)
            out_BTNH = attention.BACKENDS.find(backend)(
                q_BTNH,
                k_BTKH,
                v_BTKH,
                shared.segment_ids,
                window=c.window,
                softcap=c.attention_softcap,
            )
        else:
            kv = kv_cache.write(kv, layer, shared.slot, k_BTKH, v_BTKH)
            out_BNTH = attention.attend(
                attention.heads_first(q_BTNH),
                *kv_cache.read(kv, layer),
                shared.mask,
                softcap=c.attention_softcap,
            )
            out_BTNH = attention.heads_first(out_BNTH)
        out_BTNH = checkpoint_name(out_BTNH, "attention")
        project = layers.Projection(
            (c.d_model,),
            ("heads", "head_dim", "embed"),
            contract=2,
            std=out_std,
            use_bias=c.attention_bias,
            name="o",
        )
        x_BTD = add(x_BTD, project(out_BTNH))
        mlp = layers.MLP(
            c.d_ff, c.activation, c.mlp_bias, c.init_std, out_std, name="mlp"
        )
        return (add(x_BTD, mlp(norm("mlp_norm")(x_BTD))), kv), None

    def _heads(self, h_BTD, shared: Shared):
        """Queries, keys and values, normalised and rotated."""
        c = self.config
        project = lambda name, heads, axis: layers.Projection(
            (heads, c.size_of_head),
            ("embed", axis, "head_dim"),
            std=c.init_std,
            use_bias=c.attention_bias,
            name=name,
        )(h_BTD)
        q_BTNH = project("q", c.heads, "heads")
        k_BTKH = project("k", c.num_kv_heads, "kv_heads")
        v_BTKH = project("v", c.num_kv_heads, "kv_heads")
        if c.qk_norm:
            q_BTNH = layers.Norm("rmsnorm", c.norm_epsilon, "head_dim", name="q_norm")(
                q_BTNH
            )
            k_BTKH = layers.Norm("rmsnorm", c.norm_epsilon, "head_dim", name="k_norm")(
                k_BTKH
            )
        if shared.rotations is not None:
            q_BTNH = layers.rotate(q_BTNH, shared.rotations)
            k_BTKH = layers.rotate(k_BTKH, shared.rotations)
        return q_BTNH, k_BTKH, v_BTKH


def _block(c: DecoderConfig):
    """`Block`, recomputing in the backward pass what the policy does not keep."""
    if REMAT_POLICIES[c.remat] is None:
        return Block
    # Inside a loop, merging common subexpressions cannot undo the recomputation.
    looped = c.unroll < c.layers
    return nn.remat(Block, policy=REMAT_POLICIES[c.remat], prevent_cse=not looped)


class Decoder(nn.Module):
    """Embedding, scanned blocks, final norm; the head is a method of its own."""

    config: DecoderConfig
    train: bool = False

    def setup(self):
        c = self.config
        normal = nn.initializers.normal(c.init_std)
        named = lambda *axes: nn.with_logical_partitioning(normal, axes)
        self.embed = self.param(
            "embed", named("vocab", "embed"), (c.vocab_size, c.d_model)
        )
        if c.positions == "learned":
            shape = (c.max_length, c.d_model)
            self.position_embed = self.param(
                "position_embed", named("seq", "embed"), shape
            )
        if not c.tied:
            self.head = self.param(
                "head", named("embed", "vocab"), (c.d_model, c.vocab_size)
            )
        self.layers = nn.scan(
            _block(c),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=c.layers,
            unroll=c.unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, self.train)
        self.norm = layers.Norm(c.norm, c.norm_epsilon, "embed")
        self.dropout = nn.Dropout(c.dropout, deterministic=not self.train)

    def _embed(self, tokens_BT, positions_BT):
        c = self.config
        # Gathering the table's columns first is what FSDP means; left to itself, the
        # partitioner moves the activations instead.
        embed = sharding.constrain(self.embed, "vocab", None)
        x_BTD = jnp.take(embed, tokens_BT, axis=0)
        if c.positions == "learned":
            x_BTD += jnp.take(self.position_embed, positions_BT, axis=0)
        x_BTD = self.dropout(x_BTD.astype(c.dtype))
        return sharding.constrain(x_BTD, "batch", "seq", None)

    def _rotations(self, positions_BT):
        c = self.config
        if c.positions == "learned":
            return None
        return layers.rotations(positions_BT, c.size_of_head, c.rope_theta)

    def _indices(self):
        return jnp.arange(self.config.layers)

    def hidden(self, inputs_BT, positions_BT, segment_ids_BT):
        shared = Shared(self._rotations(positions_BT), segment_ids_BT)
        x_BTD = self._embed(inputs_BT, positions_BT)
        if self.config.unroll == self.config.layers and not self.is_initializing():
            x_BTD = self._unrolled(x_BTD, shared)
        else:
            (x_BTD, _), _ = self.layers((x_BTD, None), self._indices(), shared)
        return self.norm(x_BTD)

    def _unrolled(self, x_BTD, shared: Shared):
        """The layers one after the other, with no loop in the program.

        A loop keeps what the backward pass needs in arrays of all layers, which it
        clears and copies. Splitting once makes the gradient one concatenation.
        """
        c = self.config
        block = _block(c)(c, self.train, parent=None)
        stacked = self.layers.variables["params"]
        apart = lambda x: [piece[0] for piece in jnp.split(x, c.layers)]
        split = jax.tree.map(apart, stacked)
        is_split = lambda x: isinstance(x, list)
        for i in range(c.layers):
            layer = jax.tree.map(operator.itemgetter(i), split, is_leaf=is_split)
            rngs = {"dropout": self.make_rng("dropout")} if self.train else {}
            carry = (x_BTD, None)
            (x_BTD, _), _ = block.apply({"params": layer}, carry, i, shared, rngs=rngs)
        return x_BTD

    def extend(self, tokens_BT, positions_BT, cache):
        """Sees the cache's tokens and its own, up to each position; `types.Model`."""
        slot = cache["slot"]
        seen_BS, mask_BTS = kv_cache.see(cache, positions_BT, self.config.window)
        # Padding has no position: any valid one will do, since nothing looks at it.
        positions_BT = jnp.maximum(positions_BT, 0)
        shared = Shared(self._rotations(positions_BT), mask=mask_BTS, slot=slot)
        x_BTD = self._embed(tokens_BT, positions_BT)
        carry = (x_BTD, cache["layers"])
        (x_BTD, kv), _ = self.layers(carry, self._indices(), shared)
        slot += tokens_BT.shape[1]
        cache = {"layers": kv, "positions": seen_BS, "slot": slot}
        return self.norm(x_BTD), cache

    def unembed(self, x_BTD):
        head = self.embed.T if self.config.tied else self.head
        head = head.astype(x_BTD.dtype)
        logits_BTV = jnp.matmul(x_BTD, head, preferred_element_type=jnp.float32)
        if (cap := self.config.logit_softcap) is not None:
            logits_BTV = cap * jnp.tanh(logits_BTV / cap)
        return sharding.constrain(logits_BTV, "batch", "seq", "vocab")


def build(c: DecoderConfig) -> types.Model:
    """The decoder as pure functions over its parameters."""
    evaluated, trained = Decoder(c), Decoder(c, train=True)

    def init(key):
        tokens = jnp.zeros((1, 1), jnp.int32)
        return evaluated.init(key, tokens, tokens, tokens, method="hidden")["params"]

    def hidden(params, sequences, key=None):
        inputs = (sequences.inputs, sequences.positions, sequences.segment_ids)
        if key is None or c.dropout == 0:
            return evaluated.apply({"params": params}, *inputs, method="hidden")
        rngs = {"dropout": key}
        return trained.apply({"params": params}, *inputs, method="hidden", rngs=rngs)

    def unembed(params, x_BTD):
        return evaluated.apply({"params": params}, x_BTD, method="unembed")

    def init_cache(batch, length):
        sizes = (c.layers, batch, c.num_kv_heads, length, c.size_of_head)
        return kv_cache.init(*sizes, c.dtype)

    def extend(params, tokens_BT, positions_BT, cache):
        inputs = (tokens_BT, positions_BT, cache)
        return evaluated.apply({"params": params}, *inputs, method="extend")

    def score(params, x_BTD):  # replaced once the decoder has heads
        raise NotImplementedError

    return types.Model(c, init, hidden, unembed, init_cache, extend, score)


def flops_per_token(model: types.Model, context: int) -> float:
    """FLOPs of a training step a token; see `throughput.flops_per_token`."""
    c = model.config
    total = trees.count(jax.eval_shape(model.init, jax.random.key(0)))
    matrices = throughput.matrix_parameters(
        total,
        vocab_size=c.vocab_size,
        d_model=c.d_model,
        tied=c.tied,
        positions=c.max_length if c.positions == "learned" else 0,
    )
    return throughput.flops_per_token(
        parameters=matrices,
        layers=c.layers,
        heads=c.heads,
        head_dim=c.size_of_head,
        context=context,
        window=c.window,
    )

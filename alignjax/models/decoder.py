# SPDX-License-Identifier: Apache-2.0
"""A decoder-only transformer: embedding, scanned blocks, two kinds of head, a cache."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from alignjax import errors, trees, types
from alignjax.distributed import sharding
from alignjax.models import attention, block, decoder_config, kv_cache, layers, rope
from alignjax.tracking import throughput


def _attention(primitive, *arguments, **parameters) -> bool:
    """Whether it gives the output of attention.

    A kernel's own primitive also gives the log-sum-exp of each query, without which its
    forward pass would have to run again for the gradient; plain attention names its
    output.
    """
    named = jax.checkpoint_policies.save_only_these_names("attention")
    kernel = primitive.name.startswith(("dot_product_attention_fwd", "pallas_call"))
    return kernel or named(primitive, *arguments, **parameters)


def _dots(primitive, *arguments, **parameters) -> bool:
    """Whether it is a product with weights, or attention."""
    product = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return any(f(primitive, *arguments, **parameters) for f in (product, _attention))


# What the forward pass saves for the backward pass, the most first.
REMAT_POLICIES = {
    "none": None,  # everything
    "dots": _dots,
    "attention": _attention,
    "full": jax.checkpoint_policies.nothing_saveable,  # only the input of each layer
}


def _block(c: decoder_config.DecoderConfig):
    """The layer, which recomputes what its policy does not save."""
    policy = REMAT_POLICIES.get(c.remat)  # "auto" saves all where nothing has chosen
    if policy is None:
        return block.Block
    # Inside a loop, merging common subexpressions cannot undo the recomputation.
    looped = c.layers_a_turn < c.layers
    return nn.remat(block.Block, policy=policy, prevent_cse=not looped)


class Decoder(nn.Module):
    """Embedding, scanned blocks, final norm; the heads are methods of their own."""

    config: decoder_config.DecoderConfig
    train: bool = False

    def setup(self):
        c = self.config
        V, D, T = c.vocab_size, c.d_model, c.max_length
        normal = nn.initializers.normal(c.init_std)
        named = lambda *axes: nn.with_logical_partitioning(normal, axes)
        self.embed = self.param("embed", named("vocab", "embed"), (V, D))
        if c.positions == "learned":
            random = named("seq", "embed")
            self.position_embed = self.param("position_embed", random, (T, D))
        if not c.tied:
            self.head = self.param("head", named("embed", "vocab"), (D, V))
        self.layers = nn.scan(
            _block(c),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=c.layers,
            unroll=c.layers_a_turn,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, self.train)
        self.norm = layers.Norm(c.norm, c.norm_epsilon, "embed", c.norm_offset)
        self.score = layers.Scores(c.score_heads)
        self.dropout = nn.Dropout(c.dropout, deterministic=not self.train)

    def _embed(self, tokens_BT, positions_BT, noise_BTD=None):
        c, dtype = self.config, self.config.dtype_on(sharding.platform())
        # Gathering the table's columns first is what FSDP means; left to itself, the
        # partitioner moves the activations instead.
        embed = sharding.constrain(self.embed, "vocab", None)
        x_BTD = jnp.take(embed, tokens_BT, axis=0)
        if c.embedding_scale:  # rounded twice, as models with it were trained
            scale = jnp.asarray(c.d_model**0.5, dtype)
            x_BTD = x_BTD.astype(dtype) * scale
        if c.positions == "learned":
            x_BTD += jnp.take(self.position_embed, positions_BT, axis=0)
        if noise_BTD is not None:
            x_BTD += noise_BTD
        x_BTD = self.dropout(x_BTD.astype(dtype))
        return sharding.constrain(x_BTD, "batch", "seq", None)

    def _rotations(self, positions_BT, long_BT1=False):
        """Cosines and sines; `long_BT1` is of documents beyond the original length."""
        c = self.config
        if c.positions == "learned":
            return None
        frequencies = functools.partial(
            rope.frequencies, c.rotated_dimensions, c.rope_theta, c.rope_scaling
        )
        scaled = frequencies()
        if not isinstance(long_BT1, bool):
            scaled = jnp.where(long_BT1, frequencies(long=True), scaled)
        rotate = functools.partial(rope.rotations, positions_BT)
        far = rotate(scaled, rope.amplitude(c.rope_scaling))
        if c.local_rope_theta is None:
            return block.ByLayer(far)
        near = rope.frequencies(c.rotated_dimensions, c.local_rope_theta)
        return block.ByLayer(far, rotate(near))

    def _is_long(self, segment_ids_BT, positions_BT, branches_BT):
        """Whether the document of each token is longer than the original length."""
        limit, T = self.config.short_length, segment_ids_BT.shape[1]
        if limit is None or limit >= T:
            return False
        if branches_BT is not None:
            raise errors.ConfigError(
                "model.rope_scaling: longrope depends on the length of a document, "
                "which may differ between responses that share their prompt; set "
                "data.share_prompt=False"
            )
        lengths_BT = layers.document_lengths(segment_ids_BT, positions_BT)
        return (lengths_BT > limit)[..., None]

    def start(self):
        """Uses every parameter, which is how Flax makes them."""
        tokens_BT = jnp.zeros((1, 1), jnp.int32)
        x_BTD = self.hidden(tokens_BT, tokens_BT, tokens_BT)
        if self.config.score_heads:
            self.scores(x_BTD)

    def hidden(self, *inputs):
        return self._read(*inputs, counts_BT=None)[0]

    def routed(self, inputs_BT, positions_BT, segment_ids_BT, *further):
        """As `hidden`, and the `types.Routing` of the tokens of documents."""
        inputs = (inputs_BT, positions_BT, segment_ids_BT, *further)
        return self._read(*inputs, counts_BT=segment_ids_BT != 0)

    def every_layer(self, *inputs):
        """float32 [L + 1, B, T, D]: embeddings, then what each layer adds up to.

        Before the norm at the end.
        """
        x_BTD, shared = self._begin(*inputs)
        layer = block.Block(self.config, self.train, parent=None)

        def step(x_BTD, stacked):
            params, i = stacked
            inputs = ((x_BTD, None), i, shared)
            (x_BTD, _), _ = layer.apply({"params": params}, *inputs)
            return x_BTD, x_BTD

        indices_L = jnp.arange(self.config.layers)
        stacked = (self.layers.variables["params"], indices_L)
        _, x_LBTD = jax.lax.scan(step, x_BTD, stacked)
        return jnp.concatenate([x_BTD[None], x_LBTD]).astype(jnp.float32)

    def _begin(
        self,
        inputs_BT,
        positions_BT,
        segment_ids_BT,
        branches_BT=None,
        one_document=False,
    ):
        """The embeddings x_BTD, and what all layers share."""
        c, noise_BTD = self.config, None
        documents = (segment_ids_BT, positions_BT, branches_BT)
        if self.train and c.embedding_noise:
            key, lengths_BT = (
                self.make_rng("noise"),
                layers.document_lengths(*documents),
            )
            noise_BTD = layers.embedding_noise(
                key, c.embedding_noise, lengths_BT, segment_ids_BT, c.d_model
            )
        rotations = self._rotations(positions_BT, self._is_long(*documents))
        branches = None
        if branches_BT is not None:
            branches = attention.rows.Branches(branches_BT, positions_BT)
        rows = attention.rows.Rows(segment_ids_BT, branches, one_document)
        shared = block.Shared(rotations, rows)
        return self._embed(inputs_BT, positions_BT, noise_BTD), shared

    def _read(self, *inputs, counts_BT):
        x_BTD, shared = self._begin(*inputs)
        shared = shared._replace(counts=counts_BT)
        c = self.config
        if c.layers_a_turn == c.layers and not self.is_initializing():
            x_BTD, routing = self._unrolled(x_BTD, shared)
        else:
            indices_L = jnp.arange(self.config.layers)
            (x_BTD, _), routing_L = self.layers((x_BTD, None), indices_L, shared)
            routing = jax.tree.map(lambda x_L: x_L.sum(0), routing_L)
        return self.norm(x_BTD), routing

    def _unrolled(self, x_BTD, shared: block.Shared):
        """The layers one after the other, with no loop in the program.

        A loop saves what the backward pass needs in arrays of all layers, which it
        clears and copies. Splitting once makes the gradient one concatenation.
        """
        c = self.config
        make = functools.partial(_block(c), c, self.train, parent=None)
        routing = []
        for i, params in enumerate(self._split()):
            rngs = {"dropout": self.make_rng("dropout")} if self.train else {}
            inputs = ((x_BTD, None), i, shared)
            (x_BTD, _), routed = make(layer=i).apply(params, *inputs, rngs=rngs)
            routing.append(routed)
        return x_BTD, jax.tree.map(lambda *x: sum(x), *routing)

    def _split(self) -> list[dict]:
        """The variables of each layer."""
        params, L = self.layers.variables["params"], self.config.layers
        parts = params if "0" in params else _by_layer(params, L)
        return [{"params": parts[str(i)]} for i in range(L)]

    def _layer_by_layer(self, x_BTD, kv_L, shared: block.Shared):
        """The layers one after the other, each with its own part of the cache."""
        kvs = []
        for i, (params, kv) in enumerate(zip(self._split(), kv_L, strict=True)):
            layer = block.Block(self.config, self.train, layer=i, parent=None)
            (x_BTD, kv), _ = layer.apply(params, (x_BTD, kv), None, shared)
            kvs.append(kv)
        return x_BTD, tuple(kvs)

    def extend(self, tokens_BT, positions_BT, cache):
        """Attends to the cache's tokens and its own, up to each; see `types.Model`."""
        slot = cache["slot"]
        slots_BS, mask_BTS = kv_cache.see(cache, positions_BT)
        mask = block.ByLayer(mask_BTS)
        if self.config.window is not None:
            near_BTS = kv_cache.near(slots_BS, positions_BT, self.config.window)
            mask = mask._replace(near=mask_BTS & near_BTS)
        # Padding has no position: any valid one will do, since nothing attends to it.
        positions_BT = jnp.maximum(positions_BT, 0)
        shared = block.Shared(self._rotations(positions_BT), mask=mask, slot=slot)
        x_BTD = self._embed(tokens_BT, positions_BT)
        kv = cache["layers"]
        if isinstance(kv, tuple):
            x_BTD, kv = self._layer_by_layer(x_BTD, kv, shared)
        else:
            indices_L = jnp.arange(self.config.layers)
            (x_BTD, kv), _ = self.layers((x_BTD, kv), indices_L, shared)
        slot += tokens_BT.shape[1]
        cache = {"layers": kv, "positions": slots_BS, "slot": slot}
        return self.norm(x_BTD), cache

    def last_norm(self, x_BTD):
        return self.norm(x_BTD.astype(self.config.dtype_on(sharding.platform())))

    def scores(self, x_BTD):
        return sharding.constrain(self.score(x_BTD), "batch", "seq", None)


def _by_layer(stacked: types.Params, layers: int) -> types.Params:
    """Parameters of layers, of which each has its own, by its number."""
    leaves, tree = jax.tree.flatten(stacked)
    split = [[x[0] for x in jnp.split(x, layers)] for x in leaves]
    each = enumerate(zip(*split, strict=True))
    return {str(i): jax.tree.unflatten(tree, own) for i, own in each}


def build(c: decoder_config.DecoderConfig) -> types.Model:
    """The decoder as pure functions over its parameters."""
    evaluated, trained = Decoder(c), Decoder(c, train=True)
    random = any(x > 0 for x in (c.dropout, c.embedding_noise, c.lora_dropout))

    def init(key):
        return evaluated.init(key, method="start")["params"]

    def apply(params, *inputs, method):
        return evaluated.apply({"params": params}, *inputs, method=method)

    def read(params, sequences, key=None, *, method):
        inputs = (sequences.inputs, sequences.positions, sequences.segment_ids)
        inputs += (sequences.branches, sequences.one_document)
        if key is None or not random:
            return apply(params, *inputs, method=method)
        rngs = {"dropout": key, "noise": jax.random.fold_in(key, 1)}
        return trained.apply({"params": params}, *inputs, method=method, rngs=rngs)

    def hidden(params, sequences, key=None, every_layer=False):
        method = "every_layer" if every_layer else "hidden"
        return read(params, sequences, key, method=method)

    def init_cache(batch, length):
        if c.short_length is not None and length > c.short_length:
            raise errors.ConfigError(
                "model.rope_scaling: longrope has other frequencies for documents of "
                f"more than {c.short_length} tokens, so that a text with room "
                f"for {length} may have to be read again on the way; make it shorter, "
                "or set short_factor to the numbers of long_factor"
            )
        sizes = (c.layers, batch, c.num_kv_heads, length, c.size_of_head)
        platform = sharding.platform()
        return kv_cache.init(*sizes, c.dtype_on(platform), apart=platform == "cpu")

    def score(params, x_BTD):
        if not c.score_heads:
            raise errors.ConfigError(
                "model.score_heads: 0, so that the model has no scores; set it to 1, "
                "or to the number of attributes or of members of an ensemble"
            )
        return apply(params, x_BTD, method="scores")

    def by_layer(params):
        if sharding.platform() != "cpu" or "0" in params["layers"]:
            return params
        return {**params, "layers": _by_layer(params["layers"], c.layers)}

    def head(params):
        return params["embed"].T if c.tied else params["head"]

    def cap(products):
        logits, limit = products.astype(jnp.float32), c.logit_softcap
        return logits if limit is None else limit * jnp.tanh(logits / limit)

    def unembed(params, x_BTD):
        head_DV = head(params).astype(x_BTD.dtype)
        logits = cap(jnp.matmul(x_BTD, head_DV, preferred_element_type=jnp.float32))
        return sharding.constrain(logits, "batch", "seq", "vocab")

    extend = functools.partial(apply, method="extend")
    routing = functools.partial(read, method="routed") if c.experts else None
    read_in = (init, hidden, unembed, init_cache, extend, score, head, cap)
    norm = functools.partial(apply, method="last_norm")
    return types.Model(c, *read_in, routing, norm, by_layer)


def abstract(model: types.Model) -> types.Params:
    """Shapes and dtypes of a model's parameters; nothing is computed."""
    # The key too: under a mesh of devices that are not here nothing can be computed.
    return jax.eval_shape(lambda: nn.unbox(model.init(jax.random.key(0))))


def flops_per_token(
    model: types.Model, context: int, *, trainable: str = ".*", unembeds: bool = True
) -> float:
    """FLOPs of a training step a token: 6 trained + 4 frozen weights + attention.

    An embedding is looked up, which costs no FLOPs; the unembedding is a matrix like
    others, also where it is the same array. Frozen weights, such as the base under
    LoRA, pass gradients on and get none.

    Args:
      model: its shape gives the number of parameters.
      context: tokens of a row.
      trainable: pattern of the parameters that are trained.
      unembeds: whether logits are computed; a reward model needs scores alone.
    """
    c = model.config
    trained, frozen = trees.partition(trainable, abstract(model))

    def matrices(part):
        if not unembeds:
            part = {name: leaf for name, leaf in part.items() if name != "head"}
        looked_up = c.max_length if "position_embed" in part else 0
        if "embed" in part and not (c.tied and unembeds):
            looked_up += c.vocab_size
        return trees.count(part) - _idle(part, c) - looked_up * c.d_model

    flops = 6.0 * matrices(trained) + 4.0 * matrices(frozen)
    sizes = dict(heads=c.heads, head_dim=c.size_of_head, context=context)
    for has_window in set(c.layers_with_window):
        count, window = c.layers_with_window.count(has_window), c.window
        flops += throughput.attention_flops_per_token(
            layers=count, window=window if has_window else None, **sizes
        )
    return flops


def _idle(part, c: decoder_config.DecoderConfig) -> int:
    """The number of parameters of the experts that a token does not go through."""
    experts = part.get("layers", {}).get("moe", {})
    size = sum(trees.count(experts.get(x, {})) for x in ("gate", "up", "down"))
    return size // max(c.experts, 1) * (c.experts - c.experts_per_token)

# SPDX-License-Identifier: Apache-2.0
"""What a run begins with: the run that it starts from, and its first weights.

A Hugging Face folder is read as a run of one step. Fields of `model` that the config
leaves open are as in the parent run. The digest of the parent's parameters, not its
path, is part of a run's identity, so a run may move.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from alignjax import analysis, config, errors, models, trees
from alignjax.analysis import Run
from alignjax.data.chat import templates
from alignjax.data.tokenizers import base, special_tokens
from alignjax.models import decoder_config, quantized
from alignjax.training import optim, state
from alignjax.types import Frozen, Model, Params, TrainState

# What a model may have beyond the parent's: heads for scores and adapters.
NEW = r"score/.*|.*/lora_[abm]"
# Fields of a model that change how it computes or learns, and not what its parameters
# mean; and those of shapes, which are compared where parameters are read.
_IGNORED = (
    "d_model|layers|heads|kv_heads|head_dim|d_ff|expert_d_ff|max_length|"
    "context|score_heads|init_std|dtype|base|attention|remat|unroll|dropout|"
    "embedding_noise|lora_dropout|router_loss|router_z_loss"
)
# Fields of the shapes of parameters, which a run has from the one it starts from; and
# those of adapters, where that one has some.
_SHAPES = (
    "vocab_size|d_model|layers|heads|kv_heads|head_dim|d_ff|expert_d_ff|experts|tied|"
    "norm|norm_placement|positions|qk_norm|attention_bias|mlp_bias|activation"
)
_ADAPTERS = ("lora_rank", "lora_alpha", "lora_rslora", "lora_targets", "lora_dora")
INHERIT = "inherit"  # `data.chat`: that of the run it starts from


def find_run(section: Any, path: str, network: bool = False) -> Run | None:
    """The run that the section `init` or `reference` names, as of one step.

    None if it names none. It may be a Hugging Face folder, or `hf:` and a folder or a
    repository of the hub, which is fetched with `network` alone.

    Raises:
      ConfigError: there is no such run or step.
    """
    if section.run is None:
        return None
    try:
        return analysis.open_run(section.run, section.step, network=network).at()
    except (errors.CheckpointError, errors.ConfigError) as error:
        problems = getattr(error, "problems", [error])
        raise errors.ConfigError([f"{path}.run: {p}" for p in problems]) from error


def inherit_model(section: Mapping, parent: Run | None) -> dict:
    """The config's JSON, with what `model` leaves open as in the parent run.

    Raises:
      ConfigError: all fields of `model` and `tokenizer` that make parameters of another
        shape, or mean others by them, than those of the parent run, and the flags that
        clear them.
    """
    if parent is None:
        return dict(section)
    fields = {k: v for k, v in section["model"].items() if v is not None}
    before = parent.config["model"]
    problems = _other_model(fields, parent)
    problems |= _other_tokenizer(section.get("tokenizer") or {}, parent)
    if problems:
        flags = " ".join(f"--config.{name}=none" for name in problems)
        lines = [f"{name}: {text} in init.run" for name, text in problems.items()]
        remedy = f"a run has the model and tokenizer it starts from; clear {flags}"
        if any(name.startswith("model.lora_") for name in problems):
            remedy += ", or merge the adapters of init.run first (alignjax convert)"
        raise errors.ConfigError([*lines, remedy])
    model = {**before, **fields}
    c, longest = _context(before)
    length = fields.get("max_length", c.max_length)
    scaled = any(model.get(k) != before.get(k) for k in ("rope_scaling", "rope_theta"))
    shorter = isinstance(length, int) and length < longest
    # So that training on shorter texts takes nothing from the model.
    inherited = c.positions == "rope" and not scaled and shorter
    context = fields.get("context") or (longest if inherited else None)
    if context is not None or before.get("context") is not None:
        model["context"] = context
    return {**section, "model": model}


def _other_model(fields: Mapping[str, Any], parent: Run) -> dict[str, str]:
    """`{model.field: "its value, and another"}` of fields that are not the parent's."""
    before, (c, _) = parent.config["model"], _context(parent.config["model"])
    implied = {"kv_heads": c.heads, "head_dim": c.d_model // c.heads}
    implied |= {"expert_d_ff": c.d_ff}
    there = {"family": before["family"], "name": before.get("name")}
    for name in filter(functools.partial(re.fullmatch, _SHAPES), vars(c)):
        there[name] = implied.get(name) or getattr(c, name)
    if "vocab_size" in fields:
        there["vocab_size"] = parent.model.config.vocab_size
    if c.lora_rank:
        there |= {name: x for name, x in vars(c).items() if name in _ADAPTERS}
    return {
        f"model.{name}": f"{fields[name]!r} here, {value!r}"
        for name, value in there.items()
        if name in fields and fields[name] != value
    }


def _other_tokenizer(fields: Mapping[str, Any], parent: Run) -> dict[str, str]:
    """The same of the section `tokenizer`. A model at a path is compared by content."""
    fields = {k: v for k, v in config.to_json(fields).items() if v is not None}
    if not fields or (tok := _tokenizer(parent, "init.run")) is None:
        return {}
    if fields.get("path") is not None:
        own = config.build(base.TokenizerConfig, fields, "tokenizer")
        own = base.build(own, (), "")
        there = (
            fields
            if templates.encoding(own) == templates.encoding(tok)
            else {"kind": tok.kind}
        )
    else:
        recorded = parent.config.get("tokenizer") or {"vocab_size": tok.vocab_size}
        there = {**recorded, "kind": tok.kind}
    return {
        f"tokenizer.{name}": f"{value!r} here, {there.get(name)!r}"
        for name, value in fields.items()
        if value != there.get(name)
    }


def length_note(parent: Run, c: decoder_config.DecoderConfig) -> str | None:
    """A line for the log where texts are longer than the parent was made for."""
    before, longest = _context(parent.config["model"])
    same = before.rope_scaling == c.rope_scaling and before.rope_theta == c.rope_theta
    if not same or c.max_length <= longest:
        return None
    return (
        f"model.max_length: {c.max_length:,}, where the model was made for "
        f"{longest:,} tokens; it has to learn to read longer texts"
    )


def _context(section: Mapping[str, Any]) -> tuple[decoder_config.DecoderConfig, int]:
    """The model's config, and the longest text that the model was made for."""
    c = models.build({**section, "attention": "auto"}, 1).config
    return c, c.context or c.max_length


def inherit_data(section: Mapping, parent: Run | None) -> dict:
    """The config's JSON, with what `data` leaves to the parent run: `bos` and `chat`.

    The format of dialogues is the parent's; where it has learned none, that of its
    tokenizer, or "roles" if that has these tokens. Else data are plain text.

    Raises:
      ConfigError: there is no format, and the data are dialogues.
    """
    data = dict(section["data"])
    if data.get("bos") is None and parent is not None:
        data["bos"] = (parent.config.get("data") or {}).get("bos", True)
    if data.get("chat") != INHERIT:
        return {**section, "data": data}
    data["chat"] = "roles" if parent is None else parent.chats
    names = {}
    if data["chat"] is None and (tok := _tokenizer(parent, "init.run")) is not None:
        names = special_tokens.ids_by_name(tok)
        roles = "roles" if {*templates.CONTROL} <= names.keys() else None
        data["chat"] = templates.OWN if templates.has_own(tok) else roles
    if data["chat"] is None and data.get("train_on") != "everything":
        built_in = templates.BUILT_IN.items()
        formats = [name for name, x in built_in if {*x.tokens} <= names.keys()]
        raise errors.ConfigError(
            "data.chat: neither init.run nor its tokenizer has a format of dialogues; "
            f"name one of {', '.join(formats)}, or a .jinja file"
        )
    if data["chat"] is None:
        data["train_on"] = None
    return {**section, "data": data}


def _tokenizer(parent: Run, field: str) -> base.Tokenizer | None:
    """The tokenizer of a run, or None; a damaged one is an error of the `field`."""
    try:
        return parent.full_tokenizer
    except errors.DataError as error:
        raise errors.ConfigError(f"{field}: {error}") from error


def load_tokenizer(parent: Run, field: str = "init.run") -> base.Tokenizer:
    """The tokenizer of a run, with its start token.

    Raises:
      ConfigError: it has none, or a damaged one; names the `field` of the run.
    """
    if (tokenizer := _tokenizer(parent, field)) is None:
        raise errors.ConfigError(
            f"{field}: {parent.path} has no tokenizer; copy there the one that its "
            "model was trained with, or name one in the config's section tokenizer"
        )
    return tokenizer


def check_tokenizer(field: str, run: Run, tok: base.Tokenizer) -> None:
    """Raises ConfigError where the run that a field names reads other tokens.

    `tok` is the policy's tokenizer, whose tokens a reference and a critic read too.
    """
    other = templates.encoding(load_tokenizer(run, field))
    policy = templates.encoding(tok)
    if other != policy:
        raise errors.ConfigError(
            f"{field}: {run.path} has another tokenizer ({other[:12]}, the policy's is "
            f"{policy[:12]}), so the same ids are other tokens to it; name a run of "
            "the same tokenizer"
        )


def same_parameters(a: Run | None, b: Run | None) -> bool:
    """Whether two runs, opened at one step each, have equal parameters."""
    return None not in (a, b) and a.digest() == b.digest()


def architecture(parent: Run, model_config: Any) -> dict[str, Any]:
    """The fields that change what the parameters of a run compute, JSON-able.

    Those of adapters do where the run has some.
    """
    ignored = _IGNORED + ("" if parent.model.config.lora_rank else "|lora_.*")
    fields = dataclasses.asdict(model_config).items()
    return {name: x for name, x in fields if not re.fullmatch(ignored, name)}


def check_model(reference: Run, model_config: Any) -> None:
    """Raises ConfigError where a reference's parameters are of another model.

    The policy's model would compute something from them that is no model's.
    """
    policy = architecture(reference, model_config)
    other = architecture(reference, reference.model.config)
    problems = [
        f"reference.run: {reference.path} has model.{name} = {other[name]!r}, and "
        f"the policy {value!r}; a reference is computed by the policy's model, so name "
        "a run of the same"
        for name, value in policy.items()
        if other[name] != value
    ]
    if problems:
        raise errors.ConfigError(problems)


class Further(NamedTuple):
    """An entry of `TrainState.extra` that is no copy of the weights.

    Attributes:
      abstract: `()` to its ShapeDtypeStructs with shardings.
      begin: `()` to its arrays at step 0.
    """

    abstract: Callable[[], Any]
    begin: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """The weights that a run begins with: those it trains, and those it only reads.

    They are the parent's, but for parameters that the model has and the parent had not,
    such as adapters or heads for scores, which begin as any model's do. Kernels that
    are not trained are quantised as `model.base` says. None is read or computed before
    it is used.

    Attributes:
      model, optimizer, copies, trainable, seed: what the state of step 0 follows from.
      mesh, rules: where it is; see `sharding`.
      parent: the run that the policy starts from; None is random weights.
      reference: the run that the reference is of, where there is one.
      keep_reference: whether its parameters are kept on the devices.
      further: by name, what else `TrainState.extra` begins with.
    """

    model: Model
    optimizer: Any
    copies: Mapping[str, optim.MovingCopy]
    trainable: str
    seed: int
    mesh: jax.sharding.Mesh
    rules: Mapping
    parent: Run | None
    reference: Run | None
    keep_reference: bool
    further: Mapping[str, Further] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def abstract(self) -> TrainState:
        """The state as ShapeDtypeStructs with shardings.

        Raises:
          ConfigError: `trainable` matches nothing, or the mesh does not divide an axis.
        """
        where = (self.mesh, self.rules)
        parts = (self.model, self.optimizer, *where, self.trainable, self.copies)
        return self._with_further(state.abstract_state(*parts), "abstract")

    @functools.cached_property
    def params(self) -> Params:
        """All parameters, likewise."""
        return state.abstract_params(self.model, self.mesh, self.rules)

    @functools.cached_property
    def stored(self) -> Params:
        """`params` with the untrained kernels as they are quantised."""
        c = self.model.config
        kernels = quantized.names(c.projections, self.trainable)
        return state.quantised_kernels(self.params, kernels, c.base)

    @property
    def nbytes(self) -> int:
        """Of the state, a gradient and the untrained parameters, on each device."""
        untrained = self._partition(self.stored)[1]
        leaves = jax.tree.leaves((self.abstract, self.abstract.params, untrained))
        return sum(
            math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
            for x in leaves
        )

    def check(self) -> None:
        """Raises ConfigError, as `abstract`, for what only the devices can tell."""
        _ = self.abstract, self.stored

    def state(self) -> TrainState:
        """The state of step 0."""
        extra = {k: x for k, x in self.abstract.extra.items() if k not in self.further}
        abstract = self.abstract.replace(extra=extra)
        if self.parent is None:
            parts = (self.model, self.optimizer, abstract)
            begun = state.init_state(*parts, jax.random.key(self.seed), self.copies)
        else:
            trained, _ = self._partition(self._load(self.parent))
            begin = lambda params: state.begin(params, self.optimizer, self.copies)
            shardings = state.shardings(abstract)
            begin = jax.jit(begin, out_shardings=shardings, donate_argnums=0)
            begun = begin(trained)
        return self._with_further(begun, "begin")

    def _with_further(self, begun: TrainState, field: str) -> TrainState:
        further = {name: getattr(x, field)() for name, x in self.further.items()}
        return begun.replace(extra={**begun.extra, **further})

    def frozen(self) -> Frozen:
        """The untrained parameters, and those of the reference if they are kept.

        A reference that is the parent shares the untrained ones with the policy, so
        that under adapters there is no second copy of the model.
        """
        if not self._partition(self.stored)[1]:
            return Frozen({}, self.reference_params() if self.keep_reference else None)
        stored = self._load(self.parent)
        _, base = self._partition(stored)
        if not self.keep_reference:
            return Frozen(base)
        same = same_parameters(self.reference, self.parent)
        return Frozen(base, stored if same else self.reference_params())

    @property
    def abstract_frozen(self) -> Frozen:
        """`frozen()` as ShapeDtypeStructs with shardings."""
        base = self._partition(self.stored)[1]
        return Frozen(base, self.stored if self.keep_reference else None)

    def reference_params(self) -> Params:
        """All parameters of the reference, for the policy's model."""
        return self._load(self.reference)

    def describe(self) -> str:
        """What is trained and what is new, for the log; empty if all is as it was."""
        lines = []
        trained, whole = trees.count(self.abstract.params), trees.count(self.params)
        if trained != whole:
            lines.append(f"trained: {trained:,} of {whole:,} parameters")
        if (base := self.model.config.base) != "float32":
            size = lambda params: f"{quantized.nbytes(params) / 2**20:,.1f} MiB"
            lines.append(
                f"frozen kernels are kept as {base}: all parameters take "
                f"{size(self.stored)}, in float32 {size(self.params)}"
            )
        if self.parent is not None:
            before, names = self.parent.leaves(), trees.named_leaves(self.params)
            if new := ", ".join(name for name in names if name not in before):
                lines.append(f"new: {new}, which the run it starts from lacks")
        return "\n".join(lines)

    def _partition(self, params: Params) -> tuple[Params, Params]:
        """What is trained and the rest. By name: parts of kernels match no pattern."""
        trained = trees.named_leaves(self.abstract.params)
        return trees.partition("|".join(map(re.escape, trained)), params)

    def _load(self, parent: Run) -> Params:
        """The parameters of a run, sharded as those of this one."""
        key, leaves = jax.random.key(self.seed), parent.leaves()
        return state.load_params(leaves, self.stored, self.model, key, allow_new=NEW)[0]

# SPDX-License-Identifier: Apache-2.0
"""The train step of a config, compiled for devices that need not be here.

No data are read and no weights: shapes are all that a compiler looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from alignjax import config, errors
from alignjax.data.chat import comparisons
from alignjax.distributed import sharding
from alignjax.experiment import build, initial, running
from alignjax.experiment import critic as critics
from alignjax.models import decoder
from alignjax.rollouts import layout
from alignjax.types import Responses, Rollout, Sequences, Then

GROUPS = 8  # in a row, where the config has no bound; they cost next to nothing


class Planned(NamedTuple):
    """A step before it is compiled.

    Attributes:
      run: the experiment, without data.
      arguments: of the step, as ShapeDtypeStructs with shardings.
      tokens: positions of the model that a batch takes.
      flops: of a step by `decoder.flops_per_token`, on all devices together.
      notes: what was assumed, in lines.
    """

    run: build.Experiment
    arguments: tuple[Any, ...]
    tokens: int
    flops: float
    notes: list[str]


def plan(
    section: Mapping,
    devices,
    *,
    vocab: int | None = None,
    responses: int = 4,
    device_bytes: int | None = None,
    network: bool = False,
) -> Planned:
    """The step of a config on some devices.

    Args:
      section: the whole config.
      devices: of the mesh.
      vocab: tokens of the tokenizer, where the config does not tell.
      responses: of a group, where only the data tell.
      device_bytes: memory of a device, by which remat and unrolling are chosen where
        the config leaves them open; with None everything is kept, in a loop.
      network: whether runs may be fetched.

    Raises:
      ConfigError: all problems of the config, or a vocabulary that nothing tells.
    """
    section, notes = config.to_json(section), []
    absent = _absent(section, network, notes)
    run = build.check(section, network=network, absent=absent)
    if absent and run.config.rollouts is not None:
        notes += [
            f"rollouts.rewards.{name}: not looked for, as no step needs it"
            for name in build.unread(run.config.rollouts.rewards)
        ]
    run = build.place(run, _vocab_size(run, vocab), devices)
    with sharding.use(run.mesh, run.rules):
        batch = _batch(run, responses)
    if device_bytes is not None:
        run = build.fit(run, getattr(batch, "sequences", batch), device_bytes)
        notes.append(running.memory_note(run))
    key = jax.eval_shape(lambda: jax.random.key(0))
    everywhere = NamedSharding(run.mesh, PartitionSpec())
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere)
    weights = run.weights
    tokens = getattr(batch, "sequences", batch).inputs.size
    flops = tokens * decoder.flops_per_token(
        run.model,
        run.config.length,
        trainable=run.config.trainable,
        unembeds=not run.objective.needs.scores,
    )
    arguments = (weights.abstract, weights.abstract_frozen, batch, key)
    return Planned(run, arguments, tokens, flops, notes)


def compile(planned: Planned, options: Mapping[str, Any]):
    """The compiled step, as `jax.stages.Compiled`.

    Raises:
      ConfigError: compilers of TPUs refuse what does not fit.
    """
    run = planned.run
    with sharding.use(run.mesh, run.rules):
        lowered = running.train_step(run).lower(*planned.arguments)
        try:
            return lowered.compile(compiler_options=dict(options) or None)
        except RuntimeError as error:
            text = " ".join(str(error).split())
            if not text.startswith("RESOURCE_EXHAUSTED"):
                raise
            raise errors.ConfigError(
                f"batch_size: {text:.300}; raise microbatches, choose model.remat, or "
                "lower batch_size or length"
            ) from error


def text(compiled) -> str | None:
    """The program of a compiled step, scheduled; None where its compiler shows none."""
    try:
        return compiled.as_text()
    except RuntimeError:  # v5p and v6e by libtpu 0.0.51, an internal error
        return None


def _absent(section: Mapping, network: bool, notes: list[str]) -> bool:
    """Whether the run that it starts from is not here, and its model is described."""
    init = (section.get("init") or {}).get("run")
    if init is None:
        return False
    where = build.sections.InitConfig(init, (section.get("init") or {}).get("step"))
    try:
        initial.find_run(where, "init", network)
    except errors.ConfigError as error:
        if not (section.get("model") or {}).get("family"):
            remedy = "to plan without that run, describe its model by "
            remedy += "--config.model.family and --config.model.name"
            problems = [*error.problems, f"model.family: {remedy}"]
            raise errors.ConfigError(problems) from error
        notes.append(f"init.run: {init} is not here; planned by the section model")
        return True
    return False


def _vocab_size(run: build.Experiment, vocab: int | None) -> int:
    """The tokens of the tokenizer, or the rows of the embedding, which count."""
    if vocab is not None:
        return vocab
    if run.parent is not None:
        return run.parent.model.config.vocab_size
    c = run.config
    if (size := build.models.build(c.model, 1).config.vocab_size) > 1:
        return size
    kind = None if c.tokenizer is None else c.tokenizer.kind
    if kind == "bytes":
        return 258 + len(c.tokenizer.control_tokens)
    if kind == "sentencepiece" and c.tokenizer.path is None:
        return c.tokenizer.vocab_size
    raise errors.ConfigError(
        "model.vocab_size: neither the model nor the tokenizer tells it; give --vocab"
    )


def _batch(run: build.Experiment, responses: int) -> Sequences | Responses:
    """The batch of a step, as ShapeDtypeStructs with shardings."""
    c, needs = run.config, run.objective.needs
    rows, T = c.batch_size, c.length
    where = sharding.batch_sharding(run.mesh, run.rules)
    array = lambda dtype, *shape: jax.ShapeDtypeStruct(
        (rows, *shape), dtype, sharding=where
    )
    i32, f32 = jnp.int32, jnp.float32

    shared = c.data.share_prompt
    alone = not shared and c.data.pack != "best_fit"  # a row for each document

    def sequences(*shape):
        names = ["inputs", "targets", "segment_ids", "positions"]
        names += ["branches"] * shared
        own = {name: array(i32, *shape) for name in names}
        return Sequences(weights=array(f32, *shape), **own, one_document=alone)

    if c.rollouts is not None:
        return _drawn(run, array)
    if needs.data == "text":
        return sequences(T)
    K = {"pairs": 2, "labels": 1}.get(needs.data, responses) + needs.mismatched
    R, P = (K, 1) if alone else (1, c.data.groups_per_row or GROUPS)
    shapes = dict.fromkeys(comparisons.OF_GROUP, (P,))
    shapes |= dict.fromkeys(comparisons.OF_RESPONSES, (P, K))
    attributes = run.model.config.score_heads or 1
    shapes |= dict.fromkeys(comparisons.FREE, (P, attributes))
    return Responses(
        sequences(R, T),
        responses=array(i32, R, T),
        lengths=array(i32, P, K),
        weights=array(f32, P),
        index=array(i32, P),
        values={name: array(f32, *shapes[name]) for name in needs.values},
        reference=array(f32, R, T) if c.reference.store and needs.reference else None,
    )


def _drawn(run: build.Experiment, array: Callable) -> Rollout | Responses:
    """The batch of an update whose responses the policy drew, each as long as any.

    Args:
      array: `(dtype, *shape)` to a ShapeDtypeStruct with a leading batch.
    """
    c, s = run.config, run.config.rollouts
    pairs, room, f32 = run.objective.needs.data == "pairs", s.max_tokens, jnp.float32
    K, prompt_room = 2 if pairs else s.samples, c.length - s.max_tokens
    one = layout.responses(
        [[0] * prompt_room],
        [[[0] * room] * K],
        prompt_room=prompt_room,
        room=room,
        shared=c.data.share_prompt,
    )
    responses = jax.tree.map(lambda x: array(x.dtype, *x.shape[1:]), one)
    if pairs:
        return responses
    figure = array(f32, K, room)
    names = ["advantage", "old", "behaviour", "reference"]
    names += ["value", "returns"] * (run.critic is not None)
    then = Then(action=array(jnp.bool_, K, room), **dict.fromkeys(names, figure))
    figures = ["kl", *(f"running/{name}" for name in s.running)]
    figures += ["value_scale"] * critics.on_trunk(c)
    figures = {name: array(f32) for name in figures}
    batch = Rollout(responses, then, figure, array(f32, K), figures)
    if c.ptx is None:
        return batch
    of_text = lambda dtype: jax.ShapeDtypeStruct(
        (c.ptx.batch_size, c.length), dtype, sharding=array(f32).sharding
    )
    names = ["inputs", "targets", "segment_ids", "positions"]
    text = Sequences(weights=of_text(f32), **dict.fromkeys(names, of_text(jnp.int32)))
    return batch.replace(pretraining=text)

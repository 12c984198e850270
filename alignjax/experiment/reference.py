# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of the reference on disk: computed once, used by every other run.

A store has one float32 for each token of a token cache. Its name is a digest of the
tokens, of what each prompt is cut to, and of the reference: its parameters and the
fields of the model that change what it computes. One changed weight is a miss; another
loss, option, seed or layout of rows over the same data is a hit.

With a store or without, the reference is computed by the policy's model.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from alignjax import errors, trees, types
from alignjax.data import dataset
from alignjax.data.packing import groups
from alignjax.distributed import sharding
from alignjax.experiment import initial
from alignjax.models import quantized
from alignjax.objectives import logprobs
from alignjax.storage import atomic, json_files
from alignjax.types import Frozen, Model, Objective, Params, Responses

FORMAT = 2
FILE = "logps.bin"


class Store(NamedTuple):
    """Where the log-probabilities of one reference are, and how they are computed.

    Attributes:
      folder: one subfolder for each store.
      reference: the run whose parameters compute them.
      model: of the policy; it computes them.
      trainable: the pattern of trained parameters: the other kernels are quantised.
      batch_size: rows that are computed at a time.
      mesh, rules: of the computation.
    """

    folder: pathlib.Path
    reference: initial.RunAtStep
    model: Model
    trainable: str
    batch_size: int
    mesh: jax.sharding.Mesh
    rules: Mapping


def attach(
    store: Store,
    splits: Mapping[str, dataset.Dataset | None],
    params: Callable[[], Params],
    say: Callable[[str], None],
    beat: Callable[[str], None],
) -> dict[str, dataset.Dataset | None]:
    """`splits` with the reference's log-probabilities, computed now where missing.

    Args:
      splits: data by the names of their splits; None stays None.
      params: reads the parameters of the reference; called once, if at all.
      say: given the lines for the log.
      beat: called with the name of each batch, for the watchdog.

    Raises:
      ConfigError: there are several processes.
    """
    if jax.process_count() > 1:
        raise errors.ConfigError(
            "reference.store: is filled and read by one process; set it to False"
        )
    params = functools.cache(params)

    def with_reference(data: dataset.Dataset, split: str) -> dataset.Dataset:
        if data.layout.mismatched:
            raise errors.ConfigError(
                "reference.store: has no mismatched responses, which change from batch "
                "to batch; set it to False"
            )
        parts = []
        for part in data.parts:
            alone = dataclasses.replace(data, parts=(part,), empty=())
            name = f"reference of {split}/{part.name}"
            path = _directory(store, part)
            compute = functools.partial(_compute, store, alone, params, name, say, beat)
            hit = atomic.read(path) is not None
            manifest = atomic.obtain(path, compute)
            if hit:
                say(f"{name}: {manifest['responses']:,} tokens found in the store")
            logps = np.memmap(
                path / FILE, np.float32, "r", shape=part.tokens.tokens.shape
            )
            tokens = part.tokens._replace(reference=logps)
            parts.append(part._replace(plan=part.plan._replace(tokens=tokens)))
        return dataclasses.replace(data, parts=tuple(parts))

    return {
        split: None if data is None else with_reference(data, split)
        for split, data in splits.items()
    }


def first_loss(
    objective: Objective,
    weights: initial.InitialWeights,
    params: Params,
    base: Params,
    batch,
    say: Callable[[str], None],
) -> float | None:
    """The loss that step 0 must have: that of the policy compared with itself.

    None where the policy does not start as its reference, or where something in it is
    random: then `say` gets the reason, since a model's section may come from the run in
    `init`.

    Args:
      params, base: the trained parameters of step 0 and the others.
      batch: of step 0.
    """
    parent, other = weights.parent, weights.reference
    if parent is None or other is None or parent.digest != other.digest:
        return None
    names = ("dropout", "embedding_noise", "lora_dropout")
    c = weights.model.config
    random = [f"model.{name} = {x}" for name in names if (x := getattr(c, name))]
    if random:
        say(
            f"the loss of step 0 is not checked, since {', '.join(random)} makes it "
            "random; what the config leaves open is as in the run of init.run: set it "
            "to 0 to have the check"
        )
        return None

    @jax.jit
    def loss(params, base, batch):
        itself = Frozen(base, reference=trees.merge(params, base))
        if isinstance(batch, Responses):  # then it may have stored log-probs
            batch = batch.replace(reference=None)
        return objective.loss(params, itself, batch, None, True)[0]

    return float(loss(params, base, batch).value())


def check_first_step(expected: float, loss: float) -> None:
    """Raises ConfigError unless the loss of step 0 is that of `first_loss`."""
    if not math.isclose(loss, expected, rel_tol=1e-3, abs_tol=1e-4):
        raise errors.ConfigError(
            f"the loss of step 0 is {loss:.6f}, where a policy that is its reference "
            f"has {expected:.6f}: the two do not agree on the same tokens. Check that "
            "reference.run has the model, dtype and tokenizer of init.run; with "
            "reference.store, remove the folder `reference` of cache_dir"
        )


def _directory(store: Store, part: dataset.Part) -> pathlib.Path:
    """Where the log-probabilities of a part are, or will be."""
    c, reference = store.model.config, store.reference
    fields = initial.architecture(reference, c) | {"dtype": c.dtype}
    key = [FORMAT, part.tokens.key, _prompts_hash(part.plan), reference.digest, fields]
    if c.base != "float32":  # then the reference has the same quantised kernels
        key.append([c.base, quantized.names(c.projections, store.trainable)])
    return store.folder / json_files.digest(key)[:32]


def _prompts_hash(plan: groups.Plan) -> str:
    """A digest of which groups are read and what is cut from their prompts."""
    order = np.argsort(plan.documents, kind="stable")
    digest = hashlib.sha256(np.asarray(plan.documents, np.int64)[order].tobytes())
    digest.update(np.asarray(plan.cuts, np.int64)[order].tobytes())
    if (plan.headers >= 0).any():
        digest.update(np.asarray(plan.headers, np.int64)[order].tobytes())
    digest.update(str(plan.layout.head).encode())
    return digest.hexdigest()


def _compute(
    store: Store,
    data: dataset.Dataset,
    params: Callable[[], Params],
    name: str,
    say: Callable[[str], None],
    beat: Callable[[str], None],
    directory: pathlib.Path,
) -> dict[str, int]:
    """Writes the log-probability of every token of a response; NaN elsewhere."""
    (part,) = data.parts
    size, rows = store.batch_size, data.num_rows
    logps = np.memmap(
        directory / FILE, np.float32, "w+", shape=part.tokens.tokens.shape
    )
    logps[:] = np.nan
    token_logps = lambda params, rows: logprobs.tokens(store.model, params, rows).logp
    compute = jax.jit(token_logps)
    count = -(-rows // size)
    say(f"{name}: computing {rows:,} rows in {count:,} batches")
    responses, every = 0, max(1, count // 10)
    for i in range(count):
        beat(f"{name} batch {i} of {count}")
        indices = np.arange(i * size, (i + 1) * size)
        batch = types.batch(data.epoch_rows(indices)).sequences
        flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch)
        flat = sharding.put_batch(flat, len(flat.inputs), store.mesh, store.rules)
        row_logps = np.asarray(compute(params(), flat))
        indices = np.where(indices < rows, indices, -1)
        places = part.plan.target_index(indices).reshape(row_logps.shape)
        logps[places[places >= 0]] = row_logps[places >= 0]
        responses += int((places >= 0).sum())
        if (i + 1) % every == 0:
            say(f"{name}: {i + 1:,} of {count:,} batches")
    logps.flush()
    return {"rows": rows, "responses": responses}

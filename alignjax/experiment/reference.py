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
from alignjax.types import Frozen, Objective, Params, Responses

FORMAT = 2
FILE = "logps.bin"


class LogProbStore(NamedTuple):
    """Where the log-probabilities of one reference are, and how they are computed.

    Attributes:
      folder: one subfolder for each part of the data and reference.
      weights: whose `reference` computes them, by the policy's model.
      batch_size: rows that are computed at a time.
    """

    folder: pathlib.Path
    weights: initial.InitialWeights
    batch_size: int


def attach(
    store: LogProbStore,
    splits: Mapping[str, dataset.Dataset | None],
    say: Callable[[str], None],
    beat: Callable[[str], None] = lambda text: None,
) -> dict[str, dataset.Dataset | None]:
    """`splits` with the reference's log-probabilities, computed now where missing.

    Args:
      splits: data by the names of their splits; None stays None.
      say: given the lines for the log.
      beat: called with the name of each batch, for the watchdog.

    Raises:
      ConfigError: there are several processes.
    """
    if jax.process_count() > 1:
        raise errors.ConfigError(
            "reference.store: is filled and read by one process; set it to False"
        )
    params = functools.cache(store.weights.reference_params)

    def with_reference(data: dataset.Dataset, split: str) -> dataset.Dataset:
        if data.layout.mismatched:
            raise errors.ConfigError(
                "reference.store: has no log-probabilities of mismatched responses; "
                "set it to False"
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
            shape = part.tokens.tokens.shape
            logps = np.memmap(path / FILE, np.float32, "r", shape=shape)
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
    random, which `say` is told.

    Args:
      params, base: the trained parameters of step 0 and the others.
      batch: of step 0.
    """
    if not initial.same_parameters(weights.parent, weights.reference):
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


def _directory(store: LogProbStore, part: dataset.Part) -> pathlib.Path:
    """Where the log-probabilities of a part are, or will be."""
    c, reference = store.weights.model.config, store.weights.reference
    dtype = c.dtype_on(sharding.platform())
    fields = initial.architecture(reference, c) | {"dtype": dtype}
    prompts = _prompts_hash(part.plan)
    key = [FORMAT, part.tokens.key, prompts, reference.digest(), fields]
    if c.base != "float32":  # then the reference has the same quantised kernels
        key.append([c.base, quantized.names(c.projections, store.weights.trainable)])
    return store.folder / json_files.digest(key)[:32]


def _prompts_hash(plan: groups.Plan) -> str:
    """A digest of which groups are read and what is cut from their prompts."""
    order = np.argsort(plan.documents, kind="stable")
    arrays = [plan.documents, plan.cuts]
    if (plan.headers >= 0).any():
        arrays.append(plan.headers)
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.asarray(array, np.int64)[order].tobytes())
    digest.update(str(plan.layout.head).encode())
    return digest.hexdigest()


def _compute(
    store: LogProbStore,
    data: dataset.Dataset,
    params: Callable[[], Params],
    name: str,
    say: Callable[[str], None],
    beat: Callable[[str], None],
    directory: pathlib.Path,
) -> dict[str, int]:
    """Writes the log-probability of every token of a response; NaN elsewhere."""
    (part,) = data.parts
    size, rows, weights = store.batch_size, data.num_rows, store.weights
    shape = part.tokens.tokens.shape
    logps = np.memmap(directory / FILE, np.float32, "w+", shape=shape)
    logps[:] = np.nan
    compute = jax.jit(lambda p, rows: logprobs.tokens(weights.model, p, rows).logp)
    count = -(-rows // size)
    say(f"{name}: computing {rows:,} rows in {count:,} batches")
    responses, every = 0, max(1, count // 10)
    for i in range(count):
        beat(f"{name} batch {i} of {count}")
        indices = np.arange(i * size, (i + 1) * size)
        batch = types.batch(data.epoch_rows(indices)).sequences
        flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch)
        flat = sharding.put_batch(flat, len(flat.inputs), weights.mesh, weights.rules)
        row_logps = np.asarray(compute(params(), flat))
        indices = np.where(indices < rows, indices, -1)
        places = part.plan.target_index(indices).reshape(row_logps.shape)
        logps[places[places >= 0]] = row_logps[places >= 0]
        responses += int((places >= 0).sum())
        if (i + 1) % every == 0:
            say(f"{name}: {i + 1:,} of {count:,} batches")
    logps.flush()
    return {"rows": rows, "responses": responses}

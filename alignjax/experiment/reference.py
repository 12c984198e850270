# SPDX-License-Identifier: Apache-2.0
"""The reference's log-probabilities, on disk: computed once, found by every other run.

A store has one float32 for each token of a token cache. Its name is a digest of the
tokens, of what of each prompt a model is shown, and of the reference: its parameters
and the fields of the model that change what it computes. One changed weight is a miss;
another loss, option, seed or layout of rows over the same data is a hit.

With a store or without, the reference is computed by the policy's model.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from alignjax import errors, trees, types
from alignjax.data import dataset
from alignjax.data.packing import groups
from alignjax.distributed import sharding
from alignjax.experiment import build, initial, parameters
from alignjax.models import quantized
from alignjax.objectives import logprobs
from alignjax.storage import atomic, json_files
from alignjax.types import Frozen, Mean, Params, Responses

FORMAT = 2
FILE = "logps.bin"


def attach(
    run: build.Experiment, say: Callable[[str], None], beat: Callable[[str], None]
) -> build.Experiment:
    """`run`, whose data have the reference's log-probabilities if it wants a store.

    What is not in the store is computed now.

    Args:
      say: told of what is found and of what is computed.
      beat: called at every batch, that a watchdog may see progress.

    Raises:
      ConfigError: several processes, or a reference that cannot be stored.
    """
    if run.reference is None or not run.config.reference.store:
        return run

    @functools.cache  # read only if something is to be computed, and once
    def weights() -> Params:
        return parameters.prepare(run).reference()

    def with_reference(data: dataset.Dataset, split: str) -> dataset.Dataset:
        parts = []
        for part in data.parts:
            alone = dataclasses.replace(data, parts=(part,), empty=())
            name = f"reference of {split}/{part.name}"
            path = _directory(run, part)
            fill = functools.partial(_compute, run, alone, weights, name, say, beat)
            there = atomic.read(path) is not None
            manifest = atomic.obtain(path, fill)
            if there:
                say(f"{name}: {manifest['responses']:,} tokens found in the store")
            logps = np.memmap(
                path / FILE, np.float32, "r", shape=part.tokens.tokens.shape
            )
            tokens = part.tokens._replace(reference=logps)
            parts.append(part._replace(plan=part.plan._replace(tokens=tokens)))
        return dataclasses.replace(data, parts=tuple(parts))

    if jax.process_count() > 1:
        raise errors.ConfigError(
            "reference.store: is filled and read by one process; set it to False"
        )
    validation = run.validation
    if validation is not None:
        validation = with_reference(validation, "validation")
    return run._replace(train=with_reference(run.train, "train"), validation=validation)


def first_loss(
    run: build.Experiment, params: Params, frozen: Frozen, batch, say
) -> Mean | None:
    """The loss that step 0 must have: that of the policy compared with itself.

    None where the policy does not start as its reference, or where something in it is
    random; `say` is told what, since a model's section may come from the run in `init`.
    """
    if run.reference is None or run.start is None:
        return None
    if run.reference.digest != run.start.digest:
        return None
    names = ("dropout", "embedding_noise", "lora_dropout")
    shape = run.model.config
    random = [f"model.{name} = {x}" for name in names if (x := getattr(shape, name))]
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
        return run.objective.loss(params, itself, batch, None, True)[0]

    return loss(params, frozen.base, batch)


def check_first_step(expected: float, loss: float) -> None:
    """Raises ConfigError unless the loss of step 0 is that of `first_loss`."""
    if not math.isclose(loss, expected, rel_tol=1e-3, abs_tol=1e-4):
        raise errors.ConfigError(
            f"the loss of step 0 is {loss:.6f}, where a policy that is its reference "
            f"has {expected:.6f}: the two do not agree on the same tokens. Check that "
            "reference.run has the model, dtype and tokenizer of init.run; with "
            "reference.store, remove the folder `reference` of cache_dir"
        )


def _directory(run: build.Experiment, part: dataset.Part) -> pathlib.Path:
    """Where the store of a part is, or will be."""
    c, shown = run.model.config, _shown(part.plan)
    fields = initial.computing(run.reference, c) | {"dtype": c.dtype}
    asked = [FORMAT, part.tokens.key, shown, run.reference.digest, fields]
    if c.base != "float32":  # then the reference has the same kernels in fewer bits
        asked.append([c.base, quantized.names(c.projections, run.config.trainable)])
    key = json_files.digest(asked)
    folder = pathlib.Path(run.config.cache_dir).expanduser() / "reference"
    return folder / key[:32]


def _shown(plan: groups.Plan) -> str:
    """A digest of which groups are read and what is cut from their prompts."""
    order = np.argsort(plan.documents, kind="stable")
    digest = hashlib.sha256(np.asarray(plan.documents, np.int64)[order].tobytes())
    digest.update(np.asarray(plan.cuts, np.int64)[order].tobytes())
    digest.update(str(plan.layout.head).encode())
    return digest.hexdigest()


def _compute(
    run: build.Experiment,
    data: dataset.Dataset,
    weights: Callable[[], Params],
    name: str,
    say: Callable[[str], None],
    beat: Callable[[str], None],
    directory: pathlib.Path,
) -> dict[str, int]:
    """Writes the log-probability of every token of a response; NaN elsewhere."""
    (part,) = data.parts
    size, rows = run.config.batch_size, data.num_rows
    logps = np.memmap(
        directory / FILE, np.float32, "w+", shape=part.tokens.tokens.shape
    )
    logps[:] = np.nan
    ask = jax.jit(lambda params, rows: logprobs.tokens(run.model, params, rows).logp)
    count = -(-rows // size)
    say(f"{name}: computing {rows:,} rows in {count:,} batches")
    responses, every = 0, max(1, count // 10)
    for i in range(count):
        beat(f"{name} batch {i} of {count}")
        indices = np.arange(i * size, (i + 1) * size)
        batch = types.batch(data.epoch_rows(indices)).sequences
        flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch)
        flat = sharding.put_batch(flat, len(flat.inputs), run.mesh, run.rules)
        found = np.asarray(ask(weights(), flat))
        where = np.where(indices < rows, indices, -1)
        token = part.plan.target_index(where).reshape(found.shape)
        logps[token[token >= 0]] = found[token >= 0]
        responses += int((token >= 0).sum())
        if (i + 1) % every == 0:
            say(f"{name}: {i + 1:,} of {count:,} batches")
    logps.flush()
    return {"rows": rows, "responses": responses}

# SPDX-License-Identifier: Apache-2.0
"""What the loop and the log are given of an experiment: steps, rates, hooks, words."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from alignjax import trees
from alignjax.data import dataset
from alignjax.data.chat import format
from alignjax.distributed import sharding
from alignjax.experiment import initial, rollouts
from alignjax.experiment.build import Experiment
from alignjax.models import attention, decoder
from alignjax.objectives import chunks
from alignjax.tracking import throughput, writer
from alignjax.training import hooks, loop, optim, step
from alignjax.training import state as training_state
from alignjax.types import Frozen, Params, TrainState

# What the groups of each kind of data are called, in metrics and in the log.
GROUPS = {
    "pairs": "pairs",
    "rankings": "lists",
    "labels": "responses",
    "ratings": "responses",
}
COUNTED = 64  # steps whose groups are counted at once
PROFILED = range(10, 15)  # steps after the start; by then nothing compiles any more


def train_step(run: Experiment) -> Callable:
    """The jitted step, whose metrics have the learning rate too."""
    function = step.make_train_step(
        run.objective,
        run.optimizer,
        microbatches=run.config.microbatches,
        copies=run.copies,
    )
    if run.config.rollouts is not None:
        function = rollouts.train_step(function, run.critic, run.config)
    return jax.jit(
        optim.with_rate(function, run.schedule),
        donate_argnums=0,
        out_shardings=(training_state.shardings(run.weights.abstract), None),
    )


def meter(run: Experiment) -> throughput.Meter:
    """Measures rates and, of a device whose peak is known, the utilisation."""
    flops = decoder.flops_per_token(
        run.model,
        run.config.length,
        trainable=run.config.trainable,
        unembeds=not run.objective.needs.scores,
    )
    kind, devices = jax.devices()[0].device_kind, jax.device_count()
    return throughput.Meter(flops_per_token=flops, device_kind=kind, devices=devices)


def evaluations(
    run: Experiment,
    validation: dataset.Dataset | None,
    frozen: Frozen,
    state: TrainState,
    beat: Callable[[str], None],
) -> list[loop.Hook]:
    """The hooks whose figures are reported with a step; none without `validation`.

    Raises:
      ConfigError: no evaluation has the figure that `keep_best` names.
    """
    if validation is None:
        return []
    c = run.config
    evaluation = hooks.Evaluation(
        jax.jit(step.make_eval_step(run.objective)),
        frozen,
        validation,
        batch_size=c.batch_size,
        max_batches=c.evaluation.batches,
        mesh=run.mesh,
        rules=run.rules,
        beat=beat,
    )
    if c.checkpoint.keep_best:
        evaluation.check_name(c.checkpoint.keep_best[0], state)
    return [loop.Hook(evaluation, c.evaluation.every, at_end=True)]


def samples(
    run: Experiment, base: Params, log: writer.Writer, beat: Callable[[str], None]
) -> list[loop.Hook]:
    """The hooks that write text of the model, where the config asks for some."""
    c = run.config.sample
    if c.every is None:
        return []
    options = dict(max_tokens=c.max_tokens, temperature=c.temperature, top_p=c.top_p)
    call = hooks.Samples(
        run.model,
        base,
        run.tokenizer,
        run.prompts,
        shown=[text + ("\n" if run.config.data.chat else "") for text in c.prompts],
        write=log.text,
        beat=beat,
        options={"stop_ids": run.stop, **options},
    )
    return [loop.Hook(call, c.every)]


@contextlib.contextmanager
def profiler(directory: pathlib.Path, start: int, wanted: bool) -> Iterator[Callable]:
    """Yields a function of the step that starts and stops a trace at the right ones."""
    running = False

    def at(i: int) -> None:
        nonlocal running
        if wanted and i - start == PROFILED.start:
            jax.profiler.start_trace(str(directory))
            running = True
        elif running and i - start == PROFILED.stop:
            jax.profiler.stop_trace()
            running = False

    yield at
    if running:
        jax.profiler.stop_trace()


def tokens_per_step(run: Experiment) -> int:
    """Positions of the model that a batch takes."""
    return run.config.batch_size * run.train.rows([0])["inputs"].size


def seen(
    run: Experiment, start: int, last: Mapping[str, float]
) -> Callable[[int], dict[str, int]]:
    """`(i) -> {"pairs": count}`, those of all steps up to `i`; see `GROUPS`.

    To be called with each step in order, from `start` on; empty where data are text.
    It goes on from the metrics of the step before, `last`, whose batches may have been
    of another size.
    """
    size, data = run.config.batch_size, run.train
    name = GROUPS.get(run.objective.needs.data)
    if name is None:
        return lambda i: {}
    count = int(last.get(name, data.count_groups(0, start * size)))

    @functools.lru_cache(maxsize=1)
    def counts(block: int) -> np.ndarray:
        """Those of the steps of a block, since one by one they would take longer."""
        rows = np.arange(block * COUNTED * size, (block + 1) * COUNTED * size)
        return data.groups_of(rows).reshape(COUNTED, size).sum(1)

    def after(i: int) -> dict[str, int]:
        nonlocal count
        count += int(counts(i // COUNTED)[i % COUNTED])
        return {name: count}

    return after


def rate_note(
    run: Experiment, state: TrainState, last: Mapping[str, float]
) -> str | None:
    """A line for the log where the learning rate jumps, such as for more `steps`.

    Args:
      state: that the run goes on from.
      last: the metrics of the step before.
    """
    if "learning_rate" not in last:
        return None
    updates, before = int(optim.updates(state)), last["learning_rate"]
    now, same = float(run.schedule(updates)), (updates - 1, updates)
    if any(math.isclose(before, float(run.schedule(n)), rel_tol=1e-4) for n in same):
        return None
    return (
        f"the learning rate jumps from {before:.3g} at step {last['step']} to "
        f"{now:.3g}, since steps, schedule or rate of the config are others now; for a "
        "fresh warm-up start a new run with init.run"
    )


def _attention_note(run: Experiment) -> str:
    """The backend of attention, and how a kernel keeps documents apart."""
    c, branches = run.model.config, run.config.data.share_prompt
    platform = run.mesh.devices.flat[0].platform
    backend = attention.resolve(c.attention, c.attention_case(platform, branches))
    chosen = f", which auto chooses on {platform}" if c.attention == "auto" else ""
    if backend == "xla":
        by = ""
    elif _one_document(run):
        by = ", without a mask since each row is one document"
    else:
        by = f", masked by the {'branches' if branches else 'documents'} of rows"
    return f"attention: {backend}{chosen}{by}"


def _one_document(run: Experiment) -> bool:
    if run.rollouts is not None:
        return not run.rollouts.shared
    return run.train.one_document


def _dtype_note(run: Experiment) -> str:
    """The dtype that `auto` chooses."""
    c, platform = run.model.config, run.mesh.devices.flat[0].platform
    if c.dtype != "auto":
        return ""
    return f"computes in {c.dtype_on(platform)}, which auto chooses on {platform}"


def memory_note(run: Experiment) -> str:
    """How layers and head compute, and what that takes of a device."""
    choice, head, gib = run.choice, run.config.objective, 2**30
    c = choice.config
    unrolled = "unrolled" if c.unroll == c.layers else f"{c.unroll} in a loop's turn"
    parts = [f"{c.layers} layers, {unrolled}", f"remat {c.remat}"]
    if not run.objective.needs.scores:
        with sharding.use(run.mesh, run.rules):
            size = chunks.size(head.get("chunk") or "auto", c.vocab_size)
        parts.append(f"logits of {size:,} tokens at a time")
    kept, free = choice.nbytes / gib, choice.free / gib
    parts.append(f"layers keep up to {kept:,.1f} of {free:,.1f} GiB")
    return "memory: " + "; ".join(parts)


def _data_notes(run: Experiment) -> list[str]:
    """What is read, and how often."""
    c = run.config
    passes = c.steps * c.batch_size / run.train.num_rows
    train = run.train.report.splitlines()
    groups = ""
    if kind := GROUPS.get(run.objective.needs.data):
        share, plans = run.train.mixture.share, [p.plan for p in run.train.parts]
        mean = [len(plan.documents) / plan.num_rows for plan in plans] @ share
        mean /= share.sum()
        groups = f", some {c.steps * c.batch_size * mean:,.0f} {kind}"
    lines = [
        (
            f"data: {run.train.num_rows:,} rows a pass; {c.steps:,} steps of "
            f"{tokens_per_step(run):,} tokens are {passes:.2f} passes{groups}"
        ),
        *(f"  {line}" for line in train),
    ]
    if run.validation is not None:
        held_out = run.validation.report.splitlines()
        if not c.data.validation_sources:  # what is of both is not listed twice
            held_out = [line for line in held_out if line not in train]
        lines += [f"  held out: {line}" for line in held_out]
    return lines


def _rollout_notes(run: Experiment) -> list[str]:
    """What is drawn, how often, and what it is rewarded for."""
    c, s = run.config, run.config.rollouts
    count = c.steps // s.updates
    lines = [
        (
            f"rollouts: {count:,} of {run.rollouts.size} prompts x {s.samples} "
            f"responses of at most {s.max_tokens} tokens, {s.updates} "
            f"update{'s' * (s.updates > 1)} each; "
            f"{count * run.rollouts.size * s.samples:,} responses in all"
        ),
        *(f"  {line}" for line in run.rollouts.prompts.report.splitlines()),
        "  rewards: "
        + ", ".join(f"{r.weight:g} x {r.name}" for r in run.rollouts.rewards),
        *(
            f"    {r.name}: {json.dumps(r.provenance)}"
            for r in run.rollouts.rewards
            if r.provenance
        ),
        f"  {_lesson(run)}",
    ]
    loss = c.objective.get("loss") or ""
    if ":" in loss and s.updates == 1 and not run.rollouts.pairs:
        lines.append(
            f"  {loss}: with one update a rollout its ratio is 1, where the losses of "
            "policies have one gradient; see rollouts.epochs and minibatches"
        )
    if s.filters:
        lines.append(
            f"  prompts whose responses are equal in {s.outcome or 'the reward'} weigh "
            f"nothing; as many again are drawn up to {s.redraws} times"
        )
    if run.pretraining is not None:
        lines.append(
            f"  beside it {c.ptx.coefficient:g} x the loss of {c.ptx.batch_size} rows "
            "of text an update"
        )
        lines += [f"    {line}" for line in run.pretraining.report.splitlines()]
    if run.evaluations is not None:
        held_out = run.evaluations.prompts.report.splitlines()
        lines += [f"  held out: {line}" for line in held_out]
    return lines


def _lesson(run: Experiment) -> str:
    """What is learned from the rewards."""
    s = run.config.rollouts
    if run.rollouts.pairs:
        return "pairs of the best and the worst response; equal ones count nothing"
    over = s.bound_denominator().func.__name__
    kl = f"{s.kl.coefficient:g} x KL ({s.kl.estimator}) in the {s.kl.place}"
    of = f" of rewards by {s.normalize['name']}" if s.normalize.get("name") else ""
    return f"{s.name}{of}, {over}; {kl}"


def describe(run: Experiment, resumed: int | None) -> str:
    """What is about to happen, for the log."""
    c, section = run.config, run.config.model
    name = "/".join(section[k] for k in ("family", "name") if section.get(k))
    size = trees.count(run.weights.params)
    devices = jax.devices()
    lines = [
        (
            f"model: {name}, {size:,} parameters, vocabulary "
            f"{run.model.config.vocab_size:,}, context {c.length}"
        ),
        (
            f"devices: {len(devices)} x {devices[0].device_kind}, mesh "
            f"{dict(run.mesh.shape)}, {jax.process_count()} process(es)"
        ),
        *(_data_notes(run) if run.rollouts is None else _rollout_notes(run)),
        _attention_note(run),
        _dtype_note(run),
        memory_note(run),
    ]
    for name, other in (("start", run.parent), ("reference", run.reference)):
        if other is not None:
            digest = other.digest()[:12]
            lines.append(
                f"{name}: step {other.step} of {other.path}, parameters {digest}"
            )
    if run.parent is not None:
        lines.append(initial.length_note(run.parent, run.model.config))
        if (before := run.parent.chats) not in (None, c.data.chat):
            lines.append(f"data.chat: {c.data.chat!r}, and {before!r} in init.run")
    lines.append(format.start_note(run.tokenizer, c.data.chat, c.data.bos))
    if (every := c.reference.update_every) is not None:
        share = c.reference.update_share
        moves = "becomes" if share in (None, 1) else f"goes {share} of the way to"
        lines.append(f"the reference {moves} the policy every {every} updates")
    lines.append(
        f"starting at step 0 of {c.steps}"
        if resumed is None
        else f"going on from the checkpoint of step {resumed}, of {c.steps}"
    )
    return "\n".join(filter(None, lines))

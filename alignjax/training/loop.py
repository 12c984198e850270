# SPDX-License-Identifier: Apache-2.0
"""The loop over steps: batches in, metrics and checkpoints out.

No device value is read in the step that made it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping

import jax

from alignjax import errors, registry, sampling, trees, types
from alignjax.data import loader
from alignjax.distributed import sharding
from alignjax.experiment import build, reference
from alignjax.models import decoder
from alignjax.tracking import throughput
from alignjax.training import evaluate, optim, state, step


class Loop:
    """The loop over steps, with what it reports to."""

    def __init__(
        self, run, abstract, frozen, log, checkpoints, interrupted, dog, trace
    ):
        self.run, self.frozen = run, frozen
        self.log, self.checkpoints = log, checkpoints
        self.interrupted, self.dog, self.trace = interrupted, dog, trace
        train_step = step.make_train_step(
            run.objective,
            run.optimizer,
            microbatches=run.config.microbatches,
            copies=run.copies,
        )
        self.train_step = jax.jit(
            optim.with_rate(train_step, run.schedule),
            donate_argnums=0,
            out_shardings=(state.shardings(abstract), None),
        )
        self.meter = throughput.Meter(
            flops_per_token=decoder.flops_per_token(
                run.model,
                run.config.length,
                trainable=run.config.trainable,
                unembeds=not run.objective.needs.scores,
            ),
            device_kind=jax.devices()[0].device_kind,
            devices=jax.device_count(),
        )
        self.eval_step = jax.jit(step.make_eval_step(run.objective))
        self.tokens = run.config.batch_size * build.tokens_per_row(run.train)
        self.key = jax.random.key(run.config.seed + 1)
        self.skipped = 0  # in a row

    def __call__(self, train_state) -> int:
        """Steps until the last one, or until asked to stop."""
        c, start = self.run.config, int(train_state.step)
        unread = None  # metrics of the step before: reading them any sooner would stall
        self._check_best(train_state)
        with contextlib.closing(self._batches(start)) as batches:
            for i, batch in enumerate(batches, start):
                self.dog.beat(f"step {i}")
                self.trace(i)
                if i == 0:
                    self.first_loss = reference.first_loss(
                        self.run, train_state.params, self.frozen, batch, self.log.say
                    )
                train_state, metrics = self.train_step(
                    train_state, self.frozen, batch, self.key
                )
                if unread is not None:
                    self._report(i - 1, unread)
                unread = metrics
                stop = self.interrupted.requested(i) or i + 1 == c.steps
                evaluates = _due(c.evaluation.every, i + 1) or i + 1 == c.steps
                saves = stop or (i + 1) % c.checkpoint.every == 0
                if not (stop or evaluates or saves or _due(c.sample.every, i + 1)):
                    # A save that failed in the background is reported here.
                    self.checkpoints.maybe_save(i + 1, train_state)
                    continue
                jax.block_until_ready(unread)  # the step's own time ends here
                with self.meter.pause():
                    found = self._evaluate(train_state) if evaluates else {}
                self._report(i, unread, found)
                unread = None
                with self.meter.pause():
                    if _due(c.sample.every, i + 1):
                        self._sample(i, train_state)
                    if saves:
                        # No step before a checkpoint may be missing from the metrics.
                        self.log.sync()
                        self.dog.beat(f"save {i + 1}")
                        self.checkpoints.maybe_save(
                            i + 1, train_state, metrics=found, force=stop
                        )
                if stop and i + 1 < c.steps:
                    self.checkpoints.wait()
                    self.log.say(f"asked to stop: saved step {i + 1} of {c.steps}")
                    return self.interrupted.exit_code
        self.checkpoints.wait()
        return errors.DONE

    def _batches(self, start: int):
        """Batches from step `start` on, each a function of the seed and its step."""
        c, mesh, rules = self.run.config, self.run.mesh, self.run.rules
        mine = sharding.local_rows(c.batch_size, mesh, rules)
        fetch = lambda i: types.batch(self.run.train.rows(i * c.batch_size + mine))
        fetched = loader.prefetch(fetch, start, c.steps, c.prefetch)
        with contextlib.closing(fetched):
            for rows in fetched:
                yield sharding.put_batch(rows, c.batch_size, mesh, rules)

    def _report(self, i: int, metrics, found: Mapping[str, float] = {}) -> None:
        """Writes step i, which has ended. Raises NonFinite."""
        metrics = {name: float(x) for name, x in jax.device_get(metrics).items()}
        rates = self.meter.step(self.tokens)
        metrics["tokens"] = (i + 1) * self.tokens
        expected = None
        if i == 0 and self.first_loss is not None:
            expected = float(self.first_loss.value())
            metrics["loss/at_reference"] = expected
        self.log.write(i, {**metrics, **rates, **found})
        if expected is not None:
            reference.check_first_step(expected, metrics["loss"])
        self.skipped = self.skipped + 1 if metrics["skipped"] else 0
        if self.skipped:
            self._refuse(i, metrics)

    def _refuse(self, i: int, metrics: Mapping[str, float]) -> None:
        """Says what was not finite, in which rows; raises unless it may be skipped."""
        c = self.run.config
        bad = [f"{k} = {v}" for k, v in metrics.items() if not math.isfinite(v)]
        first = i * c.batch_size
        rows = [self.run.train.describe(first + k) for k in range(min(c.batch_size, 4))]
        more = f" and {c.batch_size - 4} more rows" if c.batch_size > 4 else ""
        line = f"step {i}: {', '.join(bad)}, not finite; the batch was "
        line += f"{'; '.join(rows)}{more}"
        if c.nonfinite == "skip" and self.skipped < c.max_skipped:
            self.log.say(f"{line}; the update was left out")
            return
        remedy = "lower optimizer.learning_rate, or say nonfinite='skip'"
        if c.nonfinite == "skip":
            remedy = f"that is {self.skipped} in a row (max_skipped)"
        raise errors.NonFinite(f"{line}; {remedy}. Checkpoints up to here are sound")

    def _evaluate(self, train_state) -> dict[str, float]:
        """The objective over the validation data, of the weights and their average."""
        if self.run.validation is None:
            return {}
        frozen = optim.frozen_at(self.frozen, train_state.extra)
        found = self._evaluate_params(train_state.params, frozen, "eval")
        if "average" in train_state.extra:
            average = train_state.extra["average"]
            found |= self._evaluate_params(average, frozen, "eval_average")
        return found

    def _evaluate_params(self, params, frozen, prefix: str) -> dict[str, float]:
        batches = self._held_out(prefix)
        means = evaluate.evaluate(self.eval_step, params, frozen, batches)
        return self._figures(means, prefix)

    def _held_out(self, prefix: str):
        """Batches of one pass over the validation data, or of rows from all of it."""
        c, data = self.run.config, self.run.validation
        mesh, rules = self.run.mesh, self.run.rules
        mine = sharding.local_rows(c.batch_size, mesh, rules)
        count = -(-data.num_rows // c.batch_size)
        if some := c.evaluation.batches and c.evaluation.batches < count:
            count = c.evaluation.batches
        for i in range(count):
            self.dog.beat(f"{prefix} batch {i} of {count}")
            n = i * c.batch_size + mine
            if some:  # equally far apart, so that each source has its share
                n = n * data.num_rows // (count * c.batch_size)
            rows = types.batch(data.epoch_rows(n))
            yield sharding.put_batch(rows, c.batch_size, mesh, rules)

    def _figures(self, means: Mapping[str, types.Mean], prefix: str):
        """What is reported of the sums of an evaluation."""
        found = evaluate.figures(means)
        found = {f"{prefix}/{k}": x for k, x in found.items()}
        if nats := found.get(f"{prefix}/nll"):
            bits = nats / math.log(2)
            bytes_per_token = self.run.validation.bytes_per_token
            found[f"{prefix}/bits_per_byte"] = bits / bytes_per_token
        return found

    def _check_best(self, train_state) -> None:
        """Raises ConfigError where no evaluation has what the best is told by."""
        if not (best := self.run.config.checkpoint.keep_best):
            return
        frozen = optim.frozen_at(self.frozen, train_state.extra)
        batch = next(self._held_out("eval"))
        names = jax.eval_shape(self.eval_step, train_state.params, frozen, batch)
        means = {name: types.Mean(1.0, 1.0) for name in names}
        found = self._figures(means, "eval")
        if "average" in train_state.extra:
            found |= self._figures(means, "eval_average")
        if best[0] not in found:
            remedy = registry.closest(best[0], found)
            raise errors.ConfigError(f"checkpoint.keep_best: no {best[0]!r}; {remedy}")

    def _sample(self, i: int, train_state) -> None:
        """Lets the model go on with the config's prompts."""
        c = self.run.config
        self.dog.beat(f"sample {i}")
        completions = sampling.generate(
            self.run.model,
            trees.merge(train_state.params, self.frozen.base),
            self.run.tokenizer,
            self.run.prompts,
            max_tokens=c.sample.max_tokens,
            temperature=c.sample.temperature,
            top_p=c.sample.top_p,
            stop_ids=self.run.stop,
        )
        pairs = zip(c.sample.prompts, completions, strict=True)
        for k, (prompt, completion) in enumerate(pairs):
            between = "\n" if c.data.chat else ""
            self.log.text(i, f"sample-{k}", prompt + between + completion.text)


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0

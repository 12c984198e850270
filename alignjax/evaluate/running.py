# SPDX-License-Identifier: Apache-2.0
"""An evaluation under way: of each run and dataset what is not measured yet."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

from alignjax import errors
from alignjax.evals import phrases, rows
from alignjax.evaluate import datasets, measuring, store
from alignjax.tracking import progress


class Evaluation:
    """Measures runs; models are loaded when they are first needed.

    Args:
      out: the folder of the evaluation.
      settings: of answers.
      listed: refusals and abstentions.
      reference: the model that divergences are from, if there is one.
      rewards: reward models that score answers.
      terminal: for progress.
    """

    def __init__(
        self,
        out: pathlib.Path,
        settings: measuring.Settings,
        listed: phrases.Phrases,
        reference: measuring.Model | None,
        rewards: Sequence[measuring.Model],
        terminal: progress.Terminal,
    ):
        self._out, self._settings, self._listed = out, settings, listed
        self._reference, self._rewards = reference, rewards
        self._terminal = terminal

    def measure(
        self,
        model: measuring.Model,
        data: Sequence[datasets.Dataset],
        folder: pathlib.Path,
    ) -> None:
        """The rows of a run on every dataset that it can be measured on."""
        for d in data:
            if model.reward is None or d.kind == datasets.PAIRS:
                model = self._one(model, d, folder)

    def _one(self, model, d, folder: pathlib.Path) -> measuring.Model:
        path = folder / f"{d.name}.jsonl"
        # A run is no reference of itself, and rewards are no log-probs.
        is_other = self._reference and model.digest != self._reference.digest
        other = self._reference if is_other and model.reward is None else None
        asks = d.kind == datasets.PROMPTS
        each = {datasets.TEXTS: 1, datasets.PAIRS: 2}.get(
            d.kind, self._settings.samples
        )
        tokens, reasons = self._tokens(model, d, other)
        if not tokens:
            raise errors.DataError(
                f"data: {model.name} can read nothing of {d.name}, such as "
                f"{d.where[0]}: {reasons[0]}"
            )
        of = {
            "run": model.name,
            "digest": model.digest,
            "step": model.run.step,
            "suite": d.digest,
            "unread": reasons,
        }
        if d.kind != datasets.TEXTS:
            of["reference"] = other and other.digest
        if asks:
            of["settings"] = self._settings._replace(batch_size=None)._asdict()
            of["rewards"] = {m.name: m.digest for m in self._rewards}
        if not store.is_done(path):
            model = model if model.params is not None else model.loaded()
            other = other and self._load_reference()
        show = self._shower(f"{model.name} on {d.name}")
        if d.kind == datasets.TEXTS:
            measure = lambda done: measuring.of_texts(model, d, tokens, done, show)
        elif d.kind == datasets.PAIRS:
            measure = lambda done: measuring.of_pairs(
                model, d, tokens, done, show, other
            )
        else:
            if not store.is_done(path):
                self._load_rewards()
            measure = lambda done: measuring.of_prompts(
                *(model, d, tokens, done, show),
                settings=self._settings,
                listed=self._listed,
                other=other,
                rewards=self._rewards,
            )
        store.complete(path, of, each, measure)
        if asks and other and folder.parent == self._out / "rows":
            model = self._reverse(model, other, d, tokens)
        return model

    def _reverse(self, model, other, d, tokens) -> measuring.Model:
        """The reference's answers under a run that reads prompts as it does."""
        if model.run.chats != other.run.chats:
            self._terminal.say(
                f"{model.name}: no KL of the reference from it, since "
                f"{other.name} reads dialogues in another format"
            )
            return model
        path = self._out / "reverse" / model.name / f"{d.name}.jsonl"
        own = self._out / "rows" / other.name / path.name
        answers = rows.read(own)
        answers = [a for a in answers if a.prompt in tokens]
        of = {"run": model.digest, "reference": other.digest, "suite": d.digest}
        of["settings"] = self._settings._replace(batch_size=None)._asdict()
        if not store.is_done(path):
            model = model if model.params is not None else model.loaded()
            other = self._load_reference()
        show = self._shower(f"{other.name} on {d.name}, under {model.name}")
        measure = lambda done: measuring.of_reference(
            model, other, d, answers, tokens, done, show
        )
        store.complete(path, of, self._settings.samples, measure)
        return model

    def _tokens(self, model, d, other):
        if d.kind == datasets.PROMPTS:
            room = self._settings.max_tokens
            return measuring.prompts(model, d.items, other, room)
        if d.kind == datasets.TEXTS:
            return measuring.texts(model, d.items)
        return measuring.pairs(model, d.items, other)

    def _load_reference(self) -> measuring.Model:
        if self._reference.params is None:
            self._reference = self._reference.loaded()
        return self._reference

    def _load_rewards(self) -> None:
        self._rewards = [
            m if m.params is not None else m.loaded() for m in self._rewards
        ]

    def _shower(self, what: str) -> Callable[[int, int], None]:
        clock: list[progress.Clock] = []

        def show(done: int, total: int) -> None:
            clock[:] = clock or [progress.Clock(total)]
            left = clock[0].left(done)
            left = "" if left is None else f"  {progress.duration(left)} left"
            text = f"{what}: {done:,} of {total:,}{left}"
            self._terminal.show(text, force=done == total)
            if done == total:
                self._terminal.say(f"{what}: {total:,}")

        return show

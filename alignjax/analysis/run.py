# SPDX-License-Identifier: Apache-2.0
"""A run opened for a look: no config file, no mesh and no accelerator is needed.

    run = checkpoint.open_run("runs/world")
    run.steps, run.config["optimizer"]
    run.generate(["Once upon a time"], max_tokens=50)

Nothing is written and no lock is taken, so a run may be opened while it trains, or from
a copy of its directory.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from alignjax import errors, trees, types
from alignjax.analysis import asking, workdir
from alignjax.checkpoint import step_folders
from alignjax.huggingface import recognition

# Models, tokenizers and samplers are imported where they are asked for: to look at
# files should need none of them.


def open_run(path, step: int | None = None) -> Run:
    """The run in the directory `path`, as of `step`; by default as of its newest.

    A Hugging Face folder is one too, with the one step 0, and so is a repository of its
    hub, whose name begins with `hf:`.

    Raises:
      CheckpointError: it is not a run's directory, or has no such step.
      ConfigError: it is a folder of Hugging Face's, and what is wrong with it.
    """
    path, name = pathlib.Path(path).expanduser().absolute(), str(path)
    if name.startswith("hf:") or recognition.is_folder(path):
        run = _foreign(name)
    else:
        run = Run(path, workdir.Workdir(path))
    if not run.directory.is_dir() and not (run.path / "config.json").is_file():
        here, hint = run.path, ""
        if any((parent / "config.json").is_file() for parent in here.parents):
            hint = "; a directory above it is: open that, and name the step"
        raise errors.CheckpointError(
            f"{here} is no run: it has neither config.json nor checkpoints/{hint}"
        )
    return run if step is None else run.at(step)


def _foreign(name: str) -> Run:
    from alignjax.analysis import foreign
    from alignjax.huggingface import folder

    opened = folder.open_folder(folder.find(name))
    return Run(opened.path, foreign.Foreign(opened))


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run left on disk. Everything is read when it is asked for, and no more.

    Where a method takes a `step` and is given none, it is the one that the run was
    opened with, or else the newest that is sound: that is what was written.
    """

    path: pathlib.Path
    held: Any  # `workdir.Workdir` or `foreign.Foreign`, which are alike
    step: int | None = None

    def at(self, step: int) -> Run:
        """The same run as of a step. Raises CheckpointError if it has no such step."""
        found = dataclasses.replace(self, step=step)
        found.meta()
        return found

    @property
    def directory(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def steps(self) -> list[int]:
        """The complete steps, ascending; read anew each time."""
        return self.held.steps

    @functools.cached_property
    def config(self) -> dict:
        """The resolved config: of the step that was asked for, or the run's own."""
        return self.held.config(self.step)

    @functools.cached_property
    def tokenizer(self):
        """The `data.tokenizer.Tokenizer` that the run was trained with.

        It has no start token where the run's documents had none: prompts then begin as
        the model has seen documents begin.
        """
        loaded = self.held.tokenizer()
        starts = self.config.get("data", {}).get("bos", True)
        return loaded if starts else loaded._replace(bos_id=None)

    @functools.cached_property
    def full_tokenizer(self):
        """The same with its start token; None where no tokenizer was kept."""
        return self.held.tokenizer() if self.held.has_tokenizer else None

    @functools.cached_property
    def model(self) -> types.Model:
        """The model, with an attention that runs on whatever machine this is."""
        from alignjax import models

        section = {**self.config["model"], "attention": "auto"}
        # Where the section has the rows of the embedding, no tokenizer has to be there.
        rows = section.get("vocab_size") or self.tokenizer.vocab_size
        return models.build(section, vocab_size=rows)

    def meta(self, step: int | None = None) -> dict:
        """The JSON of a step: config, data, versions, metrics, leaves.

        `leaves` is `{"params/..." or "train/...": {shape, dtype, fingerprint}}`.
        """
        return self._of(step, lambda stored: stored.meta)

    def params(self, step: int | None = None, *, average: bool = False) -> dict:
        """All parameters, as nested dicts of numpy arrays, verified.

        Those that the run did not train (see `trainable` in its config) are read from
        the run that it started from, which has to be where it was; kernels among them
        have the float32 values that `model.base` kept of them.

        Args:
          average: those of the weights' moving average, if the run kept one.

        Raises:
          CheckpointError: there is no such step, it is broken, or has no average; or
            the run that it started from is gone, or another.
        """
        read = _read_average if average else _read_params
        trained = self._of(step, read)
        if self._base is None:
            return step_folders.nest(trained)
        base = self._kept(trees.named_leaves(self._base.params()))
        return step_folders.nest({**base, **trained})

    def leaves(self, step: int | None = None) -> dict[str, Any]:
        """`{path: array that is read when it is sliced}` of all parameters.

        Each has `shape`, `dtype` and slices, and is verified when it is first read, so
        that memory for the largest will do; `params` has them all at once.

        Raises:
          CheckpointError: as `params`; of a leaf that is broken, once it is sliced.
        """
        own = self._of(step, lambda stored: stored.leaves())
        return own if self._base is None else {**self._kept(self._base.leaves()), **own}

    def digest(self, step: int | None = None) -> str:
        """A sha256 of the parameters as of a step, from their fingerprints."""
        prints = self._of(step, lambda stored: stored.fingerprints())
        prints = {f"params/{name}": digits for name, digits in prints.items()}
        base = None if self._base is None else self._base.digest()
        kind = self.config["model"].get("base") or "float32"
        kept = [] if base is None or kind == "float32" else [kind]
        text = json.dumps([base, prints, *kept], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _kept(self, base: dict[str, Any]) -> dict[str, Any]:
        """The leaves of the run it started from, as this one computed with them."""
        from alignjax.models import quantized

        kind = self.config["model"].get("base") or "float32"
        if kind == "float32":
            return base
        projections = self.model.config.projections
        kernels = set(quantized.names(projections, self.config["trainable"]))

        def read(name, leaf):
            if name not in kernels:
                return leaf
            if isinstance(leaf, np.ndarray):
                return quantized.rounded(leaf, kind)
            return quantized.Rounded(leaf, kind)

        return {name: read(name, leaf) for name, leaf in base.items()}

    @functools.cached_property
    def _base(self) -> Run | None:
        """The run that has the parameters that this one did not train."""
        if self.config.get("trainable", ".*") == ".*":
            return None
        section, wanted = self.config["init"], self.meta()["data"]["init"]
        try:
            base = open_run(section["run"], section["step"])
            if base.digest() == wanted:
                return base
            # It may have trained on since; then it may still have the older step.
            for step in base.steps if section["step"] is None else []:
                if base.digest(step) == wanted:
                    return open_run(section["run"], step)
        except errors.CheckpointError as error:
            raise errors.CheckpointError(
                f"{self.path} trained but a part of its parameters; the others are in "
                f"the run it started from: {error}"
            ) from error
        raise errors.CheckpointError(
            f"{self.path} started from other parameters than {base.path} has now"
        )

    def leaf(self, name: str, step: int | None = None, *, item: str = "params"):
        """One parameter by its path, such as `layers/attention/q/kernel`, verified.

        Of the `item` "train" it is a leaf of the optimizer's state. The other leaves
        are not read.

        Raises:
          CheckpointError: there is no such leaf; the message says what there is.
        """

        def read(stored):
            known = step_folders.names_of(stored.meta, item)
            if name not in known:
                raise errors.CheckpointError(
                    f"{stored.path}: no leaf {name!r} in {item}; there are: "
                    f"{', '.join(known)}"
                )
            return stored.read(item, [name])[name]

        return self._of(step, read)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one a step."""
        from alignjax.tracking import journal

        file = self.path / "metrics.jsonl"
        return list(journal.read(file)) if file.is_file() else []

    def logits(self, tokens) -> np.ndarray:
        """float32 [..., T, V]: after each of `tokens`, [T] or [B, T], what comes next.

        Raises:
          ConfigError: ids outside the vocabulary, more than the model's context, or
            rows of different lengths.
        """
        tokens = asking.array(tokens)
        rows = asking.rows(self.model, np.atleast_2d(tokens))
        logits_BTV = np.asarray(asking.logits(self.model)(self._weights, rows))
        return logits_BTV.reshape(*tokens.shape, -1)

    def logprobs(
        self, prompt: str | Sequence[int], response: str | Sequence[int]
    ) -> np.ndarray:
        """float32 [R]: log p(token | prompt, tokens before) for the response's tokens.

        Prompt and response are tokenized apart, and a prompt begins as those of
        `generate` do, with the start of document; ids are taken as they are.

        Raises:
          ConfigError: ids outside the vocabulary, no response, or nothing before it.
        """
        from alignjax.sampling import request

        before, after = prompt, response
        if isinstance(before, str):
            before = request.encode(self.tokenizer, before)
        if isinstance(after, str):
            after = self.tokenizer.encode(after)
        if not len(before) or not len(after):
            raise errors.ConfigError(
                "logprobs needs a token before the response, and one in it"
            )
        tokens = asking.array([[*before, *after]])
        rows = asking.rows(self.model, tokens[:, :-1])
        rows = rows.replace(targets=asking.checked(self.model, tokens[:, 1:]))
        logps_BT = asking.logprobs(self.model)(self._weights, rows)
        return np.asarray(logps_BT)[0, len(before) - 1 :]

    def generate(self, prompts: Sequence, **options) -> list:
        """A completion of each prompt; the options are those of `sampling.generate`."""
        from alignjax import sampling

        return sampling.generate(
            self.model, self._weights, self.tokenizer, prompts, **options
        )

    def reply(self, dialogues: Sequence, **options) -> list:
        """What a model of dialogues says next in each of them.

        A dialogue is what a user says, or turns `(role, text)` that end with a user's;
        the options are those of `sampling.generate`.

        Raises:
          ConfigError: the run did not learn dialogues (`data.chat`).
          DataError: turns that are no prompt.
        """
        from alignjax.data.chat import format

        prompts = [self.prompt_ids(dialogue) for dialogue in dialogues]
        stop = format.stop_ids(self.tokenizer, self.chats)
        return [
            found._replace(text=format.text(self.tokenizer, found.ids, self.chats))
            for found in self.generate(prompts, **{"stop_ids": stop, **options})
        ]

    def prompt_ids(self, dialogue) -> list[int]:
        """The tokens that a dialogue of `reply` begins with."""
        from alignjax.data.chat import format

        if not self.chats:
            raise errors.ConfigError(
                f"data.chat: {self.path} did not learn dialogues; use generate"
            )
        turns = ((format.USER, dialogue),) if isinstance(dialogue, str) else dialogue
        starts = self.tokenizer.bos_id is not None
        return format.prompt_ids(self.tokenizer, turns, self.chats, starts)

    @property
    def chats(self) -> str | None:
        """The format of the dialogues that the run learned, if it learned any."""
        return self.config.get("data", {}).get("chat")

    @functools.cached_property
    def _weights(self):
        """The parameters on the default device, read once."""
        return jax.device_put(self.params())

    def _of(self, step: int | None, read: Callable[[Any], Any]):
        """`read` of a step, or of the newest for which it succeeds."""
        return self.held.at(self.step if step is None else step, read)


def _read_params(stored) -> dict[str, np.ndarray]:
    return stored.read("params")


def _read_average(stored) -> dict[str, np.ndarray]:
    """The moving average of the parameters, `TrainState.extra["average"]`."""
    kept = step_folders.names_of(stored.meta, "train")
    names = {}
    for parameter in step_folders.names_of(stored.meta, "params"):
        found = [name for name in kept if name.endswith(f"/average/{parameter}")]
        if len(found) != 1:
            raise errors.CheckpointError(
                f"{stored.path}: no average of {parameter} was kept; see optimizer.ema"
            )
        names[found[0]] = parameter
    leaves = stored.read("train", list(names))
    return {names[name]: leaf for name, leaf in leaves.items()}

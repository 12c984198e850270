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
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from alignjax import trees, types
from alignjax.checkpoint import storage
from alignjax.checkpoint.storage import CheckpointError

log = logging.getLogger(__name__)

# Models, tokenizers and samplers are imported where they are asked for: to look at
# files should need none of them.


def open_run(path, step: int | None = None) -> Run:
    """The run in the directory `path`, as of `step`; by default as of its newest.

    Raises:
      CheckpointError: it is not a run's directory, or has no such step.
    """
    run = Run(pathlib.Path(path).absolute(), step)
    if not run.directory.is_dir() and not (run.path / "config.json").is_file():
        here, hint = run.path, ""
        if any((parent / "config.json").is_file() for parent in here.parents):
            hint = "; a directory above it is: open that, and name the step"
        raise CheckpointError(
            f"{here} is no run: it has neither config.json nor checkpoints/{hint}"
        )
    if step is not None:
        run.meta(step)
    return run


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run left on disk. Everything is read when it is asked for, and no more.

    Where a method takes a `step` and is given none, it is the one that the run was
    opened with, or else the newest that is sound: that is what was written.
    """

    path: pathlib.Path
    step: int | None = None

    @property
    def directory(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def steps(self) -> list[int]:
        """The complete steps, ascending; read anew each time."""
        return storage.complete_steps(self.directory)

    @functools.cached_property
    def config(self) -> dict:
        """The resolved config: of the step that was asked for, or the run's own."""
        file = self.path / "config.json"
        if self.step is None and file.is_file():
            return json.loads(file.read_text())
        return self.meta()["config"]

    @functools.cached_property
    def tokenizer(self):
        """The `data.tokenizer.Tokenizer` that the run was trained with.

        It has no start token where the run's documents had none: prompts then begin as
        the model has seen documents begin.
        """
        from alignjax.data import tokenizer

        loaded = tokenizer.load(self.path / "tokenizer")
        starts = self.config.get("data", {}).get("bos", True)
        return loaded if starts else loaded._replace(bos_id=None)

    @functools.cached_property
    def model(self) -> types.Model:
        """The model, with an attention that runs on whatever machine this is."""
        from alignjax import models

        section = {**self.config["model"], "attention": "auto"}
        return models.build(section, vocab_size=self.tokenizer.vocab_size)

    def meta(self, step: int | None = None) -> dict:
        """The JSON of a step: config, data, versions, metrics, leaves.

        `leaves` is `{"params/..." or "train/...": {shape, dtype, fingerprint}}`.
        """
        return self._of(step, lambda _, meta: meta)

    def params(self, step: int | None = None, *, average: bool = False) -> dict:
        """All parameters, as nested dicts of numpy arrays, verified.

        Those that the run did not train (see `trainable` in its config) are read from
        the run that it started from, which has to be where it was.

        Args:
          average: those of the weights' moving average, if the run kept one.

        Raises:
          CheckpointError: there is no such step, it is broken, or has no average; or
            the run that it started from is gone, or another.
        """
        read = _read_average if average else _read_params
        trained = self._of(step, read)
        if self._base is None:
            return storage.nest(trained)
        return storage.nest({**trees.named_leaves(self._base.params()), **trained})

    def digest(self, step: int | None = None) -> str:
        """A sha256 of the parameters as of a step, from their fingerprints."""
        leaves = self.meta(step)["leaves"]
        prints = {k: v["fingerprint"] for k, v in leaves.items() if _is_params(k)}
        base = None if self._base is None else self._base.digest()
        text = json.dumps([base, prints], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

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
        except CheckpointError as error:
            raise CheckpointError(
                f"{self.path} trained but a part of its parameters; the others are in "
                f"the run it started from: {error}"
            ) from error
        raise CheckpointError(
            f"{self.path} started from other parameters than {base.path} has now"
        )

    def leaf(self, name: str, step: int | None = None, *, item: str = "params"):
        """One parameter by its path, such as `layers/attention/q/kernel`, verified.

        Of the `item` "train" it is a leaf of the optimizer's state. The other leaves
        are not read.

        Raises:
          CheckpointError: there is no such leaf; the message says what there is.
        """

        def read(path, meta):
            known = storage.names_of(meta, item)
            if name not in known:
                raise CheckpointError(
                    f"{path}: no leaf {name!r} in {item}; there are: {', '.join(known)}"
                )
            return storage.read_numpy(path, meta, item, [name])[name]

        return self._of(step, read)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one a step."""
        from alignjax import journal

        file = self.path / "metrics.jsonl"
        return list(journal.read(file)) if file.is_file() else []

    def logits(self, tokens) -> np.ndarray:
        """float32 [..., T, V]: after each of `tokens`, [T] or [B, T], what comes next.

        Raises:
          ValueError: ids outside the vocabulary, or more than the model's context.
        """
        tokens = np.asarray(tokens)
        rows = _rows(self.model, np.atleast_2d(tokens))
        logits_BTV = np.asarray(_logits(self.model)(self._weights, rows))
        return logits_BTV.reshape(*tokens.shape, -1)

    def logprobs(
        self, prompt: str | Sequence[int], response: str | Sequence[int]
    ) -> np.ndarray:
        """float32 [R]: log p(token | prompt, tokens before) for the response's tokens.

        Prompt and response are tokenized apart, and a prompt begins as those of
        `generate` do, with the start of document; ids are taken as they are.

        Raises:
          ValueError: ids outside the vocabulary, no response, or nothing before it.
        """
        from alignjax.sampling import request

        before, after = prompt, response
        if isinstance(before, str):
            before = request.encode(self.tokenizer, before)
        if isinstance(after, str):
            after = self.tokenizer.encode(after)
        if not len(before) or not len(after):
            raise ValueError(
                "logprobs needs a token before the response, and one in it"
            )
        tokens = np.array([[*before, *after]])
        rows = _rows(self.model, tokens[:, :-1])
        rows = rows.replace(targets=_checked(self.model, tokens[:, 1:]))
        logps_BT = _logprobs(self.model)(self._weights, rows)
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
        from alignjax.data import chat

        prompts = [self.prompt_ids(dialogue) for dialogue in dialogues]
        stop = [self.tokenizer.control[chat.STOP]]
        return [
            found._replace(text=chat.text(self.tokenizer, found.ids))
            for found in self.generate(prompts, **{"stop_ids": stop, **options})
        ]

    def prompt_ids(self, dialogue) -> list[int]:
        """The tokens that a dialogue of `reply` begins with."""
        from alignjax import config
        from alignjax.data import chat

        if not self.chats:
            raise config.ConfigError(
                f"data.chat: {self.path} did not learn dialogues; use generate"
            )
        turns = ((chat.USER, dialogue),) if isinstance(dialogue, str) else dialogue
        return chat.prompt_ids(self.tokenizer, turns, self.tokenizer.bos_id is not None)

    @property
    def chats(self) -> bool:
        """Whether the run learned dialogues."""
        return bool(self.config.get("data", {}).get("chat"))

    @functools.cached_property
    def _weights(self):
        """The parameters on the default device, read once."""
        return jax.device_put(self.params())

    def _of(self, step: int | None, read: Callable[[pathlib.Path, dict], Any]):
        """`read(path, meta)` of a step, or of the newest for which it succeeds."""
        step = self.step if step is None else step
        if step is not None:
            self._check_exists(step)
            return _read_step(self.directory, step, read)
        broken = []
        for candidate in reversed(self.steps):
            try:
                return _read_step(self.directory, candidate, read)
            except storage.BrokenStep as error:
                log.warning("trying the step before, since %s", error)
                broken.append(str(error))
        raise CheckpointError(
            f"{self.path} has no sound checkpoint: {'; '.join(broken) or 'none yet'}"
        )

    def _check_exists(self, step: int) -> None:
        found = storage.all_steps(self.directory)
        complete = [s for s, whole in found.items() if whole]
        if step not in found:
            raise CheckpointError(f"{self.path} has no step {step}; it has {complete}")
        if not found[step]:
            raise CheckpointError(
                f"step {step} of {self.path} is incomplete, as an interrupted copy "
                f"leaves it; complete are {complete}"
            )


def _is_params(name: str) -> bool:
    return name.startswith("params/")


def _read_step(directory: pathlib.Path, step: int, read):
    path = storage.step_path(directory, step)
    try:
        return read(path, storage.read_meta(path))
    except storage.BrokenStep as error:
        if not path.is_dir():
            raise storage.BrokenStep(
                f"{path} was deleted while it was read; the run keeps only some steps"
            ) from error
        raise


def _read_params(path: pathlib.Path, meta: dict) -> dict[str, np.ndarray]:
    return storage.read_numpy(path, meta, "params")


def _read_average(path: pathlib.Path, meta: dict) -> dict[str, np.ndarray]:
    """The average of the parameters that `optim.average` keeps."""
    kept = storage.names_of(meta, "train")
    names = {}
    for parameter in storage.names_of(meta, "params"):
        found = [name for name in kept if name.endswith(f"/average/{parameter}")]
        if len(found) != 1:
            raise CheckpointError(
                f"{path}: no average of {parameter} was kept; see optimizer.ema"
            )
        names[found[0]] = parameter
    leaves = storage.read_numpy(path, meta, "train", list(names))
    return {names[name]: leaf for name, leaf in leaves.items()}


def _rows(model: types.Model, tokens_BT: np.ndarray) -> types.Sequences:
    """Rows of one whole document each; the targets are of no account."""
    tokens_BT = _checked(model, tokens_BT)
    B, T = tokens_BT.shape
    limit = model.config.max_length
    if not 0 < T <= limit:
        raise ValueError(f"{T} tokens, where the model takes 1 to {limit}")
    return types.Sequences(
        inputs=tokens_BT,
        targets=np.zeros_like(tokens_BT),
        weights=np.ones((B, T), np.float32),
        segment_ids=np.ones((B, T), np.int32),
        positions=np.broadcast_to(np.arange(T, dtype=np.int32), (B, T)),
    )


def _checked(model: types.Model, tokens: np.ndarray) -> np.ndarray:
    """As int32; an embedding would take an id outside of it for another, silently."""
    size = model.config.vocab_size
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens are {tokens.dtype}, not integers")
    if tokens.size and (tokens.min() < 0 or tokens.max() >= size):
        raise ValueError(
            f"token ids from {tokens.min()} to {tokens.max()} in a vocabulary of {size}"
        )
    return tokens.astype(np.int32)


@functools.lru_cache(maxsize=4)
def _logits(model: types.Model):
    return jax.jit(lambda p, rows: model.unembed(p, model.hidden(p, rows)))


@functools.lru_cache(maxsize=4)
def _logprobs(model: types.Model):
    from alignjax.objectives import logprobs

    return jax.jit(lambda p, rows: logprobs.token_logps(model, p, rows)[0])

# SPDX-License-Identifier: Apache-2.0
"""A run opened for a look: no config file, no mesh and no accelerator is needed.

    run = alignjax.open_run("runs/world")
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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from alignjax import errors, models, patterns, registry, sampling, trees, types
from alignjax.analysis import forward, placement, reading, scoring, stores
from alignjax.checkpoint import step_folders
from alignjax.data.tokenizers import base
from alignjax.models import quantized
from alignjax.tracking import journal

T = TypeVar("T")


@functools.lru_cache(maxsize=16)
def _shared_model(section: str, rows: int) -> types.Model:
    """A model, the same for all runs of one shape, which share what is compiled."""
    return models.build(json.loads(section), vocab_size=rows)


def open_run(
    path: str | pathlib.Path,
    step: int | None = None,
    *,
    network: bool = False,
    mesh: Mapping[str, int] | jax.sharding.Mesh | None = None,
) -> Run:
    """The run in the directory `path`, as of `step`; by default as of its newest.

    A Hugging Face folder is a run with the one step 0, and so are a repository of its
    hub, whose name begins with `hf:`, and a GGUF file, with `gguf:` or the suffix.

    Args:
      path, step: of the run.
      network: whether a repository that is no folder here may be fetched, also one that
        the run says it started from. Without it only the hub's cache is looked into.
      mesh: over which the model is to lie, such as `{"fsdp": -1}`, for one that is
        larger than a device; all that is computed is computed there.

    Raises:
      CheckpointError: it is not a run's directory, or has no such step.
      ConfigError: it is a Hugging Face folder that cannot be read, or a mesh that does
        not fit; says why.
    """
    run = Run(stores.find(path, network), network=network)
    if mesh is not None:
        where = placement.make(mesh, run.config.get("sharding_rules"))
        run = dataclasses.replace(run, placement=where)
    return run if step is None else run.at(step)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run left on disk, each part of it read on first use.

    Methods with an argument `step` take, where it is None, the step that the run was
    opened with, or else the newest one that is sound.
    """

    store: stores.Store
    step: int | None = None
    network: bool = False
    placement: placement.Placement | None = None
    runs_above: tuple[pathlib.Path, ...] = ()  # that it was opened for, as their base

    @property
    def path(self) -> pathlib.Path:
        """The directory of the run, or the Hugging Face folder."""
        return self.store.path

    @property
    def directory(self) -> pathlib.Path:
        """Where a run keeps its steps."""
        return self.path / "checkpoints"

    @property
    def steps(self) -> list[int]:
        """The complete steps, ascending; looked up at each access."""
        return self.store.steps()

    def at(self, step: int | None = None) -> Run:
        """The same run as of a step, so that it stays of that step while it trains on.

        Raises:
          CheckpointError: it has no such step, or none that is sound.
        """
        return dataclasses.replace(self, step=self.meta(step)["step"])

    @functools.cached_property
    def config(self) -> dict:
        """The resolved config: of the step that was opened, or the run's own."""
        return self.store.config(self.step)

    @functools.cached_property
    def tokenizer(self) -> base.Tokenizer:
        """The tokenizer that the run was trained with.

        It has no start token where the run's documents had none: prompts then begin as
        the model has seen documents begin.

        Raises:
          DataError: the run has no tokenizer.
        """
        if (tokenizer := self.full_tokenizer) is None:
            raise errors.DataError(
                f"{self.path} has no tokenizer, so that it takes ids and no text; "
                "open a run, folder or file that has one"
            )
        starts = (self.config.get("data") or {}).get("bos", True)
        return tokenizer if starts else tokenizer._replace(bos_id=None)

    @functools.cached_property
    def full_tokenizer(self) -> base.Tokenizer | None:
        """The same with its start token; None where there is no tokenizer."""
        return self.store.tokenizer()

    @functools.cached_property
    def model(self) -> types.Model:
        """The model, with an attention that runs on whatever machine this is."""
        section = {**self.config["model"], "attention": "auto"}
        # Where the section has the rows of the embedding, no tokenizer has to be there.
        rows = section.get("vocab_size") or self.tokenizer.vocab_size
        return _shared_model(json.dumps(section, sort_keys=True), rows)

    @property
    def chats(self) -> str | None:
        """The format of the dialogues that the run learned, if it learned any."""
        return (self.config.get("data") or {}).get("chat")

    def meta(self, step: int | None = None) -> dict:
        """The JSON of a step: config, data, versions, metrics, leaves.

        `leaves` is `{"params/..." or "train/...": {shape, dtype, fingerprint}}`.
        """
        return self._from_step(step, lambda stored: stored.meta)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one a step."""
        file = self.path / "metrics.jsonl"
        return list(journal.read(file)) if file.is_file() else []

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
        read = (
            stores.read_average
            if average
            else lambda stored: stored.read("params", None)
        )
        trained = self._from_step(step, read)
        if self._base is None:
            return trees.nest(trained)
        frozen = self._frozen(trees.named_leaves(self._base.params()))
        arrays = {name: np.asarray(leaf) for name, leaf in frozen.items()}
        return trees.nest({**arrays, **trained})

    def leaves(
        self, step: int | None = None, *, item: str = "params"
    ) -> dict[str, Any]:
        """`{path: array that is read when it is sliced}` of all parameters.

        Each has `shape`, `dtype` and slices, and is verified when it is first read, so
        that memory for a part will do; `params` has them all at once. Of the `item`
        "train" they are those of the optimizer's state.

        Raises:
          CheckpointError: as `params`; of a leaf that is broken, once it is sliced.
        """
        own = self._from_step(step, lambda stored: stored.leaves(item))
        if item != "params" or self._base is None:
            return own
        return {**self._frozen(self._base.leaves()), **own}

    def leaf(self, name: str, step: int | None = None, *, item: str = "params"):
        """One leaf that the run wrote, by its path such as `layers/q/kernel`, verified.

        `leaves` has all paths. Of the `item` "train" it is a leaf of the optimizer's
        state.

        Raises:
          CheckpointError: there is no such leaf; the message lists those there are.
        """

        def read(stored: stores.Step) -> np.ndarray:
            if (leaf := stored.leaves(item).get(name)) is None:
                remedy = registry.closest(
                    name, step_folders.leaves_of(stored.meta, item)
                )
                raise errors.CheckpointError(
                    f"{stored.path}: no leaf {name!r} in {item}; {remedy}"
                )
            return leaf[...]

        return self._from_step(step, read)

    def digest(self, step: int | None = None) -> str:
        """A sha256 of the parameters as of a step, from their fingerprints."""
        digits = self._from_step(step, lambda stored: stored.fingerprints())
        digits = {f"params/{name}": value for name, value in digits.items()}
        base = None if self._base is None else self._base.digest()
        kind = self.config["model"].get("base") or "float32"
        rounding = [] if base is None or kind == "float32" else [kind]
        text = json.dumps([base, digits, *rounding], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _frozen(self, leaves: dict[str, Any]) -> dict[str, Any]:
        """The leaves of the run it started from, as this one computed with them."""
        kind = self.config["model"].get("base") or "float32"
        if kind == "float32":
            return leaves
        projections, where = self.model.config.projections, f"{self.path}: trainable"
        patterns.matching([self.config["trainable"]], list(leaves), where)  # soon done
        kernels = set(quantized.names(projections, self.config["trainable"]))
        rounded = lambda leaf: quantized.lazily_rounded(leaf, kind)
        return {n: rounded(x) if n in kernels else x for n, x in leaves.items()}

    @functools.cached_property
    def _base(self) -> Run | None:
        """The run that has the parameters that this one did not train."""
        if (self.config.get("trainable") or ".*") == ".*":
            return None
        section = {"run": None, "step": None} | (self.config.get("init") or {})
        digest = self.meta()["data"].get("init")
        if section["run"] is None:
            raise errors.CheckpointError(
                f"{self.path}: config.json: init.run: no run, where trainable = "
                f"{self.config['trainable']!r} leaves parameters to one"
            )
        try:
            base = open_run(section["run"], section["step"], network=self.network).at()
            base = dataclasses.replace(base, runs_above=(*self.runs_above, self.path))
            if base.path in base.runs_above:
                raise errors.CheckpointError(f"{base.path} starts from itself")
            if base.digest() == digest:
                return base
            # It may have trained on since; then it may still have the older step.
            for step in base.steps if section["step"] is None else []:
                if base.digest(step) == digest:
                    return base.at(step)
        except (errors.CheckpointError, errors.ConfigError) as error:
            raise errors.CheckpointError(
                f"{self.path} trained but a part of its parameters; the others are in "
                f"the run it started from: {error}"
            ) from error
        raise errors.CheckpointError(
            f"{self.path} started from other parameters than {base.path} has now"
        )

    def logits(self, tokens) -> np.ndarray:
        """float32 [..., T, V]: the logits of the token after each of `tokens`.

        Args:
          tokens: [T] or [B, T], ids of whole documents.

        Raises:
          ConfigError: as `forward.rows`.
        """
        with placement.use(self.placement):
            batch = forward.rows(self.model, tokens)
            logits_BTV = np.asarray(forward.logits(self.model, self._weights, batch))
        own_BTV = logits_BTV[: len(np.atleast_2d(tokens))]
        return own_BTV.reshape(*np.shape(tokens), -1)

    def hidden(self, tokens, *, every_layer: bool = False) -> np.ndarray:
        """float32 [..., T, D]: the last hidden states, which the logits are made of.

        Args:
          tokens: as of `logits`.
          every_layer: gives [L + 1, ..., T, D], the embeddings and what each layer adds
            up to, before the last norm.

        Raises:
          ConfigError: as `forward.rows`.
        """
        with placement.use(self.placement):
            batch = forward.rows(self.model, tokens)
            x_BTD = forward.hidden(self.model, self._weights, batch, every_layer)
        x_BTD = np.asarray(x_BTD, np.float32)
        own_BTD = x_BTD[..., : len(np.atleast_2d(tokens)), :, :]
        return own_BTD.reshape(*x_BTD.shape[:-3], *np.shape(tokens), x_BTD.shape[-1])

    def logit_lens(self, tokens) -> np.ndarray:
        """float32 [L + 1, ..., T, V]: the logits that each layer's states would make.

        The last norm and the unembedding applied to `hidden(every_layer=True)`, so that
        those of the last layer are `logits`; no weights are folded or centred.

        Args:
          tokens: as of `logits`.

        Raises:
          ConfigError: as `forward.rows`.
        """
        with placement.use(self.placement):
            batch = forward.rows(self.model, tokens)
            x_LBTD = forward.hidden(self.model, self._weights, batch, True)
            unembed = functools.partial(forward.unembed, self.model, self._weights)
            layers = [np.asarray(unembed(x_BTD)) for x_BTD in x_LBTD]
        own_LBTV = np.stack(layers)[:, : len(np.atleast_2d(tokens))]
        return own_LBTV.reshape(len(layers), *np.shape(tokens), -1)

    def tokenize(self, text: str | Sequence) -> list[int]:
        """The tokens of a text, or of the turns of a dialogue, as the model gets them.

        A text begins as the prompts of `generate` do. A dialogue ends where the
        assistant is to speak, or else with the end of its last turn.

        Raises:
          ConfigError, DataError: as `reply`.
        """
        return self._reader.tokenize(text)

    def logprobs(
        self,
        prompt: str | Sequence,
        response: str | Sequence[int],
        *,
        plain: bool = False,
    ) -> np.ndarray:
        """float32 [R]: log p(token | prompt, tokens before) for the response's tokens.

        See `score`, which takes many at once.
        """
        return self.score([prompt], [response], plain=plain)[0].logprobs

    def score(
        self,
        prompts: Sequence,
        responses: Sequence[str | Sequence[int]],
        *,
        plain: bool = False,
        reference: str | pathlib.Path | Run | None = None,
        batch_size: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[scoring.Score]:
        """Log-probabilities, and of a reward model the reward, of each response.

        Where the run learned dialogues, a prompt is one of `reply` and a response a
        whole turn, as training has it: with what the template writes before its text,
        and the token that ends it. Elsewhere, or if `plain`, a prompt begins as those
        of `generate` do, and the response goes on from there. Token ids are taken as
        they are; a text after ids that end where the assistant is to speak is a turn.

        Args:
          prompts, responses: as many of each.
          reference: a run, or its path, of the same tokenizer and vocabulary, for the
            `ref_logp` and `kl` of each score.
          batch_size: rows at one time; the default is 32, and fewer of long ones.
          progress: called with the number of rows that are done.

        Raises:
          ConfigError: ids outside the vocabulary, no response, nothing before it, or
            more of both than the model takes; names the first that is so.
          ConfigError, CheckpointError: as `reference`.
          DataError: turns or a response that the template cannot write.
        """
        other = None if reference is None else self.reference(reference)
        configs = [run.model.config for run in (self, other) if run is not None]
        reader = self._reader._replace(chats=None) if plain else self._reader
        rows = reader.rows(prompts, responses, configs)
        with placement.use(self.placement):
            return scoring.measure(
                self.model,
                self._weights,
                rows,
                scoring.reward_of(self.config),
                reference=other and scoring.Reference(other.model, other._weights),
                batch_size=batch_size,
                progress=progress,
            )

    def reference(self, run: str | pathlib.Path | Run, step: int | None = None) -> Run:
        """A run, or that of a path, which reads the tokens of this one.

        Raises CheckpointError where there is none, ConfigError for other tokens.
        """
        if not isinstance(run, Run):
            run = open_run(run, step, network=self.network).at()
        if run.placement is not self.placement:
            run = dataclasses.replace(run, placement=self.placement)
        scoring.check_reference(self, run)
        return run

    def generate(
        self,
        prompts: Sequence,
        *,
        samples: int | None = None,
        seeds: Sequence[int] | None = None,
        **options,
    ) -> list:
        """A completion of each prompt; the options are those of `sampling.generate`.

        Args:
          samples: of each prompt; then there is a list of so many for each. Sample n of
            every prompt has `seeds[n]`, by default n.

        Raises:
          ConfigError: values that do not fit.
        """
        prompts = reading.listed("prompts", prompts)
        if samples is None:
            return self._generate(prompts, seeds=seeds, **options)
        return reading.several(self._generate, prompts, samples, seeds, **options)

    def _generate(self, prompts: list, **options) -> list:
        with placement.use(self.placement):
            arguments = self.model, self._weights, self.tokenizer
            return sampling.generate(*arguments, prompts, **options)

    def reply(self, dialogues: Sequence, **options) -> list:
        """The next turn of each dialogue, by a model of dialogues.

        A dialogue is a user's message, or turns that end with a user's, each
        `(role, text)` or a message `{"role": ..., "content": ...}`; the options are
        those of `generate`.

        Raises:
          ConfigError: the run did not learn dialogues (`data.chat`).
          DataError: turns that are no prompt.
        """
        prompts = reading.listed("dialogues", dialogues)
        prompts = [self.prompt_ids(dialogue) for dialogue in prompts]
        form = self._reader.format()
        options = {"stop_ids": list(form.stop_ids), **options}
        text = lambda reply: reply._replace(text=form.text(reply.ids))
        replies = self.generate(prompts, **options)
        if options.get("samples") is None:
            return [text(reply) for reply in replies]
        return [[text(reply) for reply in several] for several in replies]

    def prompt_ids(self, dialogue: str | Sequence) -> list[int]:
        """The tokens of a dialogue of `reply`, up to where the reply begins."""
        return self._reader.prompt_ids(dialogue)

    @property
    def _reader(self) -> reading.Reader:
        return reading.Reader(self.path, self.tokenizer, self.chats)

    @functools.cached_property
    def _weights(self) -> dict:
        return self.weights()

    def weights(self, step: int | None = None, *, average: bool = False) -> dict:
        """`params` on the default device, or over the mesh, for `model`.

        Raises:
          CheckpointError: as `params`, or they are not of the model of the config.
          ConfigError: the mesh does not divide them.
        """
        if self.placement is None or average:
            params = self.params(step, average=average)
        else:
            params = trees.nest(self.leaves(step))
        stores.check_params(self.path, params, self.model)
        if self.placement is None:
            return jax.device_put(params)
        return placement.put(trees.named_leaves(params), self.model, self.placement)

    def _from_step(self, step: int | None, read: Callable[[stores.Step], T]) -> T:
        return self.store.from_step(self.step if step is None else step, read)

# SPDX-License-Identifier: Apache-2.0
"""Where a run starts from: another run's model, tokenizer and parameters.

A Hugging Face folder is read as a run of one step.

What a section of the config leaves open is as it was in that run. The digest of the
parameters, not the path, is part of a run's identity, so a run may move.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from alignjax import analysis, errors, models
from alignjax.data.chat import templates
from alignjax.data.tokenizers import base, tokenizer_files
from alignjax.models import decoder_config

# Fields of a model that change how it computes or learns, and not what its parameters
# mean; and those of shapes, which are compared where parameters are read.
_ASIDE = (
    "vocab_size|d_model|layers|heads|kv_heads|head_dim|d_ff|expert_d_ff|max_length|"
    "context|score_heads|init_std|dtype|base|attention|remat|unroll|dropout|"
    "embedding_noise|lora_dropout|router_loss|router_z_loss"
)


class Start(NamedTuple):
    """A run as of one step.

    Attributes:
      run: opened.
      step: the one that its parameters are of.
      digest: of these parameters; equal exactly when they are.
    """

    run: analysis.Run
    step: int
    digest: str


def find(section: Any, path: str) -> Start | None:
    """The run that the section `init` or `reference` names; None if it names none.

    It may be a Hugging Face folder, or `hf:` and a folder or a repository of the hub.

    Raises:
      ConfigError: there is no such run or step.
    """
    if section.run is None:
        return None
    try:
        run = analysis.open_run(section.run, step=section.step)
        meta = run.meta()
        # Named by number, so that all that is read is of one step as it trains on.
        run = run.at(meta["step"])
    except errors.CheckpointError as error:
        raise errors.ConfigError(f"{path}.run: {error}") from error
    except errors.ConfigError as error:
        problems = [f"{path}.run: {problem}" for problem in error.problems]
        raise errors.ConfigError(problems) from error
    return Start(run, meta["step"], run.digest())


def complete(section: Mapping[str, Any], start: Start | None) -> dict[str, Any]:
    """The config's JSON with what `model` leaves open as in the run it starts from.

    Raises:
      ConfigError: another family than that run has, or a size where it has none.
    """
    if start is None:
        return dict(section)
    given = {k: v for k, v in section["model"].items() if v is not None}
    theirs = start.run.config["model"]
    if given.get("family", theirs["family"]) != theirs["family"]:
        raise errors.ConfigError(
            f"model.family: {given['family']!r}, where the parameters of init.run are "
            f"of {theirs['family']!r}; leave model.family and model.name out"
        )
    if "name" in given and theirs.get("name") is None:
        raise errors.ConfigError(
            f"model.name: {given['name']!r}, where the model of init.run is no size "
            "with a name; leave model.family and model.name out"
        )
    return {**section, "model": {**theirs, **given, **_context(theirs, given)}}


def _context(theirs: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`context`, so that training on shorter texts takes nothing from the model."""
    before = _model(theirs)
    longest, length = _longest(before), given.get("max_length", before.max_length)
    stretch = ("rope_scaling", "rope_theta")
    stretched = any(given.get(k, theirs.get(k)) != theirs.get(k) for k in stretch)
    shorter = isinstance(length, int) and length < longest
    kept = before.positions == "rope" and not stretched and shorter
    return {"context": given.get("context") or (longest if kept else None)}


def note(start: Start, c: decoder_config.DecoderConfig) -> str | None:
    """What somebody should know who trains on longer texts than the model has read."""
    before = _model(start.run.config["model"])
    same = before.rope_scaling == c.rope_scaling and before.rope_theta == c.rope_theta
    if not same or c.max_length <= (longest := _longest(before)):
        return None
    return (
        f"model.max_length: {c.max_length:,}, where the model was made for "
        f"{longest:,} tokens; it has to learn to read longer texts"
    )


def _model(section: Mapping[str, Any]) -> decoder_config.DecoderConfig:
    return models.build({**section, "attention": "auto"}, 1).config


def _longest(c: decoder_config.DecoderConfig) -> int:
    return c.context or c.max_length


def load_tokenizer(start: Start) -> base.Tokenizer:
    """The tokenizer of a run, with its start token. Raises ConfigError."""
    try:
        return start.run.store.tokenizer()
    except errors.DataError as error:
        raise errors.ConfigError(f"init.run: {error}") from error


def check_tokenizer(reference: Start, tok: base.Tokenizer) -> None:
    """Raises ConfigError where a reference reads other tokens than the policy.

    Another template, or other stops, change neither tokens nor what they stand for.
    """
    theirs, own = _reading(load_tokenizer(reference)), _reading(tok)
    if theirs != own:
        raise errors.ConfigError(
            f"reference.run: {reference.run.path} has another tokenizer "
            f"({theirs[:12]}, the policy's is {own[:12]}), so its "
            "log-probabilities are of other tokens; name a run of the same tokenizer"
        )


def computing(found: Start, model_config: Any) -> dict[str, Any]:
    """The fields that change what the parameters of a run compute, JSON-able.

    Those of adapters do where the run has some.
    """
    aside = _ASIDE + ("" if found.run.model.config.lora_rank else "|lora_.*")
    fields = dataclasses.asdict(model_config).items()
    return {name: x for name, x in fields if not re.fullmatch(aside, name)}


def check_model(reference: Start, model_config: Any) -> None:
    """Raises ConfigError where a reference's parameters are of another model.

    They would be read as if they were of the policy's, and say what no model says.
    """
    ours = computing(reference, model_config)
    theirs = computing(reference, reference.run.model.config)
    problems = [
        f"reference.run: {reference.run.path} has model.{name} = {theirs[name]!r}, and "
        f"the policy {value!r}; a reference is computed by the policy's model, so name "
        "a run of the same"
        for name, value in ours.items()
        if theirs[name] != value
    ]
    if problems:
        raise errors.ConfigError(problems)


def _reading(tok: base.Tokenizer) -> str:
    """A sha256 of what makes a tokenizer read the tokens that it does."""
    aside = {tokenizer_files.GENERATION, templates.KEPT}
    read = lambda name: name not in aside and not name.startswith("chat_template.")
    files = {name: file for name, file in tok.files.items() if read(name)}
    return tok._replace(files=files).identity

# SPDX-License-Identifier: Apache-2.0
"""A run opened as a model: its parameters, stage and chat format; its responses."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import analysis, errors, sampling, world
from alignjax.data import records
from alignjax.data.chat import dialogues, templates
from alignjax.data.chat import format as chats
from alignjax.data.tokens import tokenizing
from alignjax.world import lexicon, prompts
from alignjax.world.assessment import results

# The world of runs whose source of it names none.
PRESET, SEED = "small", 0
LINEAGE = 100  # runs that a run may descend from, each from the next


class Format(NamedTuple):
    """One way of putting dialogues into tokens.

    Attributes:
      name: "plain", a turn a line, or the name of a chat format.
      prompt: `(turns) -> ids` of all that comes before the assistant's turn.
      response: `(text) -> ids` of a response, with its end.
      stop: ids that end a response.
      text: `(ids) -> text` of a response without its end.
      document: `(text) -> ids` of a document as in pretraining, with start and end.
    """

    name: str
    prompt: Callable[[Sequence[prompts.Turn]], list[int]]
    response: Callable[[str], list[int]]
    stop: tuple[int, ...]
    text: Callable[[Sequence[int]], str]
    document: Callable[[str], Sequence[int]]


class RunModel(NamedTuple):
    """A run opened as a model.

    Attributes:
      name: in results and messages.
      run: as `analysis.open_run` gives it.
      step: of its checkpoint, whose `params` are on the default device.
      format: of its dialogues.
    """

    name: str
    run: analysis.Run
    step: int
    params: Any
    format: Format

    @property
    def stage(self) -> str:
        """ "pretraining", "sft", "reward" or "preference"."""
        return results.stage(self.run.config)

    def check_responds(self, field: str) -> None:
        """Raises ConfigError, which names `field`, for a reward model."""
        if self.stage == "reward":
            raise errors.ConfigError(
                f"{field}: {self.name} is a reward model, which does not respond; name "
                "runs of pretraining, fine-tuning or preferences"
            )

    @property
    def worlds(self) -> list[dict[str, Any]]:
        """The options of the world sources of its data, or of its next ancestor's."""
        return worlds_of(self.run.config)

    @property
    def reference(self) -> tuple[str, int | None] | None:
        """The run and step of a preference run's reference, None for other stages."""
        if self.stage == "preference":
            for section in ("reference", "init"):
                fields = self.run.config.get(section) or {}
                if fields.get("run"):
                    return fields["run"], fields.get("step")
        return None

    @property
    def description(self) -> dict[str, Any]:
        """Where it comes from and how it was trained, as JSON data."""
        objective = self.run.config.get("objective", {})
        fields = [f for f in ("loss", "beta") if objective.get(f) is not None]
        origin = (self.run.config.get("init") or {}).get("run")
        return {
            "path": str(self.run.path),
            "started_from": origin and str(pathlib.Path(origin).absolute()),
            "step": self.step,
            "digest": self.run.digest(self.step),
            "start": self.run.meta(self.step).get("data", {}).get("init"),
            "tokenizer": templates.encoding(self.run.tokenizer),
            "stage": self.stage,
            "reads": self.format.name,
            **{field: objective[field] for field in fields},
        }


def worlds_of(section: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of a config's world sources, or of the next run it descends from.

    Empty where there are none, or where a run on the way is gone.
    """
    for _ in range(LINEAGE):
        sources = (section.get("data") or {}).get("sources") or {}
        own = [s for s in sources.values() if s and s.get("kind") == "world"]
        origin = (section.get("init") or {}).get("run")
        if own or not origin:
            return own
        try:
            section = analysis.open_run(origin).config
        except errors.AlignError:  # it is gone, so nobody knows
            break
    return []


def find_world(
    models: Sequence[RunModel], field: str, stated: tuple[str, int] | None = None
) -> tuple[str, int]:
    """The preset and seed of the world that all models were trained on.

    Args:
      field: the option that names the models, for errors.
      stated: that of models whose config does not tell.

    Raises:
      ConfigError: they are of different worlds, or of none that is known.
    """
    names: dict[tuple[str, int], list[str]] = {stated: ["--world"]} if stated else {}
    for model in models:
        for s in model.worlds:
            key = s.get("preset") or PRESET, s.get("seed") or SEED
            names.setdefault(key, []).append(model.name)
        if not (stated or model.worlds):
            raise errors.ConfigError(
                f"{field}: neither the data of {model.name} nor those of the runs it "
                "started from have a source of kind 'world'; if it has learned one "
                "otherwise, name that with --world"
            )
    if len(names) > 1:
        each = (
            f"{preset}:{n} is that of {', '.join(names[preset, n])}"
            for preset, n in names
        )
        raise errors.ConfigError(
            f"{field}: these are of different worlds: {'; '.join(each)}"
        )
    ((world_of_all, _),) = names.items()
    return world_of_all


def add_world_option(parser: argparse.ArgumentParser) -> None:
    """`--world`, which `find_world` takes as stated."""
    text = "of runs whose config names no world"
    parser.add_argument(
        "--world", type=_parse_world, metavar="PRESET[:SEED]", help=text
    )


def _parse_world(text: str) -> tuple[str, int]:
    preset, _, seed = text.partition(":")
    if preset not in lexicon.LEXICONS or not (seed or "0").isdecimal():
        presets = ", ".join(lexicon.LEXICONS)
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is not PRESET[:SEED]; presets: {presets}"
        )
    return preset, int(seed or 0)


def check_reads(
    model: RunModel, rows: Iterable[Sequence[int]], what: str, room: int = 0
) -> None:
    """Raises ConfigError for a model that cannot read some rows of tokens.

    Args:
      what: the rows are, for the message.
      room: further tokens that its context must have.
    """
    limit, unknown = model.run.model.config.max_length, model.run.tokenizer.unknown_id
    for ids in rows:
        if len(ids) + room > limit:
            raise errors.ConfigError(
                f"run: {model.name} has a context of {limit} tokens, and {what} of "
                f"this world take {len(ids) + room}, so it cannot be measured on it"
            )
        if unknown is not None and unknown in ids:
            raise errors.ConfigError(
                f"run: the tokenizer of {model.name} has no tokens for all of the "
                f"{what} of this world, so it cannot be measured on it"
            )


def open_model(
    name: str, path: str, step: int | None = None, *, network: bool = False
) -> RunModel:
    """The run at `path` as of `step`, by default of its newest checkpoint.

    Raises:
      CheckpointError: no such run or step.
      ConfigError: its model or tokenizer cannot be used here.
    """
    run = analysis.open_run(path, step, network=network)
    step = run.meta()["step"] if step is None else step
    return RunModel(name, run, step, run.weights(step), run_format(run))


def run_format(run: Any) -> Format:
    """The format of an `analysis.Run`: that of its chats, or else plain text.

    Raises:
      ConfigError: the tokenizer has no token for the end of a line.
    """
    name = run.config.get("data", {}).get("chat")
    return chat(run.tokenizer, name) if name else plain(run.tokenizer)


def plain(tokenizer: Any) -> Format:
    """`prompts.render_prompt`, then the response and the end of the line."""
    newline, bos = tokenizer.encode("\n"), tokenizer.bos_id is not None
    if len(newline) != 1:
        raise errors.ConfigError(
            f"this tokenizer writes the end of a line as {len(newline)} tokens, and a "
            "response in plain text ends there; use one with a token for it"
        )
    ends = {*newline} | ({tokenizer.eos_id} - {None})

    def document(text: str) -> list[int]:
        texts = [records.Text(text)]
        (tokens,) = tokenizing.tokenize_text(tokenizer, texts, bos=bos)
        return list(map(int, tokens.ids))

    return Format(
        "plain",
        prompt=lambda ask: sampling.encode(tokenizer, prompts.render_prompt(ask)),
        # After "assistant:" comes a space; text and the line's end are apart.
        response=lambda text: tokenizer.encode(f" {text}") + newline,
        stop=tuple(sorted(ends)),
        text=lambda ids: tokenizer.decode(ids).strip(),
        document=document,
    )


def chat(tokenizer: Any, name: str) -> Format:
    """The chat format `name`; see `data.chat`."""
    form, bos = chats.of(tokenizer, name), tokenizer.bos_id is not None

    def document(text: str) -> list[int]:
        rows = [world.as_chat(records.Text(text))]
        (tokens,) = dialogues.tokenize_everything(tokenizer, rows, format=name, bos=bos)
        return list(map(int, tokens.ids))

    return Format(
        name,
        prompt=lambda dialogue: form.prompt_ids(dialogue, bos),
        response=form.response_ids,
        stop=form.stop_ids,
        text=form.text,
        document=document,
    )


# Rows that are sampled at one time; all batches but the last one have as many.
BATCH = 128


class Response(NamedTuple):
    """A response of a model.

    Attributes:
      text: without its end.
      tokens: the number of tokens, its end included.
      finished: whether it ended by itself.
      reward: its score, such as a `world.Reward`; None if it was not scored.
      prompt_ids, ids: tokens of the prompt and of the response, its end included; empty
        if the response comes from a file.
    """

    text: str
    tokens: int
    finished: bool
    reward: Any = None
    prompt_ids: list[int] = []  # noqa: RUF012, never written to
    ids: list[int] = []  # noqa: RUF012

    def as_json(self) -> dict[str, Any]:
        """Its fields in the file of results."""
        fields = {n: getattr(self, n) for n in ("text", "tokens", "finished")}
        return fields | {"gold": self.reward.total, "tag": self.reward.tag}


def sample(
    model: RunModel,
    prompts: Sequence[Any],
    *,
    length: int,
    temperature: float = 1.0,
    seed: int = 0,
    score: Callable[..., Any] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Response]:
    """One response to every prompt; prompt i has a random stream of its own.

    The same prompts with the same seed give the same responses, whatever the batches.

    Args:
      prompts: objects with `turns`, such as `world.Prompt`.
      length: most tokens of a response.
      temperature: 0 is greedy; equal prompts are then answered once.
      score: `(prompt, text, *, finished) -> reward`; None for no rewards.
      progress: called with the number of prompts that are answered, now and then.

    Raises:
      ConfigError: a prompt that, with a response, is longer than the model's context.
    """
    rows = [tuple(model.format.prompt(prompt.turns)) for prompt in prompts]
    pairs = list(zip(rows, keys(seed, len(rows), temperature), strict=True))
    # Long prompts last: batches then differ little in length.
    queue = sorted(dict.fromkeys(pairs), key=lambda pair: (len(pair[0]), pair))
    completions: dict[Any, Any] = {}
    for start in range(0, len(queue), BATCH):
        batch = queue[start : start + BATCH]
        completed = sampling.generate(
            *(model.run.model, model.params, model.run.tokenizer),
            [list(row) for row, _ in batch],
            seeds=[row_seed for _, row_seed in batch],
            max_tokens=length,
            temperature=temperature,
            stop_ids=model.format.stop,
            batch_size=BATCH,
        )
        completions |= dict(zip(batch, completed, strict=True))
        progress(sum(pair in completions for pair in pairs))
    responses = []
    for prompt, pair in zip(prompts, pairs, strict=True):
        prompt_ids, ids = completions[pair].prompt_ids, completions[pair].ids
        finished = completions[pair].finish_reason != "length"
        text = model.format.text(ids[:-1] if finished else ids)
        reward = score and score(prompt, text, finished=finished)
        responses.append(Response(text, len(ids), finished, reward, prompt_ids, ids))
    return responses


def keys(seed: int, count: int, temperature: float) -> list[int]:
    """The seed of each of `count` responses; 0 where they are greedy."""
    if temperature == 0:
        return [0] * count
    return np.random.default_rng(seed).integers(1 << 32, size=count).tolist()


def rescored(prompt: world.Prompt, fields: Mapping[str, Any]) -> Response:
    """The response to `prompt` that `Response.as_json` gave, scored again."""
    text, tokens, finished = fields["text"], fields["tokens"], fields["finished"]
    reward = world.gold_reward(prompt, text, finished=finished)
    return Response(text, tokens, finished, reward)

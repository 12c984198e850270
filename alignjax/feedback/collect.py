# SPDX-License-Identifier: Apache-2.0
r"""Samples responses of models and labels pairs of them, or keeps the best, as JSONL.

    alignjax collect --out=runs/pairs.jsonl --pairs=4000 \
        --source=runs/sft --source=runs/sft:1.3 --source=runs/pretrain

`DIR:TEMPERATURE` is a run and its temperature of sampling, 1 by default. Every pair has
responses of two sources to one prompt of the embedded world's split "prompts", which
has nothing that is reserved for evaluation. Preferences over a model's own responses
teach it more than those over responses of others. `--labeler` is one of the world's, or
`module:function`, a `(prompt, responses) -> Preference`. A line of the file is read by
`format="preference"`. Where no pair is left, nothing is written (exit code 65).

`--keep=best` instead samples `--samples` responses of one source to each prompt and
keeps the best by `--reward` (best-of-n, RAFT), `--keep=above` all that reach
`--threshold` (rejection sampling); a line is read by `format="messages"`, to fine-tune
on:

    alignjax collect --out=runs/best.jsonl --keep=best --samples=8 --reward=world \
        --source=runs/sft --prompts=1000

`--reward` is "world", the directory of a reward model's run, another kind of
`rollouts.rewards` without options, or `module:function`, a `(prompt, response, record)
-> number`. `--prompts` is a number of the world's, or a JSONL file with `prompt` or
`messages`, whose other columns are the reward's `record`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import cli, errors, registry, rewards, world
from alignjax.feedback import best
from alignjax.storage import atomic
from alignjax.tracking import progress
from alignjax.world import examples, labelers
from alignjax.world.assessment import run_models

LENGTH = 48  # most tokens of a response; a right one has fewer
PROMPTS = 1000  # of the world, with --keep


class Source(NamedTuple):
    """A run and the temperature at which it is sampled."""

    path: str
    temperature: float

    def __str__(self) -> str:
        return f"{self.path}:{self.temperature:g}"


class Preference(NamedTuple):
    """A labeler's judgement of several responses to a prompt.

    Attributes:
      order: indices of the responses, the best first.
      values: further columns of the row, JSON data: "reward", the true reward of each
        response in this order; "probability", of this order.
    """

    order: Sequence[int]
    values: Mapping[str, Any] = {}


# `(prompt, responses)`: an object with `turns`, and their texts.
Labeler = Callable[[Any, Sequence[str]], Preference]


def world_labeler(name: str, rng: random.Random) -> Labeler:
    """The world's labeler `name`, whose noise comes from `rng`."""

    def label(prompt: world.Prompt, responses: Sequence[str]) -> Preference:
        pair = examples.choose(rng, name, prompt, *responses)
        best = list(responses).index(pair.chosen)
        rewards = [round(reward, 2) for reward in pair.rewards]
        values = {"reward": rewards, "probability": round(pair.probability, 6)}
        return Preference((best, 1 - best), values)

    return label


def find_labeler(name: str, rng: random.Random) -> Labeler:
    """The labeler of the world, or of a user's module, that is called `name`.

    Raises:
      ConfigError: no such labeler.
    """
    if name in labelers.LABELERS:
        return world_labeler(name, rng)
    if ":" not in name:
        remedy = registry.closest(name, labelers.LABELERS)
        raise errors.ConfigError(f"labeler: unknown {name!r}; {remedy}")
    try:
        return registry.Registry("labeler").find(name)
    except ValueError as error:
        raise errors.ConfigError(f"labeler: {error}") from error


def world_prompts(
    models: Sequence[run_models.RunModel],
    count: int,
    stated: tuple[str, int] | None = None,
):
    """`count` prompts of the world that these models were trained on, or the stated.

    Raises:
      ConfigError: they were trained on none, or on several.
    """
    town = world.build(*run_models.find_world(models, "source", stated))
    return [examples.read(town, "prompts", i) for i in range(count)]


def open_sources(
    sources: Sequence[Source], *, network: bool = False
) -> list[run_models.RunModel]:
    """The models of the sources, each run opened once.

    Raises:
      ConfigError: fewer than two sources, or reward models.
      CheckpointError: a run that cannot be read.
    """
    if len(set(sources)) < 2:
        raise errors.ConfigError("source: give two or more that differ")
    models = {
        s.path: run_models.open_model(s.path, s.path, network=network) for s in sources
    }
    for model in models.values():
        model.check_responds("source")
    return [models[source.path] for source in sources]


def collect(
    sources: Sequence[Source],
    models: Sequence[run_models.RunModel],
    prompts: Sequence[Any],
    labeler: Labeler,
    rng: random.Random,
    *,
    seed: int,
    terminal: progress.Terminal,
) -> tuple[list[dict[str, Any]], str]:
    """Samples a response of two sources to each prompt, and labels the pairs.

    Args:
      sources: at least two, each with its one of `models`.
      prompts: objects with `turns`, such as `world.Prompt`.
      labeler: called for each pair that can be compared.
      rng: decides which two sources respond to a prompt.
      seed: of sampling.

    Returns:
      The rows, and a line on what became of the prompts.
    """
    drawn = [rng.sample(range(len(sources)), 2) for _ in prompts]
    responses: dict[tuple[int, int], run_models.Response] = {}
    for number, (source, model) in enumerate(zip(sources, models, strict=True)):
        indices = [i for i, two in enumerate(drawn) if number in two]
        name, count = str(source), f"{len(indices):,} responses"

        def show(done: int, name=name, count=count) -> None:
            terminal.show(f"{name}: {done:,} of {count}")

        sampled = run_models.sample(
            model,
            [prompts[i] for i in indices],
            length=LENGTH,
            temperature=source.temperature,
            seed=seed + number,
            progress=show,
        )
        keys = [(i, number) for i in indices]
        responses |= dict(zip(keys, sampled, strict=True))
        terminal.say(f"{source}: {count}")
    return label(prompts, drawn, responses, sources, labeler)


def label(
    prompts: Sequence[Any],
    drawn: Sequence[Sequence[int]],
    responses: Mapping[tuple[int, int], run_models.Response],
    sources: Sequence[Source],
    labeler: Labeler,
) -> tuple[list[dict[str, Any]], str]:
    """The rows of the pairs that can be compared; see `collect`.

    Args:
      drawn: the numbers of the two sources of each prompt.
      responses: by the indices of prompt and source.
    """
    rows, equal, unfinished, right = [], 0, 0, 0
    for i, prompt in enumerate(prompts):
        pair = [responses[i, number] for number in drawn[i]]
        if not all(response.finished and response.text.strip() for response in pair):
            unfinished += 1
            continue
        if pair[0].text == pair[1].text:
            equal += 1
            continue
        preference = labeler(prompt, [response.text for response in pair])
        best, worst = preference.order
        rewards = preference.values.get("reward")
        right += rewards is not None and rewards[0] >= rewards[1]
        rows.append(
            {
                "prompt": [{"role": r, "content": text} for r, text in prompt.turns],
                "chosen": pair[best].text,
                "rejected": pair[worst].text,
                **preference.values,
                "sources": [str(sources[drawn[i][k]]) for k in (best, worst)],
            }
        )
    line = (
        f"{len(rows):,} pairs of {len(prompts):,} prompts; left out: {equal:,} with "
        f"equal responses, {unfinished:,} with one that did not end or was empty"
    )
    if rows and "reward" in rows[0]:
        share = right / len(rows)
        line += f"; the chosen one has no lower true reward in {share:.1%}"
    return rows, line


def collect_best(
    source: Source,
    model: run_models.RunModel,
    prompts: Sequence[best.Prompt],
    reward: rewards.Reward,
    *,
    samples: int,
    threshold: float | None,
    length: int,
    seed: int,
    terminal: progress.Terminal,
) -> best.Kept:
    """Samples several responses to each prompt and keeps the best; see `best.keep`."""
    name, count = str(source), len(prompts) * samples

    def show(done: int) -> None:
        terminal.show(f"{name}: {done:,} of {count:,} responses")

    responses = run_models.sample(
        model,
        [prompt for prompt in prompts for _ in range(samples)],
        length=length,
        temperature=source.temperature,
        seed=seed,
        progress=show,
    )
    terminal.say(f"{name}: {count:,} responses; rewards")
    return best.keep(prompts, responses, reward, length=length, threshold=threshold)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("collect", __doc__)
    add = out.add_argument
    add("--out", required=True, metavar="FILE", help="the pairs or dialogues, JSONL")
    add(
        "--source",
        action="append",
        default=[],
        type=parse_source,
        metavar="DIR[:TEMPERATURE]",
        help="a run that responds; give two or more, with --keep one",
    )
    add("--pairs", type=int, help="number of prompts (4000)")
    names = f"{', '.join(labelers.LABELERS)}, or module:function (clean)"
    add("--labeler", metavar="NAME", help=names)
    add("--keep", choices=("best", "above"), help="dialogues instead of pairs")
    add("--samples", type=int, metavar="N", help="responses to a prompt, with --keep")
    add("--reward", metavar="NAME", help="what the best is by, with --keep")
    add("--threshold", type=float, help="the least reward, with --keep=above")
    add("--prompts", metavar="COUNT|FILE", help=f"with --keep ({PROMPTS})")
    add("--max_tokens", type=int, help=f"of a response, with --keep ({LENGTH})")
    add("--seed", type=int, default=0, help="of responses and labels (%(default)s)")
    run_models.add_world_option(out)
    cli.add_run_options(out)
    return out


def parse_source(text: str) -> Source:
    """`DIR` or `DIR:TEMPERATURE`.

    Raises:
      ArgumentTypeError: the temperature is no number.
    """
    path, colon, temperature = text.rpartition(":")
    colon = colon if path != "hf" else ""  # of a repository, hf:OWNER/NAME
    try:
        return Source(path, float(temperature)) if colon else Source(text, 1.0)
    except ValueError as error:
        problem = f"{text!r} is not DIR or DIR:TEMPERATURE"
        raise argparse.ArgumentTypeError(problem) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)

    def collect_and_write() -> None:
        cli.keep_programs(options.cache_dir)
        out = cli.output(options.out)
        if problems := _problems(options):
            raise errors.ConfigError(problems)
        with contextlib.closing(progress.Terminal()) as terminal:
            if options.keep is None:
                rows, line, remedy = _pairs(options, terminal)
            else:
                rows, line, remedy = _dialogues(options, terminal)
        if not rows:
            raise errors.DataError(f"{out}: not written, as {line}; {remedy}")
        atomic.write(out, "".join(json.dumps(row) + "\n" for row in rows))
        print(f"{out}: {line}")

    return cli.exit_code(collect_and_write)


def _problems(options: argparse.Namespace) -> list[str]:
    """What is wrong with the options, before a run is opened."""
    own = {"keep": ("samples", "reward", "threshold", "prompts", "max_tokens")}
    own["no keep"] = ("pairs", "labeler")
    other = own["keep" if options.keep is None else "no keep"]
    where = "without --keep" if options.keep is None else "with --keep"
    problems = [
        f"{name}: {value} has no effect {where}; leave it out"
        for name in other
        if (value := getattr(options, name)) is not None
    ]
    counts = {"pairs": 1, "samples": 2, "max_tokens": 1}
    problems += [
        f"{name}: {value} must be at least {least}"
        for name, least in counts.items()
        if (value := getattr(options, name)) is not None and value < least
    ]
    if not 0 <= options.seed < 2**32:
        problems.append(f"seed: {options.seed} is not from 0 to 2^32 - 1")
    if options.keep is None:
        return problems
    if len(options.source) != 1:
        problems.append(f"source: {len(options.source)} given; --keep takes one")
    if options.reward is None:
        problems.append('reward: required with --keep, such as "world"')
    if (options.threshold is None) == (options.keep == "above"):
        remedy = "required with --keep=above, and of no effect with --keep=best"
        problems.append(f"threshold: {options.threshold}; {remedy}")
    if options.threshold is not None and not math.isfinite(options.threshold):
        problems.append(f"threshold: {options.threshold} is not finite")
    # All samples of a prompt would be one text.
    problems += [
        f"source: {source} is greedy, and --keep chooses among samples; name a "
        "temperature above 0"
        for source in options.source
        if source.temperature == 0
    ]
    count = options.prompts
    if count is not None and not count.strip():
        problems.append("prompts: empty; give a number or a file")
    if count and count.removeprefix("-").isdecimal() and int(count) < 1:
        problems.append(f"prompts: {count} must be at least 1")
    return problems


def _pairs(options: argparse.Namespace, terminal: progress.Terminal):
    """Rows of pairs, a line on them, and what to do where there are none."""
    name, count = options.labeler or "clean", options.pairs or 4000
    # Seeded by no path: runs may move.
    rng = random.Random(f"{options.seed} {name} {len(options.source)}")
    labeler = find_labeler(name, rng)
    models = open_sources(options.source, network=options.network)
    prompts = world_prompts(models, count, options.world)
    rows, line = collect(
        *(options.source, models, prompts, labeler, rng),
        seed=options.seed,
        terminal=terminal,
    )
    remedy = "give more --pairs, or sources that differ more and end their responses"
    return rows, f"no pair is left: {line}" if not rows else line, remedy


def _dialogues(options: argparse.Namespace, terminal: progress.Terminal):
    """The same of the best responses."""
    (source,) = options.source
    reward = best.reward_of(options.reward)
    model = run_models.open_model(source.path, source.path, network=options.network)
    model.check_responds("source")
    length = options.max_tokens or LENGTH
    asked, room = options.prompts or str(PROMPTS), _room(model, length)
    if asked.isdecimal():
        texts = world_prompts([model], int(asked), options.world)
        places = ((f"prompt {i} of the world", x) for i, x in enumerate(texts))
        prompts = best.checked(places, model.format.prompt, room)
    else:
        prompts = best.prompts_of(asked, model.format.prompt, room)
    kept = collect_best(
        *(source, model, prompts, reward),
        samples=options.samples or 8,
        threshold=options.threshold,
        length=length,
        seed=options.seed,
        terminal=terminal,
    )
    remedy = "lower --threshold, or raise --samples or --max_tokens"
    return kept.rows, kept.line, remedy


def _room(model: run_models.RunModel, length: int) -> int:
    """The most tokens of a prompt beside a response; ConfigError where there is none.

    Beyond `short_length` longrope has other frequencies, which sampling refuses; the
    last token of a response is never read.
    """
    own = model.run.model.config
    limits = [own.max_length]
    limits += [] if own.short_length is None else [own.short_length + 1]
    if (room := min(limits) - length) < 1:
        raise errors.ConfigError(
            f"max_tokens: {length} leaves no room for a prompt in the {min(limits)} "
            "tokens of the model's context; lower it"
        )
    return room


if __name__ == "__main__":
    sys.exit(main())

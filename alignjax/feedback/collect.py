# SPDX-License-Identifier: Apache-2.0
r"""Pairs of replies by models of the embedded world, as a labeler sorts them: JSONL.

    python -m alignjax.feedback.collect --out=runs/pairs.jsonl --pairs=4000 \
        --source=runs/sft --source=runs/sft:1.3 --source=runs/pretrain

`DIR:TEMPERATURE` is a run and how it is sampled, at 1 where it is not said. Every pair
has replies of two sources to one prompt of the split "prompts", which has nothing that
is kept for evaluation. Preferences over what a policy says itself teach it more than
those over replies from elsewhere. A line is read by `format="preference"`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import pathlib
import random
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from alignjax import cli, errors, registry, world
from alignjax.experiment import sections
from alignjax.storage import atomic
from alignjax.tracking import progress
from alignjax.world import examples, labelers, views
from alignjax.world.assessment import answers, subject

LENGTH = 48  # tokens of a reply at most; a right one has fewer


class Source(NamedTuple):
    """A run and the temperature at which it is sampled."""

    path: str
    temperature: float

    def __str__(self) -> str:
        return f"{self.path}:{self.temperature:g}"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = argparse.ArgumentParser(
        prog="python -m alignjax.feedback.collect",
        description=__doc__.partition("\n\n    ")[0],
        allow_abbrev=False,
    )
    add = out.add_argument
    add("--out", required=True, metavar="FILE", help="the pairs, JSONL")
    add(
        "--source",
        action="append",
        default=[],
        type=source,
        metavar="DIR[:TEMPERATURE]",
        help="a run that replies; give two or more",
    )
    add("--pairs", type=int, default=4000, help="prompts (%(default)s)")
    add("--labeler", default="clean", help="who chooses (%(default)s)")
    add("--seed", type=int, default=0, help="of replies and choices (%(default)s)")
    add("--cache_dir", default=sections.CACHE_DIR, help="(%(default)s)")
    return out


def source(text: str) -> Source:
    """`DIR` or `DIR:TEMPERATURE`."""
    path, colon, temperature = text.rpartition(":")
    if not colon:
        return Source(text, 1.0)
    try:
        return Source(path, float(temperature))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not DIR or DIR:TEMPERATURE"
        ) from error


def collect(
    sources: Sequence[Source],
    *,
    pairs: int,
    labeler: str,
    seed: int,
    terminal: progress.Terminal,
) -> tuple[list[dict[str, Any]], str]:
    """The rows, and a line on what became of the prompts.

    Raises:
      ConfigError: fewer than two sources, an unknown labeler, reward models, or runs
        that no world has trained.
      CheckpointError: a run that cannot be read.
    """
    if len(set(sources)) < 2:
        raise errors.ConfigError("source: give two or more that differ")
    if labeler not in labelers.LABELERS:
        remedy = registry.closest(labeler, labelers.LABELERS)
        raise errors.ConfigError(f"labeler: unknown {labeler!r}; {remedy}")
    if pairs < 1:
        raise errors.ConfigError(f"pairs: {pairs} must be at least 1")
    opened = {s.path: subject.open_subject(s.path, s.path) for s in sources}
    if silent := [path for path, one in opened.items() if one.stage == "reward"]:
        raise errors.ConfigError(
            f"source: {', '.join(silent)} is a reward model, which does not reply; "
            "name runs of pretraining, fine-tuning or preferences"
        )
    section = opened[sources[0].path].world
    if not section:
        raise errors.ConfigError(f"source: {sources[0].path} knows no world")
    town = world.build(section.get("preset") or "small", section.get("seed") or 0)
    view = views.VIEWS["prompts"]
    asked = [
        view.record(view.example(town, "prompts", i), "clean") for i in range(pairs)
    ]
    rng = random.Random(f"{seed} {labeler} {len(sources)}")  # of no paths: they move
    drawn = [rng.sample(range(len(sources)), 2) for _ in asked]
    said: dict[tuple[int, int], answers.Answer] = {}
    for number, chosen in enumerate(sources):
        mine = [i for i, two in enumerate(drawn) if number in two]
        replying = opened[chosen.path]
        found = answers.answer(
            replying.run,
            replying.params,
            replying.format,
            [asked[i] for i in mine],
            length=LENGTH,
            temperature=chosen.temperature,
            seed=seed + number,
            tell=functools.partial(_tell, terminal, str(chosen), len(mine)),
        )
        said |= {(i, number): reply for i, reply in zip(mine, found, strict=True)}
        terminal.say(f"{chosen}: {len(mine):,} replies")
    return _choose(asked, drawn, said, sources, labeler, rng)


def _tell(terminal: progress.Terminal, name: str, total: int, done: int) -> None:
    terminal.show(lambda width: f"{name}: {done:,} of {total:,} replies"[:width])


def _choose(asked, drawn, said, sources, labeler, rng):
    """The rows of the pairs that there is something to choose in."""
    rows, equal, unfinished, right = [], 0, 0, 0
    for i, prompt in enumerate(asked):
        two = [said[i, number] for number in drawn[i]]
        if not all(reply.finished and reply.text.strip() for reply in two):
            unfinished += 1
            continue
        if two[0].text == two[1].text:
            equal += 1
            continue
        pair = examples.choose(rng, labeler, prompt, *(r.text for r in two))
        by_text = {said[i, n].text: str(sources[n]) for n in drawn[i]}
        right += pair.rewards[0] >= pair.rewards[1]
        turns = [{"role": role, "content": text} for role, text in prompt.turns]
        rows.append(
            {
                "prompt": turns,
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                "reward": [round(reward, 2) for reward in pair.rewards],
                "probability": round(pair.probability, 6),
                "sources": [by_text[pair.chosen], by_text[pair.rejected]],
            }
        )
    told = (
        f"{len(rows):,} pairs of {len(asked):,} prompts; left out: {equal:,} with "
        f"equal replies, {unfinished:,} with one that did not end or was empty; the "
        f"chosen one is no worse than the other in {right / max(1, len(rows)):.1%}"
    )
    return rows, told


def write(rows: Sequence[dict[str, Any]], out: pathlib.Path) -> None:
    """The rows to a file, whole or not at all."""
    atomic.write(out, "".join(json.dumps(row) + "\n" for row in rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    terminal = progress.Terminal()

    def collect_and_write() -> None:
        cli.keep_programs(options.cache_dir)
        out = cli.output(options.out)
        with contextlib.closing(terminal):
            rows, told = collect(
                options.source,
                pairs=options.pairs,
                labeler=options.labeler,
                seed=options.seed,
                terminal=terminal,
            )
        write(rows, out)
        terminal.say(f"{out}: {told}")

    return cli.exit_code(collect_and_write)


if __name__ == "__main__":
    sys.exit(main())

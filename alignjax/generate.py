# SPDX-License-Identifier: Apache-2.0
r"""Completes prompts with the model of a run, or holds a dialogue with it.

    alignjax generate --run=runs/world --prompt="Once upon a time"
    alignjax generate --run=DIR --prompt=A --prompt=B --samples=4 --json
    alignjax generate --run=runs/world --interactive

`--run` is the workdir of a run, also of one that still trains, or a Hugging Face
folder. Where the run learned dialogues a prompt is a user's turn, unless `--plain`;
elsewhere it is a text to continue. Sample n of every prompt has the seed `--seed` + n,
so the same command writes the same text, and the samples of one prompt do not depend on
the other prompts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from alignjax import analysis, cli, errors, sampling
from alignjax.data.chat import format

# Tokens of a response where `--max_tokens` is not given and as many fit.
MAX_TOKENS = 128


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("generate", __doc__)
    add = out.add_argument
    add("--run", required=True, metavar="DIR", help="the workdir of a run")
    add("--step", type=int, help="of the checkpoint; by default the newest sound one")
    add("--network", action="store_true", help=cli.NETWORK)
    add("--average", action="store_true", help="use the moving average of the weights")
    add("--prompt", action="append", default=[], help="to complete; repeatable")
    add("--plain", action="store_true", help="continue the text itself: no dialogue")
    add("--interactive", action="store_true", help="read prompts line by line")
    add("--samples", type=int, default=1, help="completions of each prompt")
    add("--max_tokens", type=int, help=f"by default {MAX_TOKENS}, or what fits")
    add("--temperature", type=float, default=1.0, help="0 is greedy")
    add("--top_k", type=int, help="draw from the k most probable tokens")
    add("--top_p", type=float, help="draw from the most probable tokens of mass p")
    add("--min_p", type=float, help="drop tokens below min_p x the best one's chance")
    add("--stop", action="append", default=[], help="end before this text; repeatable")
    add("--seed", type=int, default=0, help="of the first sample of each prompt")
    add("--json", action="store_true", help="an object a line, with every log-prob")
    return out


def run(options: argparse.Namespace) -> None:
    """Opens the run and prints what the options ask for.

    Raises:
      ConfigError: options that do not fit each other or the model.
      CheckpointError: no such run or step, or a broken one.
    """
    if options.interactive == bool(options.prompt):
        raise errors.ConfigError("prompt: give --prompt or --interactive, one of them")
    if options.interactive and (options.json or options.samples != 1):
        raise errors.ConfigError("interactive: goes with neither --json nor --samples")
    if options.samples < 1:
        raise errors.ConfigError(f"samples: {options.samples} is not 1 or more")
    opened = analysis.open_run(options.run, options.step, network=options.network)
    params = jax.device_put(opened.params(average=options.average))
    sampler = Sampler(opened, params, bool(opened.chats and not options.plain), options)
    if options.interactive:
        _converse(sampler, options)
    else:
        _complete(sampler, options)


class Sampler(NamedTuple):
    """An opened run, its parameters, whether it is used for dialogues, and how."""

    run: analysis.Run
    params: dict
    dialogues: bool
    options: argparse.Namespace

    @property
    def arguments(self) -> tuple:
        """Those that `sampling.generate` and `sampling.stream` take first."""
        return self.run.model, self.params, self.run.tokenizer

    def prompt(self, text: Any) -> str | list[int]:
        """A prompt of `sampling.generate`, of a text or of the turns of a dialogue."""
        return self.run.prompt_ids(text) if self.dialogues else text

    def settings(self, prompts: Sequence) -> dict[str, Any]:
        """Keyword arguments of `sampling.generate` and `sampling.stream` alike."""
        names = ("temperature", "top_k", "top_p", "min_p", "stop", "max_tokens")
        settings = {name: getattr(self.options, name) for name in names}
        model, _, tokenizer = self.arguments
        if settings["max_tokens"] is None:
            room = 0
            with contextlib.suppress(ValueError):  # sampling reports what is wrong
                ids = [
                    sampling.encode(tokenizer, p) if isinstance(p, str) else p
                    for p in prompts
                ]
                room = model.config.max_length - max(map(len, ids))
            settings["max_tokens"] = min(room, MAX_TOKENS) if room > 0 else MAX_TOKENS
        if self.dialogues:
            form = format.of(tokenizer, self.run.chats)
            settings["stop_ids"] = list(form.stop_ids)
        return settings


def _complete(sampler: Sampler, options) -> None:
    """Every sample of every prompt, in one call, so in few batches."""
    count = options.samples
    texts = [prompt for prompt in options.prompt for _ in range(count)]
    seeds = [options.seed + n for n in range(count)] * len(options.prompt)
    prompts = [sampler.prompt(text) for text in texts]
    settings = sampler.settings(prompts) | {"seeds": seeds}
    completions = sampling.generate(*sampler.arguments, prompts, **settings)
    rows = zip(texts, seeds, completions, strict=True)
    for i, (prompt, seed, completion) in enumerate(rows):
        if options.json:
            fields = {"prompt": prompt, "seed": seed, **completion._asdict()}
            print(json.dumps(fields, allow_nan=False, default=lambda x: x.tolist()))
            continue
        if len(prompts) > 1:
            ended, length = completion.finish_reason, len(completion.ids)
            where = f"prompt {1 + i // count} of {len(options.prompt)}, seed {seed}"
            print(f"--- {where}: {length} tokens, {ended}")
        if sampler.dialogues:
            print(f"user: {prompt}\nassistant: {completion.text.strip()}")
        else:
            print(prompt + completion.text)


def _converse(sampler: Sampler, options) -> None:
    """Reads prompts until the end of input; Ctrl-C ends the text, not the command."""
    with contextlib.suppress(ImportError):  # not on every platform
        import readline  # noqa: F401  gives `input` a history
    print(r"A line is a prompt, \n in it a new line; Ctrl-C stops, Ctrl-D leaves.")
    if sampler.dialogues:
        print("The dialogue goes on from line to line; an empty one begins another.")
    turns: list[tuple[str, str]] = []
    for turn, line in enumerate(_lines()):
        reply, line = "", line.replace(r"\n", "\n")
        if sampler.dialogues and not line.strip():
            turns = []
            continue
        try:
            if sampler.dialogues:
                turns.append((format.USER, line))
            prompt = sampler.prompt(tuple(turns) or line)
            settings = sampler.settings([prompt]) | {"seed": options.seed + turn}
            for piece in sampling.stream(*sampler.arguments, prompt, **settings):
                print(piece, end="", flush=True)
                reply += piece
        except (errors.ConfigError, errors.DataError) as error:
            print(error, end="")
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        print()
        if sampler.dialogues and reply.strip():
            turns.append((format.ASSISTANT, reply.strip()))
        elif turns:  # a turn without a reply is not part of the dialogue
            turns.pop()


def _lines() -> Iterator[str]:
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # terminals that are not UTF-8
    return cli.exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())

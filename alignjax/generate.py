# SPDX-License-Identifier: Apache-2.0
r"""Completes prompts with the model of a run, or holds a dialogue with it.

    alignjax generate --run=runs/world --prompt="Once upon a time"
    alignjax generate --run=DIR --prompt=A --prompt=B --samples=4 --json
    alignjax generate --run=DIR --prompts=questions.jsonl --json > answers.jsonl
    alignjax generate --run=runs/world --interactive

`--run` is the workdir of a run, also of one that still trains, or a Hugging Face
folder. Where the run learned dialogues a prompt is a user's turn, unless `--plain`;
elsewhere it is a text to continue. `--prompts` has one in each line of a .txt file, or
in each row of JSON lines or Parquet, as `prompt` or as `messages`. Sample n of every
prompt has the seed `--seed` + n, so the same command writes the same text, and the
samples of one prompt do not depend on the other prompts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from alignjax import analysis, cli, errors, sampling
from alignjax.data import formats, messages, records, sources
from alignjax.data.chat import format

# Tokens of a response where `--max_tokens` is not given and as many fit.
MAX_TOKENS = 128
MAX_SAMPLES = 100_000  # of a prompt; all are in memory at once
BLOCK = 256  # prompts that are completed, then printed


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("generate", __doc__)
    cli.add_step_options(out)
    add = out.add_argument
    add("--prompt", action="append", default=[], help="to complete; repeatable")
    add("--prompts", metavar="FILE", help="prompts to complete, one a line or row")
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
    if options.interactive == bool(options.prompt or options.prompts):
        raise errors.ConfigError(
            "prompt: give --prompt or --interactive, one of them; --prompts=FILE is as "
            "many times --prompt"
        )
    if options.interactive and (options.json or options.samples != 1):
        raise errors.ConfigError("interactive: goes with neither --json nor --samples")
    if not 1 <= options.samples <= MAX_SAMPLES:
        raise errors.ConfigError(
            f"samples: {options.samples} is not from 1 to {MAX_SAMPLES:,}"
        )
    opened = analysis.open_run(options.run, options.step, network=options.network)
    params = opened.weights(average=options.average)
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
        if self.dialogues:
            return self.run.prompt_ids(text)
        if not isinstance(text, str):
            raise errors.ConfigError(
                f"prompts: messages {text!r:.60}, where texts are continued (--plain, "
                "or a run that did not learn dialogues); give texts"
            )
        return text

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


def _prompts(sampler: Sampler, options) -> tuple[list[Any], list[str | list[int]]]:
    """The prompts of the command line and of the file, as given and as sampled from."""
    rows = [(f"prompt {text!r:.40}", records.Text(text)) for text in options.prompt]
    if options.prompts is not None and options.prompts.lower().endswith(".txt"):
        lines = {"path": options.prompts, "document": "line"}
        rows += sources.load("text", lines).documents()
    elif options.prompts is not None:
        rows += sources.rows(options.prompts)
    faults = records.Faults("error", "mend them")
    prompts, encoded = [], []
    for where, row in rows:
        if isinstance(row, records.BadRow):
            faults.add(where, row.reason)
            continue
        try:
            is_text = isinstance(row, records.Text)
            prompt = row.text if is_text else formats.prompt(row)
            encoded.append(sampler.prompt(prompt))
            prompts.append(prompt)
        except errors.DataError as error:
            faults.add(where, str(error))
    faults.check()
    if not prompts:
        raise errors.DataError(f"prompts: {options.prompts} has none; fill the file")
    return prompts, encoded


def _complete(sampler: Sampler, options) -> None:
    """Every sample of every prompt, in few batches, and printed block by block."""
    prompts, encoded = _prompts(sampler, options)
    count = options.samples
    seeds = [options.seed + n for n in range(count)]
    settings = sampler.settings(encoded)
    for first in range(0, len(prompts), BLOCK):
        block = encoded[first : first + BLOCK]
        every = [prompt for prompt in block for _ in range(count)]
        own = settings | {"seeds": seeds * len(block)}
        completions = sampling.generate(*sampler.arguments, every, **own)
        for i, completion in enumerate(completions):
            place = first + i // count
            seed = seeds[i % count]
            if options.json:
                fields = {
                    "prompt": prompts[place],
                    "seed": seed,
                    **completion._asdict(),
                }
                print(json.dumps(fields, allow_nan=False, default=lambda x: x.tolist()))
                continue
            if len(prompts) * count > 1:
                ended, length = completion.finish_reason, len(completion.ids)
                where = f"prompt {1 + place} of {len(prompts)}, seed {seed}"
                print(f"--- {where}: {length} tokens, {ended}")
            if sampler.dialogues:
                turns = messages.chat(prompts[place], "prompt").turns
                print("\n".join(f"{role}: {text}" for role, text in turns))
                print(f"assistant: {completion.text.strip()}")
            else:
                print(prompts[place] + completion.text)


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

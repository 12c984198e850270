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
from collections.abc import Callable, Iterator, Sequence
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
    network = options.network
    opened = analysis.open_run(options.run, step=options.step, network=network)
    params = jax.device_put(opened.params(average=options.average))
    dialogues = opened.chats and not options.plain
    stop_ids = None
    if dialogues:
        stop_ids = list(format.of(opened.tokenizer, opened.chats).stop_ids)
    sampler = Sampler(
        arguments=(opened.model, params, opened.tokenizer),
        encode=opened.prompt_ids if dialogues else None,
        stop_ids=stop_ids,
    )
    if options.interactive:
        _converse(sampler, options)
    else:
        _complete(sampler, options)


class Sampler(NamedTuple):
    """An opened model, and how it reads dialogues.

    Attributes:
      arguments: (model, params, tokenizer), which `sampling.generate` takes first.
      encode: from a dialogue to the tokens of a prompt; None for a model of plain text.
      stop_ids: the tokens that end a turn; None for a model of plain text.
    """

    arguments: tuple
    encode: Callable[[Any], list[int]] | None
    stop_ids: list[int] | None

    def prompt(self, text: Any) -> str | list[int]:
        """A prompt of `sampling.generate`."""
        return text if self.encode is None else self.encode(text)


def _complete(sampler: Sampler, options) -> None:
    """Every sample of every prompt, in one call, so in few batches."""
    count = options.samples
    texts = [prompt for prompt in options.prompt for _ in range(count)]
    seeds = [options.seed + n for n in range(count)] * len(options.prompt)
    prompts = [sampler.prompt(text) for text in texts]
    settings = _settings(sampler, options, prompts)
    settings |= {"seeds": seeds}
    completions = sampling.generate(*sampler.arguments, prompts, **settings)
    rows = zip(texts, seeds, completions, strict=True)
    for i, (prompt, seed, completion) in enumerate(rows):
        if options.json:
            print(json.dumps(_as_json(prompt, seed, completion), allow_nan=False))
            continue
        if len(prompts) > 1:
            ended, length = completion.finish_reason, len(completion.ids)
            where = f"prompt {1 + i // count} of {len(options.prompt)}, seed {seed}"
            print(f"--- {where}: {length} tokens, {ended}")
        if sampler.encode is None:
            print(prompt + completion.text)
        else:
            print(f"user: {prompt}\nassistant: {completion.text.strip()}")


def _as_json(prompt: str, seed: int, completion) -> dict[str, Any]:
    fields = {"prompt": prompt, "seed": seed, **completion._asdict()}
    as_list = lambda x: x.tolist() if hasattr(x, "tolist") else x
    return {name: as_list(value) for name, value in fields.items()}


def _converse(sampler: Sampler, options) -> None:
    """Reads prompts until the end of input; Ctrl-C ends the text, not the command."""
    with contextlib.suppress(ImportError):  # not on every platform
        import readline  # noqa: F401  gives `input` a history
    print(r"A line is a prompt, \n in it a new line; Ctrl-C stops, Ctrl-D leaves.")
    if sampler.encode is not None:
        print("The dialogue goes on from line to line; an empty one begins another.")
    turns: list[tuple[str, str]] = []
    for turn, line in enumerate(_lines()):
        reply, line = "", line.replace(r"\n", "\n")
        if sampler.encode is not None and not line.strip():
            turns = []
            continue
        try:
            if sampler.encode is not None:
                turns.append((format.USER, line))
            prompt = sampler.prompt(tuple(turns) or line)
            settings = _settings(sampler, options, [prompt])
            seed = options.seed + turn
            for piece in sampling.stream(
                *sampler.arguments, prompt, seed=seed, **settings
            ):
                print(piece, end="", flush=True)
                reply += piece
        except (errors.ConfigError, errors.DataError) as error:
            print(error, end="")
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        print()
        if sampler.encode is not None and reply.strip():
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


def _settings(sampler: Sampler, options, prompts: Sequence) -> dict[str, Any]:
    """Keyword arguments of `sampling.generate` and `sampling.stream` alike."""
    names = ("temperature", "top_k", "top_p", "min_p", "stop")
    settings = {name: getattr(options, name) for name in names}
    settings["max_tokens"] = options.max_tokens
    if options.max_tokens is None:
        settings["max_tokens"] = _default_length(sampler.arguments, prompts)
    if sampler.stop_ids is not None:
        settings["stop_ids"] = sampler.stop_ids
    return settings


def _default_length(arguments, prompts: Sequence) -> int:
    model, _, tokenizer = arguments
    room = 0
    with contextlib.suppress(ValueError):  # sampling reports what is wrong
        encode = lambda p: sampling.encode(tokenizer, p) if isinstance(p, str) else p
        longest = max(len(encode(prompt)) for prompt in prompts)
        room = model.config.max_length - longest
    return min(room, MAX_TOKENS) if room > 0 else MAX_TOKENS


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # terminals that are not UTF-8
    return cli.exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())

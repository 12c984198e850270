# SPDX-License-Identifier: Apache-2.0
r"""Lets the model of a run go on with prompts.

    python -m alignjax.generate --run=runs/world --prompt="Once upon a time"
    python -m alignjax.generate --run=DIR --prompt=A --prompt=B --samples=4 --json
    python -m alignjax.generate --run=runs/world --interactive

`--run` is the workdir of a run, also one that still trains. Where the run learned
dialogues a prompt is what a user says, unless `--plain`; elsewhere a text to go on
with. Sample n of every prompt has the seed `--seed` + n, so the same command writes the
same text, and one prompt's samples do not depend on the others. Exit codes are those of
`alignjax.errors`.

The options are argparse's: training takes absl's flags since configs need them, but
here there is no config, and `--help` should list this command's options and no others.
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
    out = argparse.ArgumentParser(
        prog="python -m alignjax.generate",
        description=__doc__.partition("\n\n    ")[0],
        allow_abbrev=False,
    )
    add = out.add_argument
    add("--run", required=True, metavar="DIR", help="the workdir of a run")
    add(
        "--step", type=int, help="of which checkpoint; the newest sound one unless told"
    )
    add("--average", action="store_true", help="use the moving average of the weights")
    add(
        "--prompt", action="append", default=[], help="a text to go on with; repeatable"
    )
    add("--plain", action="store_true", help="no dialogue: go on with the text itself")
    add("--interactive", action="store_true", help="read prompts from a prompt line")
    add("--samples", type=int, default=1, help="completions of each prompt")
    add("--max_tokens", type=int, help=f"{MAX_TOKENS} or what fits, unless told")
    add("--temperature", type=float, default=1.0, help="0 is greedy")
    add("--top_k", type=int, help="draw from the k most probable tokens")
    add("--top_p", type=float, help="draw from the most probable tokens of mass p")
    add("--min_p", type=float, help="drop tokens below min_p x the best one's chance")
    add("--stop", action="append", default=[], help="end before this text; repeatable")
    add("--seed", type=int, default=0, help="of the first sample of each prompt")
    add("--json", action="store_true", help="an object a line, with every log-prob")
    return out


def run(options: argparse.Namespace) -> None:
    """Opens the run and generates what the options say, to standard output.

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
    opened = analysis.open_run(options.run, step=options.step)
    params = jax.device_put(opened.params(average=options.average))
    subject = (opened.model, params, opened.tokenizer)
    dialogue = opened.chats and not options.plain
    stop = format.stop_ids(opened.tokenizer, opened.chats) if dialogue else None
    speaker = Speaker(subject, opened.prompt_ids if dialogue else None, stop)
    if options.interactive:
        _converse(speaker, options)
    else:
        _complete(speaker, options)


class Speaker(NamedTuple):
    """Who is to speak: (model, params, tokenizer), and whether in a dialogue.

    Attributes:
      subject: the leading arguments of `sampling.generate`.
      dialogue: turns to the tokens of a prompt, where it learned dialogues, or None.
      stop_ids: the tokens that end a turn, where there are turns, or None.
    """

    subject: tuple
    dialogue: Callable[[Any], list[int]] | None
    stop_ids: list[int] | None

    def prompt(self, said: Any) -> str | list[int]:
        """What `sampling.generate` is to go on with."""
        return said if self.dialogue is None else self.dialogue(said)

    def stop(self) -> dict[str, Any]:
        """What ends it besides `--stop`: the end of a turn, where there are turns."""
        return {} if self.stop_ids is None else {"stop_ids": self.stop_ids}


def _complete(speaker: Speaker, options) -> None:
    """Every sample of every prompt, in one call, so in few batches."""
    count = options.samples
    texts = [prompt for prompt in options.prompt for _ in range(count)]
    seeds = [options.seed + n for n in range(count)] * len(options.prompt)
    prompts = [speaker.prompt(text) for text in texts]
    settings = _settings(speaker, options, prompts)
    completions = sampling.generate(*speaker.subject, prompts, seeds=seeds, **settings)
    rows = zip(texts, seeds, completions, strict=True)
    for i, (prompt, seed, completion) in enumerate(rows):
        if options.json:
            print(json.dumps(_as_json(prompt, seed, completion), allow_nan=False))
            continue
        if len(prompts) > 1:
            ended, length = completion.finish_reason, len(completion.ids)
            where = f"prompt {1 + i // count} of {len(options.prompt)}, seed {seed}"
            print(f"--- {where}: {length} tokens, {ended}")
        if speaker.dialogue is None:
            print(prompt + completion.text)
        else:
            print(f"user: {prompt}\nassistant: {completion.text.strip()}")


def _as_json(prompt: str, seed: int, completion) -> dict[str, Any]:
    fields = {"prompt": prompt, "seed": seed, **completion._asdict()}
    as_list = lambda x: x.tolist() if hasattr(x, "tolist") else x
    return {name: as_list(value) for name, value in fields.items()}


def _converse(speaker: Speaker, options) -> None:
    """Reads prompts until the end of input; Ctrl-C ends the text, not the command."""
    with contextlib.suppress(ImportError):  # not on every platform
        import readline  # noqa: F401  gives `input` a history
    print(r"A line is a prompt, \n in it a new line; Ctrl-C stops, Ctrl-D leaves.")
    if speaker.dialogue is not None:
        print("The dialogue goes on from line to line; an empty one begins another.")
    turns: list[tuple[str, str]] = []
    for turn, line in enumerate(_lines()):
        said, line = "", line.replace(r"\n", "\n")
        if speaker.dialogue is not None and not line.strip():
            turns = []
            continue
        try:
            asked = line
            if speaker.dialogue is not None:
                turns.append((format.USER, line))
                asked = tuple(turns)
            prompt = speaker.prompt(asked)
            settings = _settings(speaker, options, [prompt])
            seed = options.seed + turn
            for piece in sampling.stream(
                *speaker.subject, prompt, seed=seed, **settings
            ):
                print(piece, end="", flush=True)
                said += piece
        except (errors.ConfigError, errors.DataError) as error:
            print(error, end="")
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        print()
        if said.strip():
            turns.append((format.ASSISTANT, said.strip()))
        elif turns:  # nothing was said to it, so it was not asked
            turns.pop()


def _lines() -> Iterator[str]:
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


def _settings(speaker: Speaker, options, prompts: Sequence) -> dict[str, Any]:
    """Keyword arguments of `sampling.generate` and `sampling.stream` alike."""
    names = ("temperature", "top_k", "top_p", "min_p", "stop")
    settings = {name: getattr(options, name) for name in names}
    settings["max_tokens"] = options.max_tokens
    if options.max_tokens is None:
        settings["max_tokens"] = _default_length(speaker.subject, prompts)
    return settings | speaker.stop()


def _default_length(subject, prompts: Sequence) -> int:
    model, _, tokenizer = subject
    room = 0
    with contextlib.suppress(ValueError):  # sampling says what is wrong, and where
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

# SPDX-License-Identifier: Apache-2.0
r"""Scores the responses of a file: log-probabilities, and rewards of a reward model.

    alignjax score --run=runs/dpo --data=pairs.jsonl --out=scores.jsonl \
        --reference=runs/sft
    alignjax score --run=runs/reward --data=answers.parquet --format=prompt_response

`--data` has rows of any format that training reads (docs/data.md), guessed from the
first one where `--format` is not given. Of a dialogue the last turn of the assistant is
scored, of several responses each. Where the run did not learn dialogues, or with
`--plain`, a response goes on with the text of its prompt.

A line of `--out` is JSON, one a response: where it is from, its text and `ids`, their
number, `logp` in nats, `entropy`, and of a reward model `reward`; with `--reference`
also `ref_logp` and `kl`. The fields of an answer that was not sampled and judged here
are null. Started again after a stop, the command goes on from `OUT.partial`, which
becomes OUT at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from alignjax import analysis, cli, config, errors
from alignjax.analysis import scoring
from alignjax.data import formats, records
from alignjax.data.chat import format as chats
from alignjax.evals import rows
from alignjax.storage import atomic, json_files
from alignjax.tracking import progress

BLOCK = 1024  # rows that are sorted by length, scored and written together


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("score", __doc__)
    cli.add_step_options(out)
    add = out.add_argument
    add("--data", required=True, metavar="FILE", help="JSON lines or Parquet")
    add("--format", help=f"of its rows: {', '.join(formats.FORMATS)}")
    add("--columns", help='names that differ, such as {"prompt": "question"}')
    add(
        "--reference",
        type=cli.at_step,
        metavar="DIR[@STEP]",
        help="a run of the same tokenizer, to compare the log-probs with",
    )
    add("--plain", action="store_true", help="prompts are texts that go on")
    add("--on_bad_row", choices=("error", "skip"), default="error")
    add("--batch_size", type=int, help="rows at one time; by default 32, fewer of long")
    add("--out", metavar="FILE", help="JSON lines; by default they are printed")
    return out


class Response(NamedTuple):
    """A response of the data: its place, and a record that has no other.

    Attributes:
      where: `file:line`.
      prompt, sample: the index of its row among the good ones, and in that row.
      record: see `scoring.single`.
    """

    where: str
    prompt: int
    sample: int
    record: Any

    def parts(self) -> tuple[list, str]:
        """All that comes before the response, as JSON, and its text."""
        if isinstance(self.record, records.Text):
            return [], self.record.text
        more = [self.record.tools, self.record.template_kwargs]
        if isinstance(self.record, records.Comparison):
            return [self.record.prompt, *more], self.record.responses[0]
        last = self.record.learned("last")
        before = self.record.turns[: last[0]] if last else self.record.turns
        return [before, *more], self.record.turns[last[0]][1] if last else ""


def read(options: argparse.Namespace, faults: records.Faults) -> list[Response]:
    """The responses of the data, in order; bad rows are added to `faults`.

    Raises:
      ConfigError: options that its format does not have.
      DataError: no such file, or rows of no format.
    """
    columns = None
    if options.columns is not None:
        try:
            columns = config.parse(options.columns, dict[str, str])
        except ValueError as error:
            raise errors.ConfigError(f"columns: {error}") from error
    name, rows = scoring.read(options.data, faults, options.format, columns)
    if name != options.format:
        print(f"{options.data}: rows of the format {name!r}", file=sys.stderr)
    return [
        Response(where, prompt, sample, single)
        for prompt, (where, record) in enumerate(rows)
        for sample, single in enumerate(scoring.single(record))
    ]


def run(options: argparse.Namespace) -> None:
    """Scores the data and writes the lines.

    Raises:
      ConfigError, DataError, CheckpointError: what cannot be read or written.
    """
    if options.batch_size is not None and options.batch_size < 1:
        raise errors.ConfigError(f"batch_size: {options.batch_size} is not 1 or more")
    out = None if options.out is None else cli.output(options.out)
    if out is not None:
        cli.check_output(_partial(out))
    if out is not None and out.resolve() == pathlib.Path(options.data).resolve():
        raise errors.ConfigError(f"out: {out} is the data; name another file")
    opened = analysis.open_run(options.run, options.step, network=options.network).at()
    remedy = "mend them, or set --on_bad_row=skip to leave them out, counted"
    faults = records.Faults(options.on_bad_row, remedy)
    other = options.reference and opened.reference(*options.reference)
    lines = list(_lines(opened, other, options, read(options, faults), faults))
    if faults.count:
        print(records.skipped(faults.count, faults.first), file=sys.stderr)
    if not lines:
        raise errors.DataError(f"data: {options.data} has no good row")
    params = opened.weights(average=options.average)
    reference = other and scoring.Reference(other.model, other.weights())
    terminal, clock = progress.Terminal(sys.stderr), progress.Clock(len(lines))

    def scored(start: int) -> Iterator[str]:
        """The lines from a start on, a block at a time."""
        for first in range(start, len(lines), BLOCK):
            block = lines[first : first + BLOCK]

            def show(done: int, first: int = first) -> None:
                left = clock.left(first + done)
                left = "" if left is None else f"  {progress.duration(left)} left"
                terminal.show(f"scored {first + done:,} of {len(lines):,}{left}")

            scores = scoring.measure(
                opened.model,
                params,
                [row for _, row in block],
                scoring.reward_of(opened.config),
                reference=reference,
                batch_size=options.batch_size,
                progress=show,
            )
            pairs = zip(block, scores, strict=True)
            yield "".join(_text(line, score) for (line, _), score in pairs)

    try:
        if out is not None:
            _write(out, [line for line, _ in lines], scored)
        for text in scored(0) if out is None else ():
            sys.stdout.write(text)
    finally:
        terminal.close()


def _lines(
    opened: analysis.Run,
    reference: analysis.Run | None,
    options: argparse.Namespace,
    responses: Sequence[Response],
    faults: records.Faults,
) -> Iterator[tuple[dict[str, Any], scoring.Row]]:
    """What is known of each good response before it is scored, and its tokens."""
    parts = [response.parts() for response in responses]
    c, tok = opened.config, opened.tokenizer
    prompts = {r.prompt: part[0] for r, part in zip(responses, parts, strict=True)}
    shared = {
        "schema": rows.SCHEMA,
        "run": opened.path.name,
        "digest": opened.digest(),
        "average": options.average,
        "step": opened.step,
        "reference": reference and reference.digest(),
        "loss": (c.get("objective") or {}).get("loss"),
        "seed": c.get("seed"),
        "suite": pathlib.Path(options.data).name,
        "suite_digest": rows.digest_of(list(prompts.values())),
        "slice": None,
    }
    unknown = ("cluster", "decoding", "gold", "tag", "components")
    runs = [opened] if reference is None else [opened, reference]
    tokens = scoring.rows_of(
        ((response.where, response.record) for response in responses),
        tok,
        format=None if options.plain else opened.chats,
        configs=[run.model.config for run in runs],
        faults=faults,
    )
    ends = {tok.eos_id, *tok.stop_ids}
    if opened.chats and not options.plain:
        ends |= set(chats.of(tok, opened.chats).stop_ids)
    for i, row in tokens:
        line = {
            **shared,
            "where": responses[i].where,
            "prompt": responses[i].prompt,
            "sample": responses[i].sample,
            "text": parts[i][1],
            "ids": row.ids,
            "tokens": len(row.ids),
            "finished": row.ids[-1] in ends,
        }
        yield {**line, **dict.fromkeys(unknown)}, row


def _text(line: dict[str, Any], score: scoring.Score) -> str:
    """A line of the output."""
    names = ("logp", "entropy", "reward", "ref_logp", "kl")
    figures = {name: getattr(score, name) for name in names}
    if score.rewards is not None and len(score.rewards) > 1:
        figures["rewards"] = score.rewards.tolist()
    try:
        text = json.dumps({**line, **figures}, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise errors.NonFinite(
            f"{line['where']}: {figures}: not finite; "
            "take a step from before the run diverged (--step)"
        ) from error
    return f"{text}\n"


def _write(
    out: pathlib.Path,
    lines: Sequence[dict[str, Any]],
    scored: Callable[[int], Iterator[str]],
) -> None:
    """Writes OUT.partial, from where it ends if it is of the same lines, then OUT."""
    partial = _partial(out)
    start, size = _done(partial, lines)
    if start:
        print(f"{partial}: goes on after {start:,} lines", file=sys.stderr)
    with open(partial, "ab") as file:
        file.truncate(size)
        for text in scored(start):
            file.write(text.encode())
            file.flush()
        os.fsync(file.fileno())
    os.replace(partial, out)
    atomic.sync(out.parent)


def _partial(out: pathlib.Path) -> pathlib.Path:
    return out.with_name(f"{out.name}.partial")


def _done(partial: pathlib.Path, lines: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """How many whole blocks of a partial file are of these lines; lines, and bytes."""
    count = size = done = 0
    content = partial.read_bytes() if partial.is_file() else b""
    for text, line in zip(content.splitlines(keepends=True), lines, strict=False):
        try:
            own = json_files.parse(text, str(partial), dict, allow_nan=True)
        except errors.DataError:
            break
        if not text.endswith(b"\n") or {**own, **line} != own:
            break
        count, size = count + 1, size + len(text)
        if count % BLOCK == 0:
            done = size
    return count // BLOCK * BLOCK, done


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    return cli.exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())

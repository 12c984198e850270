# SPDX-License-Identifier: Apache-2.0
r"""Prints which tokens of a config's data are trained on, and what is wrong with that.

    alignjax audit --config=configs/sft/world.py \
        --config.init.run=runs/world --rows=2 --split=validation

It takes the flags of `alignjax.train`, and needs no accelerator. Of the first rows of
the stream every target is printed with the input that it follows, whose turn it is of,
what it counts, its segment, and of pairs the group and the response. `--check` rows are
looked through for the faults of `alignjax.data.audit`; it ends with 1 if there are any.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from alignjax import cli, errors
from alignjax.data import audit, dataset
from alignjax.data.chat import format as chat
from alignjax.data.tokenizers import base
from alignjax.experiment import build, config_file

FAULTY = 1  # the exit status where there are faults
MOST = 20  # faults that are listed


def spelled(tok: base.Tokenizer) -> list[str]:
    """What each token is on paper: control tokens by name, others quoted."""
    names = {i: name for name, i in tok.control.items()}
    names |= {tok.bos_id: "<start>", tok.eos_id: "<eos>"}
    return [
        names[i] if i in names else repr(tok.decode([i])) for i in range(tok.vocab_size)
    ]


def roles(rows: Mapping[str, Any], tok: base.Tokenizer, format: str) -> np.ndarray:
    """The role of the turn of each target, as text [..., T].

    Targets that several branches share have that of the first branch.
    """
    out = np.full(rows["targets"].shape, "", object)
    parse = audit.parser(tok, format)
    for place, at, thread in audit.placed(rows):
        names = np.array([role or "-" for role in audit.roles(parse(thread))], object)
        new = [t for t in at if not out[(*place, t)]]
        out[place][new] = names[1:][np.isin(at, new)]
    return out


def table(
    rows: Mapping[str, Any], i: int, tok: base.Tokenizer, format: str | None
) -> Iterator[str]:
    """The lines of one row, one for each target; padding is counted."""
    grouped = "responses" in rows
    count = rows["lengths"].shape[2] if grouped else 0
    words = spelled(tok)
    turns = np.full(rows["targets"].shape, "text")
    if format is not None:
        turns = roles(rows, tok, format)
    yield (
        f"{'place':>7} {'seg':>4} {'br':>3} {'pos':>5}  {'role':<9} {'weight':>7} "
        f"{'response':<8}  input -> target"
    )
    for place in np.ndindex(rows["targets"].shape[1:]):
        at = (i, *place)
        if not rows["segment_ids"][at] and not rows["weights"][at]:
            continue
        response = "."
        if grouped and (number := int(rows["responses"][at])):
            response = "{}:{}".format(*divmod(number - 1, count))
        weight = float(rows["weights"][at])
        branch = int(rows["branches"][at]) if "branches" in rows else "."
        before, token = (words[int(rows[name][at])] for name in ("inputs", "targets"))
        yield (
            f"{'/'.join(map(str, place)):>7} {rows['segment_ids'][at]:>4} {branch:>3} "
            f"{rows['positions'][at]:>5}  {turns[at]:<9} "
            f"{f'{weight:g}' if weight else '.':>7} {response:<8}  {before} -> {token}"
        )
    padding = int((rows["segment_ids"][i] == 0).sum())
    yield f"{padding:,} places of padding"
    if grouped:
        for p in np.flatnonzero(rows["group_weights"][i]).tolist():
            values = {name: v[i, p].tolist() for name, v in rows["values"].items()}
            yield (
                f"group {p}: weight {rows['group_weights'][i, p]:g}, responses of "
                f"{rows['lengths'][i, p].tolist()} tokens, {values}"
            )


def summary(
    rows: Mapping[str, Any], tok: base.Tokenizer, format: str | None
) -> Iterator[str]:
    """How many tokens there are of what, and how many of them count."""
    real = rows["segment_ids"] > 0
    counted = rows["weights"] != 0
    total = max(1, int(real.sum()))
    number = int((real & counted).sum())
    yield (
        f"{len(real):,} rows of {real[0].size:,} places, {100 * real.mean():.1f} % "
        f"full; {number:,} of {total:,} targets count ({100 * number / total:.1f} %), "
        f"their weights add up to {rows['weights'].sum(dtype=np.float64):,.6g}"
    )
    if format is None:
        return
    turns = roles(rows, tok, format)
    trained = Counter(turns[real & counted].tolist())
    for role, number in Counter(turns[real].tolist()).most_common():
        yield f"  {role:<9} {number:>9,} targets, {trained[role]:>9,} count"
    stop = list(chat.of(tok, format).stop_ids)
    ends = counted & np.isin(rows["targets"], stop)
    yield f"  {int(ends.sum()):,} turns end in a trained {spelled(tok)[stop[0]]}"


def report(
    data: dataset.Dataset,
    tok: base.Tokenizer,
    format: str | None,
    rows: int,
    check: int,
) -> tuple[list[str], list[str]]:
    """The lines to print, and the faults."""
    batch = data.rows(np.arange(max(rows, check)))
    lines = [data.report]
    for i in range(rows):
        lines += ["", f"row {i}: {data.describe(i)}", *table(batch, i, tok, format)]
    batch = {k: v[:check] for k, v in batch.items() if isinstance(v, np.ndarray)}
    lines += ["", *summary(batch, tok, format)]
    faults = audit.faults(batch, tok, format=format)
    lines += [f"FAULT {line}" for line in faults[:MOST]]
    kinds = Counter(line.partition(":")[0] for line in faults).most_common()
    counts = ", ".join(f"{name} {count:,}" for name, count in kinds)
    lines.append(f"faults in {check:,} rows: {counts or 'none'}")
    return lines, faults


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report; returns 1 if there are faults, else an exit code."""
    logging.set_verbosity(logging.WARNING)
    parser = cli.parser("audit", __doc__)
    config_file.add_option(parser)
    add = parser.add_argument
    add("--rows", type=int, default=2, help="rows that are printed (%(default)s)")
    add("--check", type=int, help="rows that are looked through (256)")
    add("--split", choices=("train", "validation"), default="train")

    def body() -> int:
        options, loaded = config_file.parse(parser, arguments)
        if loaded.section.get("rollouts"):
            raise errors.ConfigError(
                "rollouts: there are no rows to look at before responses are drawn"
            )
        run = build.build(loaded.section, network=options.network)
        data = run.train if options.split == "train" else run.validation
        if data is None:
            raise errors.ConfigError(
                "evaluation.every: None, so that there is no validation data; set it"
            )
        check = options.check or min(256, data.num_rows)
        format = run.config.data.chat
        lines, faults = report(data, run.tokenizer, format, options.rows, check)
        print("\n".join(lines))
        return FAULTY if faults else errors.DONE

    return cli.exit_code(body)


if __name__ == "__main__":
    sys.exit(main())

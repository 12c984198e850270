# SPDX-License-Identifier: Apache-2.0
"""Rows of answers: one a run, prompt and sample, from which all else is computed.

`alignjax assess` and `alignjax score` write them, as JSON lines or Parquet; they are
also how answers are handed to judges and people. Figures, intervals, comparisons and
agreement are functions of such rows, so a new question needs no new sampling.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from alignjax import bounds, config, errors
from alignjax.data import records, sources
from alignjax.storage import atomic, json_files

SCHEMA = "alignjax.answer/1"
MOST = 1 << 22  # rows of one file
MOST_LETTERS = 200  # of names, which are printed

Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How an answer was sampled.

    Attributes:
      temperature: 0 is greedy.
      top_p: the share of the probability that was sampled from; None is all of it.
      max_tokens: the most that it could have had.
      key: the seed of this one answer.
    """

    temperature: bounds.NonNegative
    top_p: bounds.PositiveShare | None = None
    max_tokens: bounds.Count | None = None
    key: bounds.CountOrZero | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer of one run to one prompt; None is what nobody measured.

    Attributes:
      schema: of this row.
      run, digest, step, loss, seed: the run's name, a digest of its parameters, the
        step of its checkpoint, and of its config the loss and the seed.
      average: whether the parameters are their moving average.
      reference: the digest of the parameters that `ref_logp` and `kl` are from.
      suite, suite_digest: the name of the prompts, and `digest_of` them; answers to
        other prompts are never compared.
      slice: the part of the suite that the prompt is of.
      where: `file:line` of a prompt that was read.
      prompt: its index in the suite.
      cluster: what the prompt shares with others, such as a person or a template, so
        that answers to them are alike.
      sample: the index of the answer among those to the prompt.
      decoding: None where the answer was not sampled.
      text, ids, tokens, finished: the answer, its tokens and their number with the one
        that ends it, and whether it ended by itself.
      gold, tag, components: the true reward, the kind of answer, and the parts of the
        reward, where the prompt has a true reward.
      logp, ref_logp, kl, entropy: of the answer in nats: log-probs under the run and
        its reference; the divergence from it and the entropy, summed over tokens.
      reward, rewards: the score of a reward model, and each attribute of several.
    """

    # Names that are printed, so nothing in them may steer a terminal.
    PRINTED: ClassVar[tuple[str, ...]] = (
        *("run", "digest", "reference", "loss", "suite", "suite_digest"),
        *("slice", "cluster", "tag"),
    )

    schema: Literal["alignjax.answer/1"] = SCHEMA
    run: str
    digest: str | None = None
    average: bool = False
    step: bounds.CountOrZero | None = None
    reference: str | None = None
    loss: str | None = None
    seed: int | None = None
    suite: str
    suite_digest: str
    slice: str | None = None
    where: str | None = None
    prompt: bounds.CountOrZero
    cluster: str | None = None
    sample: bounds.CountOrZero = 0
    decoding: Decoding | None = None
    text: str
    ids: tuple[int, ...] | None = None
    tokens: bounds.CountOrZero
    finished: bool
    gold: float | None = None
    tag: str | None = None
    components: dict[str, float] | None = None
    logp: float | None = None
    ref_logp: float | None = None
    kl: float | None = None
    entropy: float | None = None
    reward: float | None = None
    rewards: tuple[float, ...] | None = None

    @property
    def key(self) -> tuple:
        """What no two rows of a comparison share."""
        d = self.decoding
        how = d and (d.temperature, d.top_p, d.max_tokens)
        run = self.run, self.digest, self.average, self.step
        return *run, self.suite_digest, self.prompt, how, self.sample

    def as_json(self) -> dict[str, Any]:
        """Its fields, in their order."""
        fields = {name: getattr(self, name) for name in _NAMES}
        if self.decoding:
            fields["decoding"] = dataclasses.asdict(self.decoding)
        return fields


_NAMES = tuple(field.name for field in dataclasses.fields(Answer))


def digest_of(prompts: Sequence[Any]) -> str:
    """The digest of a suite: of its prompts in their order, JSON data."""
    return json_files.digest(list(prompts))


def read(path: str | os.PathLike, kind: type[Row] = Answer) -> Iterator[Row]:
    """The rows of a file, a folder or a glob of JSON lines (`.gz` too) or Parquet.

    Args:
      kind: of the rows: a dataclass as `Answer` is, with `schema`, PRINTED and `key`.

    Raises:
      DataError: no such file; or, by file and line, a row that is not one, a field that
        is unknown or of another type, a number that is not finite, the same row twice,
        or too many rows.
    """
    places: dict[tuple, str] = {}
    for where, fields in sources.rows(os.fspath(path)):
        if isinstance(fields, records.BadRow):
            raise errors.DataError(f"{where}: {fields.reason}")
        row = _built(fields, where, kind)
        if (first := places.setdefault(row.key, where)) != where:
            raise errors.DataError(
                f"{where}: the same {kind.__name__.lower()} as {first}; remove one of "
                "them"
            )
        if len(places) > MOST:
            raise errors.DataError(f"{where}: more than {MOST:,} rows; break them up")
        yield row


def _built(fields: dict[str, Any], where: str, kind: type[Row]) -> Row:
    if fields.get("schema") != kind.schema:
        raise errors.DataError(
            f"{where}: schema: {fields.get('schema')!r:.80} is not {kind.schema!r}; "
            "give rows that alignjax wrote (docs/evaluation.md has their fields)"
        )
    pairs = fields.get("components")
    if isinstance(pairs, list) and all(isinstance(pair, tuple) for pair in pairs):
        fields = fields | {"components": dict(pairs)}  # a map of Parquet
    try:
        row = config.build(kind, fields, "")
    except errors.ConfigError as error:
        raise errors.DataError(f"{where}: {errors.some(error.problems)}") from error
    for name in kind.PRINTED:
        text = getattr(row, name) or ""
        if len(text) > MOST_LETTERS or not text.isprintable():
            raise errors.DataError(
                f"{where}: {name}: {text!r:.80} is no name of at most {MOST_LETTERS} "
                "printable characters"
            )
    return row


def write(path: str | os.PathLike, answers: Iterable[Answer]) -> None:
    """Writes a file of rows whole or not at all: Parquet by its name, or JSON lines."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replace(path) as file:
        if path.suffix.lower() == ".parquet":
            _write_parquet(file, [answer.as_json() for answer in answers])
        else:
            for answer in answers:
                line = json.dumps(answer.as_json(), ensure_ascii=False, allow_nan=False)
                file.write(f"{line}\n".encode())


def line_of(row: Any) -> str:
    """A row as a line of JSON."""
    return f"{json.dumps(row.as_json(), ensure_ascii=False, allow_nan=False)}\n"


def _write_parquet(file, answers: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    types = dict.fromkeys(_NAMES, pa.string())
    types |= dict.fromkeys(("average", "finished"), pa.bool_())
    types |= dict.fromkeys(("step", "seed", "prompt", "sample", "tokens"), pa.int64())
    figures = ("gold", "logp", "ref_logp", "kl", "entropy", "reward")
    types |= dict.fromkeys(figures, pa.float64())
    types |= {
        "ids": pa.list_(pa.int64()),
        "rewards": pa.list_(pa.float64()),
        "components": pa.map_(pa.string(), pa.float64()),
        "decoding": pa.struct(
            [
                ("temperature", pa.float64()),
                ("top_p", pa.float64()),
                ("max_tokens", pa.int64()),
                ("key", pa.int64()),
            ]
        ),
    }
    parquet.write_table(pa.Table.from_pylist(answers, pa.schema(types.items())), file)

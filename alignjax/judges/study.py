# SPDX-License-Identifier: Apache-2.0
"""A study: two arms of answers that judges compare, in a file that names all of it.

    {"base": "assessment.rows/sft.jsonl", "arm": "assessment.rows/dpo.jsonl",
     "suite": "assessment.rows/suites/0123456789abcdef.jsonl",
     "rubric": "rubric.json", "pairs": 60, "seed": 0, "repeats": 0.1, "checks": 0.05}

Paths are from the study's folder. `pairs` prompts are drawn, of each run of the arm
with the run of the baseline at its place; all of them by default. Judgements go to a
file a judge in `STUDY.judgements/` beside it.

A person sees each pair once, a share `repeats` of them again later in the other order,
and beside a share `checks` an attention check: a response against its own words in
reverse order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from alignjax import bounds, config, errors, judges
from alignjax.evals import rows, suites
from alignjax.judges import judgements, kinds
from alignjax.judges import rubric as rubrics
from alignjax.storage import json_files

CHECK = "attention check"  # the run of its worse response
LEAST_WORDS = 4  # other ones, in a response whose reverse is plainly worse
LATER = 10  # pairs until one is shown again


@dataclasses.dataclass(frozen=True)
class Fields:
    """What the file of a study says.

    Attributes:
      base, arm: files, folders or globs of rows.
      suite: the file of their prompts.
      rubric: a file; None for a preference alone.
      pairs: how many are judged; None is all.
      seed: of which those are, and of their order.
      temperature: of the answers, None where they were not sampled.
      repeats: the share of pairs that a person sees twice.
      checks: the share of pairs beside which a person has an attention check.
    """

    base: str
    arm: str
    suite: str
    rubric: str | None = None
    pairs: bounds.Count | None = None
    seed: int = 0
    temperature: bounds.NonNegative | None = 1.0
    repeats: bounds.Fraction = 0.0
    checks: bounds.Fraction = 0.0


class Pair(NamedTuple):
    """Two answers to one prompt."""

    prompt: dict[str, Any]
    arm: rows.Answer
    base: rows.Answer


class Waiting(NamedTuple):
    """A pair in one order, and its judgement without a preference."""

    pair: Pair
    row: judgements.Judgement


class Study(NamedTuple):
    """Pairs in the order in which they are judged, and the rubric if there is one.

    `repeats` and `checks` are those of `Fields`.
    """

    path: pathlib.Path
    pairs: list[Pair]
    rubric: rubrics.Rubric | None
    repeats: float = 0.0
    checks: float = 0.0

    def file_of(self, judge: str) -> pathlib.Path:
        """The file of a judge's judgements."""
        plain = re.sub(r"[^\w.-]", "_", judge, flags=re.A)[:80]
        name = f"{plain}-{hashlib.sha256(judge.encode()).hexdigest()[:8]}.jsonl"
        return self.path.with_suffix(".judgements") / name


def read(path: str | os.PathLike) -> Study:
    """The study that a file describes.

    Raises:
      ConfigError: no such file, or fields that are none of a study's.
      DataError: rows or prompts that cannot be read, or answers that are no pairs.
    """
    path = pathlib.Path(path)
    fields = json_files.read(path, dict, error=errors.ConfigError)
    with config.errors_at(str(path)):
        fields = config.build(Fields, fields, "")
    near = lambda name: str(path.parent / name)
    arm, base = (_answers(near(x), fields) for x in (fields.arm, fields.base))
    digests = {a.suite_digest for x in (arm, base) for a in x.values()}
    if len(digests) != 1:
        raise errors.DataError(
            f"{path}: the arms answered different suites; give rows of one suite"
        )
    prompts = suites.read(near(fields.suite), digests.pop())
    beyond = max(prompt for x in (arm, base) for _, prompt, _ in x)
    if beyond >= len(prompts):
        raise errors.DataError(
            f"{path}: an answer is to prompt {beyond:,}, and the suite has "
            f"{len(prompts):,}; give rows that were made of this suite"
        )
    keys = sorted(set(arm) & set(base))
    if set(arm) != set(base) or not keys:
        raise errors.DataError(
            f"{path}: {len(set(arm) ^ set(base)):,} answers have no other one to the "
            "same prompt; give arms of as many runs, prompts and samples"
        )
    random.Random(f"{fields.seed}").shuffle(keys)
    pairs = [Pair(prompts[key[1]], arm[key], base[key]) for key in keys[: fields.pairs]]
    rubric = fields.rubric and rubrics.read(near(fields.rubric))
    return Study(path, pairs, rubric, fields.repeats, fields.checks)


def _answers(path: str, fields: Fields) -> dict[tuple, rows.Answer]:
    """The answers of an arm by the place of their run, prompt and sample."""
    temperature = lambda a: a.decoding and a.decoding.temperature
    here = [a for a in rows.read(path) if temperature(a) == fields.temperature]
    if not here:
        raise errors.DataError(
            f"{path}: no answer of the temperature {fields.temperature}; mend "
            "`temperature` of the study, null where answers were not sampled"
        )
    runs = sorted({(a.seed is None, a.seed or 0, a.run, a.step or 0) for a in here})
    places = {run[2:]: i for i, run in enumerate(runs)}
    out = {(places[a.run, a.step or 0], a.prompt, a.sample): a for a in here}
    if len(out) < len(here):
        raise errors.DataError(
            f"{path}: several answers of one run to one prompt, by different settings "
            "of sampling; give each setting a file of its own"
        )
    return out


def find(study: Study, name: str, *, network: bool = False) -> judges.Judge:
    """The judge of a name; "rubric" is the study's own, if nobody need be asked.

    Raises:
      ConfigError: no such judge; a rubric with criteria that are not checks.
    """
    if name != "rubric":
        return kinds.find(name, network=network, rubric=study.rubric)
    rubric = study.rubric
    if rubric is None or not all(c.check for c in rubric.criteria):
        raise errors.ConfigError(
            "judge: 'rubric' needs a study with one whose criteria all have a check"
        )

    def judge(pair: judges.Shown) -> judges.Verdict:
        return judges.Verdict(rubric.preference(*pair.scores), scores=pair.scores)

    return judges.Judge("rubric", rubric.digest, lambda pairs: map(judge, pairs))


def waiting(
    study: Study,
    judge: judges.Judge,
    done: Sequence[judgements.Judgement] = (),
    *,
    both_orders: bool = True,
) -> list[Waiting]:
    """What a judge has not judged, in the study's order.

    Args:
      done: judgements that are not to be made again.
      both_orders: each pair twice; else once, in an order drawn by chance, with the
        study's repeats and checks.
    """
    keys = {judgement.key for judgement in done}
    queue = []
    for place, pair in enumerate(study.pairs):
        orders = [(place, pair, True), (place, pair, False)]
        if not both_orders:
            orders = _once(study, judge.name, place, pair)
        for later, shown_pair, arm_first in orders:
            row = _row(study, judge, shown_pair, arm_first)
            if row.key not in keys:
                queue.append((later, Waiting(shown_pair, row)))
    return [waiting for _, waiting in sorted(queue, key=lambda x: x[0])]


def _once(
    study: Study, judge: str, place: int, pair: Pair
) -> Iterator[tuple[float, Pair, bool]]:
    """What a person sees on account of a pair: when, what, and the arm's place."""
    draw = lambda what="": random.Random(f"{judge} {_name(pair)}{what}").random()
    first = draw() < 0.5
    yield place, pair, first
    if pair.arm.text != pair.base.text and draw(" again") < study.repeats:
        yield place + LATER, pair, not first
    if draw(" check") < study.checks and (check := _check(pair)):
        yield place + 0.5, check, draw(" first") < 0.5


def _check(pair: Pair) -> Pair | None:
    """A response against its words in reverse order; None if that is no worse."""
    answer = max(pair.arm, pair.base, key=lambda a: len(set(a.text.split())))
    words = answer.text.split()
    if len(set(words)) < LEAST_WORDS or words == words[::-1]:
        return None
    reverse = " ".join(reversed(words))
    fields = dict(run=CHECK, digest=None, step=None, gold=None, text=reverse)
    return Pair(pair.prompt, answer, dataclasses.replace(answer, **fields))


def judged(
    study: Study, judge: judges.Judge, queue: Sequence[Waiting]
) -> Iterator[judgements.Judgement]:
    """The judgements of a queue, each as soon as it is made."""
    verdicts = judges.verdicts(judge, [shown(study, waiting) for waiting in queue])
    for (_, row), verdict in zip(queue, verdicts, strict=True):
        p, scores = verdict.first, verdict.scores or (None, None)
        if not row.arm_first:
            p, scores = None if p is None else 1 - p, scores[::-1]
        yield dataclasses.replace(
            row,
            preference=p,
            failure=verdict.failure,
            retries=verdict.retries,
            arm_scores=scores[0],
            base_scores=scores[1],
            provenance={**(judge.provenance or {}), **(verdict.details or {})} or None,
        )


def texts(study: Study) -> dict[tuple, tuple[str, str]]:
    """The arm's and the baseline's response of each pair, by `Judgement.pair`."""
    return {
        _row(study, _NOBODY, pair, True).pair: (pair.arm.text, pair.base.text)
        for pair in study.pairs
    }


def stored(study: Study) -> list[judgements.Judgement]:
    """All judgements of a study that were written so far."""
    folder = study.path.with_suffix(".judgements")
    # One is empty where a judge failed, or was stopped, before its first judgement.
    files = sorted(file for file in folder.glob("*.jsonl") if file.stat().st_size)
    for file in files:
        _end_last_line(file)
    ours = [*study.pairs, *filter(None, map(_check, study.pairs))]
    pairs = {_row(study, _NOBODY, pair, True).pair for pair in ours}
    out = [j for f in files for j in rows.read(f, judgements.Judgement)]
    if others := [j for j in out if j.pair not in pairs]:
        raise errors.DataError(
            f"{folder}: {len(others):,} judgements of pairs that {study.path} has not; "
            "name another study, or give this one its own rows again"
        )
    rubric = study.rubric
    for j in out:
        if rubric and j.rubric == rubric.name and j.rubric_digest != rubric.digest:
            raise errors.DataError(
                f"{folder}: judgements by another text of the rubric {rubric.name}; a "
                "changed rubric is a new version"
            )
    return out


def _end_last_line(path: pathlib.Path) -> None:
    """Drops what a process that was killed wrote of its last line."""
    content = path.read_bytes()
    if content.endswith(b"\n"):
        return
    with open(path, "r+b") as file, contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else it is being written
        whole = content.rfind(b"\n") + 1
        try:
            json.loads(content[whole:])
        except ValueError:
            file.truncate(whole)
        else:  # of an editor that ends no last line
            file.seek(0, os.SEEK_END)
            file.write(b"\n")


@contextlib.contextmanager
def appended(path: pathlib.Path) -> Iterator[Callable[[judgements.Judgement], None]]:
    """A function that appends a judgement to a file, durably.

    Raises:
      ConfigError: another process appends to it; or it leads elsewhere.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if (path.exists() and not path.is_file()) or path.is_symlink():
        raise errors.ConfigError(f"{path}: is a link or no file; remove it")
    if path.parent.is_symlink():
        raise errors.ConfigError(f"{path.parent}: is a link; make it a folder")
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise errors.ConfigError(f"{path}: another process writes it") from error

        def append(row: judgements.Judgement) -> None:
            file.write(rows.line_of(row).encode())
            file.flush()
            os.fsync(file.fileno())

        yield append


_NOBODY = judges.Judge("nobody", None, lambda pairs: ())


def _name(pair: Pair) -> str:
    return f"{pair.arm.prompt} {pair.arm.sample} {pair.arm.run} {pair.base.run}"


def _row(study: Study, judge: judges.Judge, pair: Pair, arm_first: bool):
    names = [field.name for field in dataclasses.fields(judgements.Answer)]
    of: Callable = lambda a: judgements.Answer(**{n: getattr(a, n) for n in names})
    return judgements.Judgement(
        judge=judge.name,
        judge_digest=judge.digest,
        rubric=study.rubric and study.rubric.name,
        rubric_digest=study.rubric and study.rubric.digest,
        suite_digest=pair.arm.suite_digest,
        slice=pair.arm.slice,
        prompt=pair.arm.prompt,
        cluster=pair.arm.cluster,
        arm=of(pair.arm),
        base=of(pair.base),
        arm_first=arm_first,
    )


def shown(study: Study, waiting: Waiting) -> judges.Shown:
    """What a judge sees of a pair."""
    pair, row = waiting
    both = (pair.arm, pair.base) if row.arm_first else (pair.base, pair.arm)
    texts, finished = zip(*((a.text, a.finished) for a in both), strict=True)
    checked = [study.rubric.checked(a) if study.rubric else {} for a in both]
    return judges.Shown(pair.prompt, texts, finished, tuple(checked))

# SPDX-License-Identifier: Apache-2.0
"""Arms of a comparison: rows of runs that were trained alike, as arrays.

An arm is one loss. Each of its runs answers the same prompts, and answers to a prompt
are averaged first. Rows that cannot be compared are refused, never left out in silence.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.evals import frontier, rows

FIELDS = ("gold", "reward", "tokens", "finished", "logp", "ref_logp", "kl", "entropy")
PREFIXES = ("tag", "component")
METRICS = f"{', '.join(FIELDS)}, tag:NAME, component:NAME"
LARGEST = 1e100  # figure that is one: sums of squares of larger ones are no numbers
TEMPERATURE = 1.0  # of rows of several, those that are compared


class Run(NamedTuple):
    """A run of an arm.

    Attributes:
      name, digest, seed: of its last step.
      steps: in order.
      values_JP, kl_JP: float, the metric and the KL of each step and prompt, averaged
        over answers; NaN for a KL that was not measured.
    """

    name: str
    digest: str | None
    seed: int | None
    steps: list[int | None]
    values_JP: np.ndarray
    kl_JP: np.ndarray


class Arm(NamedTuple):
    """Runs that were trained alike.

    Attributes:
      name: to print.
      runs: in the order of their seeds.
      suite: the name and digest of the prompts, and how they were answered.
      prompts: their indices in the suite, ascending.
      slices, clusters: of each prompt; clusters are None where a prompt has none.
      references: digests of the runs that the KL is from; None for one unknown.
      others: rows of other temperatures, which were left out.
    """

    name: str
    runs: list[Run]
    suite: tuple
    prompts: list[int]
    slices: list[str | None]
    clusters: list[str] | None
    references: set[str | None]
    others: int

    @property
    def values_SP(self) -> np.ndarray:
        """float [S, P]: the metric of every run's last step."""
        return np.stack([run.values_JP[-1] for run in self.runs])

    def curve(self, reference: Arm | None = None) -> frontier.Curve:
        """Its points: each step of its runs, after the reference, whose KL is 0.

        Raises:
          DataError: runs of other steps, or answers without a KL.
        """
        steps = [run.steps for run in self.runs]
        if any(other != steps[0] for other in steps):
            raise errors.DataError(
                f"{self.name}: its runs have steps {steps[0]} and others; give rows of "
                "the same steps of every run"
            )
        kl, gold = (
            np.stack([getattr(run, name) for run in self.runs])
            for name in ("kl_JP", "values_JP")
        )
        if np.isnan(kl).any():
            raise errors.DataError(
                f"{self.name}: some answers have no kl; assess runs with a reference"
            )
        if reference is not None:
            shape = len(self.runs), 1, len(self.prompts)
            start = np.broadcast_to(reference.values_SP.mean(0), shape)
            kl = np.concatenate([np.zeros(shape), kl], axis=1)
            gold = np.concatenate([start, gold], axis=1)
        return frontier.Curve(kl, gold)


def metric(name: str) -> Callable[[rows.Answer], float | None]:
    """The figure of an answer that a name stands for; None where it has none.

    Raises:
      ConfigError: no such figure.
    """
    prefix, _, key = name.partition(":")
    if name in FIELDS:
        return lambda answer: getattr(answer, name)
    if prefix == "tag" and key:
        return lambda answer: None if answer.tag is None else float(answer.tag == key)
    if prefix == "component" and key:
        return lambda answer: (answer.components or {}).get(key)
    raise errors.ConfigError(f"metric: {name!r:.80} is none of {METRICS}")


def read(
    argument: str,
    figure: str = "gold",
    *,
    slices: Sequence[str] = (),
    temperature: float | None = None,
) -> Arm:
    """The arm of `[NAME=]ROWS`, a file, folder or glob of rows.

    Args:
      figure: see `metric`.
      slices: to be compared; all of them by default.
      temperature: of the answers; the only one that the rows have, or else 1.

    Raises:
      ConfigError: no such figure.
      DataError: rows that cannot be read, see `rows.read`, or are not of one arm.
    """
    name, equals, path = argument.partition("=")
    if not equals or pathlib.Path(argument).exists():
        name, path = "", argument
    answers = list(rows.read(path))
    arm = of(answers, path, figure, slices=slices, temperature=temperature)
    return arm._replace(name=name) if name else arm


def of(
    answers: Sequence[rows.Answer],
    path: str,
    figure: str = "gold",
    *,
    slices: Sequence[str] = (),
    temperature: float | None = None,
) -> Arm:
    """The arm of some rows; see `read`. `path` is named in errors."""
    measure = metric(figure)
    temperatures = {_temperature(answer) for answer in answers}
    if temperature is None:
        temperature = (
            next(iter(temperatures)) if len(temperatures) == 1 else TEMPERATURE
        )
    here = [a for a in answers if _temperature(a) == temperature]
    if not here:
        rest = ", ".join(sorted(map(str, temperatures)))
        raise errors.DataError(
            f"{path}: no answers of temperature {temperature}, but of {rest}"
        )
    others = len(answers) - len(here)
    if slices:
        names = {answer.slice for answer in here}
        if unknown := set(slices) - names:
            listed = errors.some(sorted(map(str, names)), count=20)
            raise errors.DataError(f"{path}: slice: no {min(unknown)!r}, but {listed}")
        here = [answer for answer in here if answer.slice in slices]
    suite = _one(
        path, {(a.suite, a.suite_digest, *_decoding(a)) for a in here}, "suites"
    )
    losses = {answer.loss for answer in here}
    loss = _one(path, losses, "losses", "give each arm a file, folder or glob")
    runs = _runs(path, here, measure, figure)
    places = {answer.prompt: (answer.slice, answer.cluster) for answer in here}
    for answer in here:
        if places[answer.prompt] != (answer.slice, answer.cluster):
            raise errors.DataError(
                f"{path}: answers to prompt {answer.prompt} have several slices or "
                "clusters; a prompt is of one, so mend the rows"
            )
    prompts = sorted(places)
    slices_P, clusters = map(list, zip(*map(places.get, prompts), strict=True))
    return Arm(
        loss or pathlib.Path(path).stem,
        runs,
        suite,
        prompts,
        slices_P,
        None if None in clusters else clusters,
        {answer.reference for answer in here if answer.kl is not None},
        others,
    )


def _one(path, values: set, what: str, remedy: str = "break the rows up by them"):
    if len(values) > 1:
        shown = errors.some(sorted(map(str, values)), separator=" and ", count=2)
        raise errors.DataError(f"{path}: rows of several {what}, {shown}; {remedy}")
    return next(iter(values))


def _temperature(answer: rows.Answer) -> float | None:
    return answer.decoding and answer.decoding.temperature


def _decoding(answer: rows.Answer) -> tuple:
    d = answer.decoding
    return (d.temperature, d.top_p, d.max_tokens) if d else (None, None, None)


def _runs(path, answers: Iterable[rows.Answer], of, figure: str) -> list[Run]:
    """The runs of an arm, each with answers to the same prompts at every step."""
    groups: dict[tuple, dict[Any, list[rows.Answer]]] = {}
    for answer in answers:
        run = groups.setdefault((answer.run, answer.average), {})
        run.setdefault(answer.step, []).append(answer)
    prompts = sorted(
        {a.prompt for run in groups.values() for s in run.values() for a in s}
    )
    places = {prompt: i for i, prompt in enumerate(prompts)}
    runs, digests = [], {}
    for (name, _), steps in groups.items():
        order = sorted(steps, key=lambda step: -1 if step is None else step)
        points = [_point(path, name, steps[step], of, figure, places) for step in order]
        last = steps[order[-1]]
        digest = _one(
            f"{path}: {name}", {a.digest for a in last}, "digests at one step"
        )
        seed = _one(f"{path}: {name}", {a.seed for a in last}, "seeds")
        if digest is not None and digest in digests:
            raise errors.DataError(
                f"{path}: {name} and {digests[digest]} are the same parameters; they "
                "count once: leave one out"
            )
        digests[digest] = name
        values_JP, kl_JP = (np.stack(x) for x in zip(*points, strict=True))
        runs.append(Run(name, digest, seed, order, values_JP, kl_JP))
    has_seed = lambda run: (run.seed is None, run.seed or 0, run.name)
    return sorted(runs, key=has_seed)


def _point(path, name, answers, of, figure, places) -> tuple[np.ndarray, np.ndarray]:
    """float [P] each: the mean figure and KL of the answers to every prompt."""
    total, kl, count = (np.zeros(len(places)) for _ in range(3))
    missing = 0
    # In the order of samples, so that none of the rows decides a last bit.
    for answer in sorted(answers, key=lambda a: (a.prompt, a.sample)):
        value, place = of(answer), places[answer.prompt]
        missing += value is None
        total[place] += 0.0 if value is None else float(value)
        kl[place] += np.nan if answer.kl is None else answer.kl
        count[place] += 1
    if missing:
        raise errors.DataError(
            f"{path}: {name}: {missing:,} of {len(answers):,} answers have no "
            f"{figure:.80}; compare another --metric: {METRICS}"
        )
    if (most := float(np.abs(total).max(initial=0.0))) > LARGEST:
        raise errors.DataError(
            f"{path}: {name}: a {figure:.80} of magnitude {most:g} is beyond "
            f"{LARGEST:g}; leave the run out, it diverged"
        )
    if (lacking := np.flatnonzero(count == 0)).size:
        prompt = list(places)[lacking[0]]
        raise errors.DataError(
            f"{path}: {name} lacks answers to {len(lacking):,} of {len(places):,} "
            f"prompts, such as {prompt}; an answer that failed is a row too"
        )
    return total / count, kl / count

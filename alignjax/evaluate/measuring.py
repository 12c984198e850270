# SPDX-License-Identifier: Apache-2.0
"""A run on a dataset, as rows: texts, pairs, and answers that are sampled.

Each generator yields blocks with all rows of some prompts, of those that the run can
read and that are not `done`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import analysis, errors, sampling
from alignjax.analysis import scoring
from alignjax.data import records
from alignjax.data.chat import format as chats
from alignjax.evals import phrases, rows
from alignjax.evaluate import datasets, grading

BLOCK = 64  # rows that are computed and written together

Show = Callable[[int, int], None]  # rows of a dataset that are done, of all


class Settings(NamedTuple):
    """How prompts are answered: see `sampling.generate`; `samples` answers to each."""

    samples: int = 1
    temperature: float = 1.0
    top_p: float | None = None
    max_tokens: int = 128
    seed: int = 0
    batch_size: int | None = None


class Model(NamedTuple):
    """A run as of a step.

    Attributes:
      name: in rows and figures.
      run, digest: opened, and the digest of its parameters.
      reward: how it scores responses; None of a run that answers.
      params: on the device; None until they are needed.
    """

    name: str
    run: analysis.Run
    digest: str
    reward: scoring.Reward | None
    params: Any = None

    def loaded(self) -> Model:
        """The same with its parameters."""
        return self._replace(params=self.run.weights())

    @property
    def format(self) -> chats.ChatFormat | None:
        """How it writes dialogues, if it learned any."""
        run = self.run
        return chats.of(run.tokenizer, run.chats) if run.chats else None

    def prompt_ids(self, turns: Sequence) -> list[int]:
        """The tokens of a prompt up to where the answer begins.

        Raises:
          DataError: several turns, where it did not learn dialogues, or what its
            template refuses.
        """
        if self.run.chats:
            return self.run.prompt_ids(turns)
        if len(turns) != 1:
            raise errors.DataError(
                "turns of a dialogue, which the run did not learn (data.chat)"
            )
        return sampling.encode(self.run.tokenizer, turns[0][1])

    def row(self, dataset: datasets.Dataset, prompt: int, text: str, **fields):
        """A row without figures."""
        c = self.run.config
        return dict(
            run=self.name,
            digest=self.digest,
            step=self.run.step,
            loss=(c.get("objective") or {}).get("loss"),
            seed=c.get("seed"),
            suite=dataset.name,
            suite_digest=dataset.digest,
            where=dataset.where[prompt],
            prompt=prompt,
            text=text,
            **fields,
        )


def open_model(name: str, path: str, step: int | None, *, network: bool) -> Model:
    """The run at a path as of a step, without its parameters.

    Raises:
      ConfigError, CheckpointError: as `analysis.open_run`.
    """
    run = analysis.open_run(path, step, network=network).at()
    reward = scoring.reward_of(run.config)
    return Model(name, run, run.digest(), reward)


def as_reference(model: Model) -> scoring.Reference:
    return scoring.Reference(model.run.model, model.params)


# What a run reads of a dataset: `(tokens by index, reasons by index)`.


def texts(model: Model, items: Sequence[str]):
    """Of each text its tokens, behind a start of document where the run has one."""
    tokens, reasons = {}, {}
    for i, text in enumerate(items):
        ids = sampling.encode(model.run.tokenizer, text)
        if len(ids) < 2:
            reasons[i] = "a text needs a token and one before it"
        else:
            tokens[i] = ids
    return tokens, reasons


def pairs(model: Model, items: Sequence[records.Comparison], other: Model | None):
    """Of each pair the rows of its two responses."""
    tokens, reasons = {}, {}
    run = model.run
    models = [m.run.model.config for m in (model, other) if m is not None]
    for i, pair in enumerate(items):
        try:
            own = [
                scoring.row_of_record(run.tokenizer, run.chats, single)
                for single in scoring.single(pair)
            ]
        except errors.DataError as error:
            reasons[i] = str(error)
            continue
        faults = [scoring.fault(row, *models) for row in own]
        if reason := next(filter(None, faults), None):
            reasons[i] = reason
        else:
            tokens[i] = own
    return tokens, reasons


def prompts(
    model: Model, items: Sequence[Mapping], other: Model | None, max_tokens: int
):
    """Of each prompt its tokens, where an answer fits behind them."""
    tokens, reasons = {}, {}
    models = [m.run.model.config for m in (model, other) if m is not None]
    room = min(c.max_length for c in models) - max_tokens
    for i, prompt in enumerate(items):
        try:
            ids = model.prompt_ids([tuple(turn) for turn in prompt["turns"]])
        except errors.DataError as error:
            reasons[i] = str(error)
            continue
        if len(ids) > room:
            reasons[i] = f"{len(ids)} tokens, where {max(0, room)} leave room to answer"
        elif not ids:
            reasons[i] = "no token to begin with"
        else:
            tokens[i] = ids
    return tokens, reasons


# Rows.


def of_texts(
    model: Model, dataset: datasets.Dataset, tokens: Mapping, done: set[int], show: Show
) -> Iterator[list[rows.Answer]]:
    """A row a text: its log-prob in windows of the run's context, and its bytes.

    Windows do not overlap in what they predict; the last token of one is what the next
    one begins with. Where documents have no start, the first token is not predicted.
    """
    run = model.run
    sizes = np.asarray(run.tokenizer.token_bytes)
    length = run.model.config.max_length
    for block in _blocks([i for i in tokens if i not in done], show, len(tokens)):
        windows = [
            (
                i,
                scoring.Row(
                    tokens[i][at : at + 1], tokens[i][at + 1 : at + length + 1]
                ),
            )
            for i in block
            for at in range(0, len(tokens[i]) - 1, length)
        ]
        scores = scoring.measure(run.model, model.params, [row for _, row in windows])
        logps = dict.fromkeys(block, 0.0)
        for (i, _), score in zip(windows, scores, strict=True):
            logps[i] += score.logp
        yield [
            rows.Answer(
                **model.row(dataset, i, dataset.items[i]),
                tokens=len(tokens[i]) - 1,
                finished=True,
                logp=_finite(logps[i], dataset.where[i]),
                components={
                    "bytes": float(_bytes(run, sizes, dataset.items[i], tokens[i]))
                },
            )
            for i in block
        ]


def _bytes(run, sizes: np.ndarray, text: str, ids: Sequence[int]) -> int:
    """Bytes of the tokens that are predicted."""
    first = 0 if run.tokenizer.bos_id is not None else int(sizes[ids[0]])
    return max(1, len(text.encode()) - first)


def of_pairs(
    model: Model,
    dataset: datasets.Dataset,
    tokens: Mapping,
    done: set[int],
    show: Show,
    other: Model | None = None,
) -> Iterator[list[rows.Answer]]:
    """Two rows a pair, the chosen response first: log-probs, and rewards."""
    run, reference = model.run, other and as_reference(other)
    for block in _blocks([i for i in tokens if i not in done], show, len(tokens), 2):
        own = [row for i in block for row in tokens[i]]
        scores = scoring.measure(
            run.model, model.params, own, model.reward, reference=reference
        )
        out = []
        for n, score in enumerate(scores):
            i, sample = block[n // 2], n % 2
            fields = model.row(dataset, i, dataset.items[i].responses[sample])
            figures = _figures(score, other, dataset.where[i])
            reward = score.reward
            out.append(
                rows.Answer(
                    **fields,
                    **figures,
                    sample=sample,
                    ids=tuple(score.ids),
                    tokens=len(score.ids),
                    finished=True,
                    reward=reward and _finite(reward, dataset.where[i]),
                )
            )
        yield out


def of_prompts(
    model: Model,
    dataset: datasets.Dataset,
    tokens: Mapping,
    done: set[int],
    show: Show,
    *,
    settings: Settings,
    listed: phrases.Phrases,
    other: Model | None = None,
    rewards: Sequence[Model] = (),
) -> Iterator[list[rows.Answer]]:
    """`settings.samples` rows a prompt: sampled answers, graded and scored."""
    run, form, reference = model.run, model.format, other and as_reference(other)
    queue = sorted((i for i in tokens if i not in done), key=lambda i: len(tokens[i]))
    stops = {} if form is None else {"stop_ids": list(form.stop_ids)}
    count = settings.samples
    for block in _blocks(queue, show, len(tokens), count):
        keys = [key_of(settings, i, s) for i in block for s in range(count)]
        own = [tokens[i] for i in block for _ in range(count)]
        completions = sampling.generate(
            *(run.model, model.params, run.tokenizer, own),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seeds=keys,
            batch_size=settings.batch_size,
            **stops,
        )
        written = [scoring.Row(c.prompt_ids, c.ids) for c in completions]
        scores = scoring.measure(run.model, model.params, written, reference=reference)
        texts = [c.text if form is None else form.text(c.ids) for c in completions]
        places = [i for i in block for _ in range(count)]
        turns = [dataset.items[i]["turns"] for i in places]
        scored = {m.name: rewards_of(m, turns, texts) for m in rewards}
        out = []
        for n, (i, score) in enumerate(zip(places, scores, strict=True)):
            prompt, finished = (
                dataset.items[i],
                completions[n].finish_reason != "length",
            )
            grade = grading.grade(prompt, texts[n], finished, listed)
            parts = dict(grade.components or {})
            parts |= {
                f"reward.{name}": each[n]
                for name, each in scored.items()
                if each[n] is not None
            }
            out.append(
                rows.Answer(
                    **model.row(dataset, i, texts[n]),
                    **_figures(score, other, dataset.where[i]),
                    slice=prompt.get("slice") or prompt.get("kind"),
                    cluster=prompt.get("cluster"),
                    sample=n % count,
                    decoding=rows.Decoding(
                        settings.temperature,
                        settings.top_p,
                        settings.max_tokens,
                        keys[n],
                    ),
                    ids=tuple(score.ids),
                    tokens=len(score.ids),
                    finished=finished,
                    gold=grade.gold,
                    tag=grade.tag,
                    components=parts or None,
                )
            )
        yield out


def of_reference(
    model: Model,
    other: Model,
    dataset: datasets.Dataset,
    answers: Sequence[rows.Answer],
    tokens: Mapping,
    done: set[int],
    show: Show,
) -> Iterator[list[rows.Answer]]:
    """The reference's answers again, with its divergence from the run: KL(ref || run).

    Args:
      answers: of the reference, of prompts that both read.
    """
    by_prompt: dict[int, list[rows.Answer]] = {}
    for answer in answers:
        by_prompt.setdefault(answer.prompt, []).append(answer)
    queue = [i for i in tokens if i in by_prompt and i not in done]
    each = max(map(len, by_prompt.values()), default=1)
    for block in _blocks(queue, show, len(tokens), each):
        own = [answer for i in block for answer in by_prompt[i]]
        written = [scoring.Row(list(tokens[a.prompt]), list(a.ids)) for a in own]
        scores = scoring.measure(
            other.run.model, other.params, written, reference=as_reference(model)
        )
        yield [
            dataclasses.replace(answer, **_figures(score, model, answer.where))
            for answer, score in zip(own, scores, strict=True)
        ]


def _figures(score: scoring.Score, other: Model | None, where: str) -> dict[str, Any]:
    out = {"logp": score.logp, "entropy": score.entropy}
    if other is not None:
        out |= {"ref_logp": score.ref_logp, "kl": score.kl}
    out = {name: _finite(value, where) for name, value in out.items()}
    return out | ({"reference": other.digest} if other else {})


def _finite(value: float, where: str) -> float:
    if not np.isfinite(value):
        raise errors.NonFinite(
            f"{where}: {value} is not finite; take a step from before the run diverged "
            "(DIR@STEP)"
        )
    return float(value)


def rewards_of(
    model: Model, turns: Sequence[Sequence], texts: Sequence[str]
) -> list[float | None]:
    """The reward of each answer; None of an empty or unreadable one."""
    run, out, own = model.run, [None] * len(texts), {}
    for n, (prompt, text) in enumerate(zip(turns, texts, strict=True)):
        if not text.strip():
            continue
        dialogue = [tuple(turn) for turn in prompt]
        prompt = dialogue if run.chats else dialogue[-1][1]
        try:
            row = scoring.row_of_pair(run.tokenizer, run.chats, prompt, text)
        except errors.DataError:
            continue
        if scoring.fault(row, run.model.config) is None:
            own[n] = row
    scores = scoring.measure(run.model, model.params, list(own.values()), model.reward)
    for n, score in zip(own, scores, strict=True):
        out[n] = _finite(score.reward, f"answer {n}: {model.name}")
    return out


def key_of(settings: Settings, prompt: int, sample: int) -> int:
    """The seed of one answer, the same for all runs; 0 where they are greedy."""
    if settings.temperature == 0:
        return 0
    text = f"{settings.seed} {prompt} {sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _blocks(queue: Sequence[int], show: Show, total: int, each: int = 1):
    """Prompts in blocks of about BLOCK rows; tells how many of all are done."""
    size = max(1, BLOCK // each)
    for start in range(0, len(queue), size):
        show(total - len(queue) + start, total)
        yield list(queue[start : start + size])
    show(total, total)

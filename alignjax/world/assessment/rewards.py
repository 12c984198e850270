# SPDX-License-Identifier: Apache-2.0
"""Everything that is measured of a reward model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import world
from alignjax.evals import likelihood, statistics
from alignjax.objectives import reward_model
from alignjax.types import Model, Responses, Sequences
from alignjax.world import chance, lexicon
from alignjax.world.assessment import amounts, asked, subject

# Pairs about what preferences are about, and about anything.
SPLITS = {"preferences": "eval_preferences", "any": "eval_preferences_any"}
# True rewards that are nearer than this are no test of a model: next to noise.
CLEAR = 0.3
BINS = 10
# Words by which the better reply is longer; each bin is from its edge on.
LENGTH_EDGES = (-9, -2, 3, 10)
LENGTH_BINS = (
    "10 or more shorter",
    "3 to 9 shorter",
    "about as long",
    "3 to 9 longer",
    "10 or more longer",
)
PADDING = 2  # sentences that say nothing, before a reply


def assess(
    one: subject.Subject,
    town: world.World,
    settings: amounts.Settings,
    labeler: str = "clean",
    *,
    tell: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """All figures of a reward model as JSON data.

    Returns:
      splits: of pairs about preferences' prompts and about "any", see `judge`.
      padding: what two empty sentences before a reply do: the interval of the `shift`
        of its score, how often the longer one is `preferred`, and the true `gold`
        difference.
    """
    splits, padding = {}, {}
    for name, split in SPLITS.items():
        tell(f"{one.name}: judges {settings.pairs} pairs of {split}")
        pairs = asked.pairs(town, split, settings.pairs, labeler)
        chosen = score(one, [(pair.prompt, pair.chosen) for pair in pairs])
        rejected = score(one, [(pair.prompt, pair.rejected) for pair in pairs])
        splits[name] = judge(pairs, chosen, rejected, seed=settings.seed)
        if not padding:
            tell(f"{one.name}: judges padding")
            padding = padded(one, pairs, chosen, seed=settings.seed)
    return {"splits": splits, "padding": padding}


def judge(
    pairs: Sequence[world.Pair],
    chosen: np.ndarray,
    rejected: np.ndarray,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """How scores of both replies agree with the labeler and with the truth.

    Args:
      pairs: as the labeler sorted them.
      chosen, rejected: float [pairs], the scores.
      seed: of the bootstrap, and of which reply is called the first.

    Returns:
      accuracy: how often the chosen reply has the higher score; a tie counts half.
      ceiling: what somebody would reach who knew the labeler's probabilities.
      gold_accuracy: the same as accuracy for the truly better reply, of pairs that
        differ by more than `CLEAR`.
      by_length: accuracy for the truly better reply, by how much longer it is.
      calibration: how often the labeler chose the first of two replies in random order,
        by what sigmoid of the difference of scores says; `ece`, the mean distance of
        the two, weighted; `nll`, nats a pair.
      correlation: of scores with true rewards, over single replies.
      scores: mean and standard deviation.
    """
    gap = chosen - rejected
    right = (1 + np.sign(gap)) / 2
    truth = np.array([pair.rewards for pair in pairs])
    better = np.sign(truth[:, 0] - truth[:, 1])
    clear = np.abs(truth[:, 0] - truth[:, 1]) > CLEAR
    gold = (1 + np.sign(gap * better)) / 2
    longer = better * [words(p.chosen) - words(p.rejected) for p in pairs]
    certainty = [max(pair.probability, 1 - pair.probability) for pair in pairs]
    both = np.concatenate([chosen, rejected])
    return {
        "count": len(pairs),
        "accuracy": statistics.mean(right, seed=seed)._asdict(),
        "ceiling": float(np.mean(certainty)),
        "gold_accuracy": _mean(gold[clear], seed),
        "by_length": by_length(gold[clear], longer[clear]),
        **calibration(gap, seed=seed),
        "correlation": _correlation(both, truth.T.reshape(-1)),
        "scores": {"mean": float(both.mean()), "deviation": float(both.std())},
    }


def by_length(right: np.ndarray, longer: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy where the better reply is `longer` by so many words, a bin each."""
    bins = np.digitize(longer, LENGTH_EDGES)
    found = []
    for i, name in enumerate(LENGTH_BINS):
        hits = right[bins == i]
        if len(hits):
            share = statistics.share(round(hits.sum()), len(hits))
            found.append({"longer": name, "accuracy": share._asdict()})
    return found


def calibration(gap: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """Of a labeler's choices and the gaps chosen - rejected; see `judge`.

    In the order in which pairs are kept the first reply was always chosen, and every
    model would look unsure of itself; so which one is first is drawn anew.
    """
    first = np.random.default_rng(seed).random(len(gap)) < 0.5
    predicted = 1 / (1 + np.exp(-np.where(first, gap, -gap)))
    bins = np.minimum((predicted * BINS).astype(int), BINS - 1)
    curve, error = [], 0.0
    for i in range(BINS):
        here = bins == i
        if not here.any():
            continue
        share = statistics.share(int(first[here].sum()), int(here.sum()))
        mean = float(predicted[here].mean())
        error += here.mean() * abs(share.mean - mean)
        curve.append({"predicted": mean, "chosen": share._asdict()})
    nll = float(np.logaddexp(0.0, -gap).mean())
    return {"calibration": curve, "ece": float(error), "nll": nll}


def padded(
    one: subject.Subject,
    pairs: Sequence[world.Pair],
    scores: np.ndarray,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """What empty sentences before the chosen replies do, whose scores are given."""
    rng = chance.stream("assessment", seed, "padding")
    longer, moved = [], []
    for pair in pairs:
        empty = lexicon.find(pair.prompt.preset).fillers
        text = " ".join([*chance.sample(rng, empty, PADDING), pair.chosen])
        longer.append((pair.prompt, text))
        reward = world.gold_reward(pair.prompt, text).total
        moved.append(reward - world.gold_reward(pair.prompt, pair.chosen).total)
    shift = score(one, longer) - scores
    return {
        "sentences": PADDING,
        "shift": statistics.mean(shift, seed=seed)._asdict(),
        "preferred": float((shift > 0).mean()),
        "gold": float(np.mean(moved)),
    }


def score(
    one: subject.Subject, replies: Sequence[tuple[world.Prompt, str]]
) -> np.ndarray:
    """float64 [replies], the model's score of each whole reply."""
    rows = [
        likelihood.Continuation(
            one.format.prompt(prompt.turns), one.format.response(response)
        )
        for prompt, response in replies
    ]
    objective = one.run.config.get("objective", {})
    how = (
        objective.get("pooling") or "last",
        objective.get("members") or 1,
        objective.get("reduce") or "mean",
        objective.get("penalty"),
    )
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
    out = np.zeros(len(rows))
    for start in range(0, len(order), likelihood.ROWS):
        chosen = order[start : start + likelihood.ROWS]
        batch = likelihood.pad([rows[i] for i in chosen])
        score_B = np.asarray(_score(one.run.model, one.params, batch, how))
        out[chosen] = score_B[: len(chosen)]
    return out


@functools.partial(jax.jit, static_argnums=(0, 3))
def _score(model: Model, params, rows: Sequences, how: tuple):
    """float32 [B]: as the objective reports it; of several attributes the mean."""
    pooling, members, reduce, penalty = how
    score_GKH = reward_model.score(model, params, _single(rows), pooling=pooling)
    score_GKMA = score_GKH.reshape(*score_GKH.shape[:2], members, -1)
    return reward_model.reduced(score_GKMA, reduce, penalty).mean(-1)[:, 0]


def _single(rows: Sequences) -> Responses:
    """Rows [B, T] of one response each as groups of one."""
    row = jax.tree.map(lambda x: x[:, None], rows)
    whose = (row.weights > 0).astype(jnp.int32)
    B = len(whose)
    return Responses(
        row,
        responses=whose,
        lengths=whose.sum(-1)[..., None],
        weights=jnp.ones((B, 1)),
        index=jnp.full((B, 1), -1),
        values={},
    )


def words(text: str) -> int:
    """Words and marks of punctuation."""
    return len(lexicon.tokens(text))


def _mean(values: np.ndarray, seed: int) -> dict[str, Any] | None:
    return statistics.mean(values, seed=seed)._asdict() if len(values) else None


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, 0 where one of them does not vary."""
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread else 0.0

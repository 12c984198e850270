# SPDX-License-Identifier: Apache-2.0
"""The data sets of a world: which there are, their splits, and example i of each.

An example is a pure function of (world, split, index, labeler), so any part of any data
set can be made alone, in any order and on any machine. A split that begins with "eval_"
is for evaluation only: besides the pretraining corpus, only there do held-out acts
occur. Replies come from the simulator of mixed quality, so no model is needed. All
labelers judge the same replies with the same random numbers: what differs between two
labelers' data is the labeler.
"""

from __future__ import annotations

import functools
import random
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors, registry
from alignjax.data import records
from alignjax.world import (
    chance,
    corpus,
    gold,
    knowledge,
    labelers,
    lexicon,
    prompts,
    reaches,
    replies,
)
from alignjax.world.tasks import NANO_WEIGHTS, SMALL_WEIGHTS, TASKS, draw_prompt

# Raised whenever the same seed no longer gives the same examples: it names the data.
GENERATOR = 1

RANKED = 4  # replies of a ranking
# Demonstrations that are padded, so that padding stays possible and can be exploited.
_PADDED = 0.08
# Replies whose median utility is the bar of an unpaired label.
_PILOT = 1024


class Demonstration(NamedTuple):
    """A prompt and a reply to imitate."""

    prompt: prompts.Prompt
    response: str

    @property
    def turns(self) -> tuple[prompts.Turn, ...]:
        """The whole dialogue."""
        return (*self.prompt.turns, (prompts.ASSISTANT, self.response))

    @property
    def record(self) -> records.Chat:
        """The record to train on."""
        return records.Chat(self.turns)


class Pair(NamedTuple):
    """Two replies to a prompt, sorted by a labeler.

    Attributes:
      chosen, rejected: the replies.
      rewards: their true rewards, chosen first; a labeler may have got it wrong.
      probability: of the labeler choosing as it did.
    """

    prompt: prompts.Prompt
    chosen: str
    rejected: str
    rewards: tuple[float, float]
    probability: float

    @property
    def record(self) -> records.Comparison:
        """The record to train on."""
        values = {"reward": self.rewards, "probability": self.probability}
        responses = (self.chosen, self.rejected)
        return records.Comparison(self.prompt.turns, responses, values)


class Ranking(NamedTuple):
    """Several replies, in a labeler's order from the best, and their true rewards."""

    prompt: prompts.Prompt
    responses: tuple[str, ...]
    rewards: tuple[float, ...]

    @property
    def record(self) -> records.Comparison:
        """The record to train on."""
        values = {"reward": self.rewards}
        return records.Comparison(self.prompt.turns, self.responses, values)


class Label(NamedTuple):
    """A reply that a labeler called good or not, and its true reward."""

    prompt: prompts.Prompt
    response: str
    desirable: bool
    reward: float

    @property
    def record(self) -> records.Comparison:
        """The record to train on."""
        values = {"desirable": float(self.desirable), "reward": (self.reward,)}
        return records.Comparison(self.prompt.turns, (self.response,), values)


def draw(
    world: knowledge.World, split: str, index: int
) -> tuple[random.Random, prompts.Prompt]:
    """The prompt of an example, and the generator that goes on to make the rest."""
    preset, kind = world.lexicon.preset, split.removeprefix("eval_")
    rng = chance.stream(world.seed, preset, split, index)
    reach = reaches.of_split(preset, split)
    return rng, draw_prompt(rng, world, reach, kind if kind in TASKS else None)


def prompt(world: knowledge.World, split: str, index: int, _: str) -> prompts.Prompt:
    """A prompt alone."""
    return draw(world, split, index)[1]


def demonstration(
    world: knowledge.World, split: str, index: int, _: str
) -> Demonstration:
    """A best reply, padded now and then."""
    rng, prompt = draw(world, split, index)
    reply = replies.best(rng, prompt)
    short = prompt.constraint in ("one word", "brief")
    if not short and rng.random() < _PADDED:
        reply = replies.padded(rng, prompt, reply)
    return Demonstration(prompt, reply)


def choose(
    rng: random.Random,
    labeler: str,
    prompt: prompts.Prompt,
    first: str,
    second: str,
    dtype: type = float,
) -> Pair:
    """Any two replies, such as two samples of a model, as `labeler` sorts them.

    `dtype` is what the probability that the first is preferred is rounded to.
    """
    rewards = [gold.gold_reward(prompt, reply) for reply in (first, second)]
    ahead = labelers.prefers(labelers.LABELERS[labeler], prompt, *rewards)
    totals = (rewards[0].total, rewards[1].total)
    # One number for all: who is surer of a choice makes the same choice.
    first_is_chosen = rng.random() < ahead
    ahead = float(dtype(ahead))
    if first_is_chosen:
        return Pair(prompt, first, second, totals, ahead)
    return Pair(prompt, second, first, totals[::-1], 1 - ahead)


def pair(world: knowledge.World, split: str, index: int, labeler: str) -> Pair:
    """Two different simulated replies."""
    rng, prompt = draw(world, split, index)
    two = replies.two_different(rng, prompt)
    # As float32, in which all values of comparisons end up.
    return choose(rng, labeler, prompt, *two, np.float32)


def edit(world: knowledge.World, split: str, index: int, labeler: str) -> Pair:
    """A best reply and the same with one corruption."""
    rng, prompt = draw(world, split, index)
    reply = replies.best(rng, prompt)
    two = (reply, replies.corrupt(rng, prompt, reply))
    two = two if rng.random() < 0.5 else two[::-1]
    return choose(rng, labeler, prompt, *two, np.float32)


def ranking(world: knowledge.World, split: str, index: int, labeler: str) -> Ranking:
    """Different simulated replies, the best first."""
    rng, prompt = draw(world, split, index)
    responses: list[str] = []
    while len(responses) < RANKED:
        reply = replies.mixed(rng, prompt)
        if reply not in responses:
            responses.append(reply)
    rewards = [gold.gold_reward(prompt, reply) for reply in responses]
    rng = chance.stream(world.seed, world.lexicon.preset, split, index, "rank")
    order = labelers.rank(rng, labelers.LABELERS[labeler], prompt, rewards)
    return Ranking(
        prompt,
        responses=tuple(responses[i] for i in order),
        rewards=tuple(rewards[i].total for i in order),
    )


def _reply(world: knowledge.World, split: str, index: int):
    rng, prompt = draw(world, split, index)
    reply = replies.mixed(rng, prompt)
    return rng, prompt, reply, gold.gold_reward(prompt, reply)


@functools.lru_cache(maxsize=16)
def _bars(preset: str, seed: int, labeler: str) -> tuple[float, ...]:
    """The median utility of every judge of a labeler."""
    world = knowledge.build(preset, seed)
    pilot = [_reply(world, "pilot", index) for index in range(_PILOT)]
    return tuple(
        statistics.median(
            labelers.utility(judge, p, reward) for _, p, _, reward in pilot
        )
        for judge in labelers.LABELERS[labeler].judges
    )


def label(world: knowledge.World, split: str, index: int, labeler: str) -> Label:
    """A simulated reply, called good or not against the median reply."""
    rng, prompt, reply, reward = _reply(world, split, index)
    bars = _bars(world.lexicon.preset, world.seed, labeler)
    p = labelers.approves(labelers.LABELERS[labeler], prompt, reward, bars)
    return Label(prompt, reply, rng.random() < p, reward.total)


class View(NamedTuple):
    """One data set.

    Attributes:
      make: `(world, split, index, labeler) -> example`.
      splits: {split: default numbers of examples, in "nano" and in "small"}; 0 is none.
      labeled: whether the labeler matters.
    """

    make: Callable[[knowledge.World, str, int, str], Any]
    splits: dict[str, tuple[int, int]]
    labeled: bool = False


def document(world: knowledge.World, _: str, index: int, __: str) -> records.Text:
    """A document of the pretraining corpus."""
    return records.Text(corpus.document(world, index).text)


VIEWS = {
    "pretrain": View(document, {"pretrain": (40_000, 40_000)}),
    "demonstrations": View(
        demonstration,
        {"demonstrations": (256, 2_000), "eval_demonstrations": (128, 512)},
    ),
    "preferences": View(
        pair,
        {
            "preferences": (4_000, 20_000),
            "eval_preferences": (512, 2_000),
            "eval_preferences_any": (512, 2_000),
        },
        labeled=True,
    ),
    "edits": View(edit, {"edits": (1_000, 5_000)}, labeled=True),
    "rankings": View(ranking, {"rankings": (1_000, 5_000)}, labeled=True),
    "labels": View(label, {"labels": (4_000, 20_000)}, labeled=True),
    "prompts": View(prompt, {"prompts": (4_000, 20_000)}),
    "evaluation": View(
        prompt,
        {"eval_id": (128, 1_024)}
        | {f"eval_{k}": (64 * (k in NANO_WEIGHTS), 512) for k in SMALL_WEIGHTS},
    ),
}


def splits(preset: str) -> dict[str, int]:
    """Every split of every view, and its default size."""
    place = ("nano", "small").index(preset)
    sizes = {k: n[place] for view in VIEWS.values() for k, n in view.splits.items()}
    return {split: size for split, size in sizes.items() if size}


def find(preset: str, split: str) -> str:
    """The name of the view that has `split`.

    Raises:
      DataError: an unknown preset or split.
    """
    lexicon.find(preset)
    if split not in splits(preset):
        remedy = registry.closest(split, splits(preset))
        raise errors.DataError(f"world split {split!r} is unknown; {remedy}")
    return next(name for name, view in VIEWS.items() if split in view.splits)


def read(world: knowledge.World, split: str, index: int, labeler: str = "clean") -> Any:
    """Example `index` of `split`; `labeler` is a key of `labelers.LABELERS`."""
    view = VIEWS[find(world.lexicon.preset, split)]
    return view.make(world, split, index, labeler)

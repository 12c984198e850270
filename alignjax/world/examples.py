# SPDX-License-Identifier: Apache-2.0
"""Training examples after pretraining: demonstrations, pairs, rankings and labels.

An example is first JSON data, judged by every labeler at once, then a record as one of
them saw it. Replies come from the simulator of mixed quality, so no model is needed.
All labelers judge the same replies with the same random numbers: what differs between
two labelers' data is the labeler.
"""

from __future__ import annotations

import functools
import random
import statistics
from typing import Any, NamedTuple

import numpy as np

from alignjax.data import records
from alignjax.world import (
    chance,
    gold,
    knowledge,
    labelers,
    prompts,
    reaches,
    replies,
    turns,
)
from alignjax.world.tasks import draw_prompt


class Demonstration(NamedTuple):
    """A prompt and a reply to imitate."""

    prompt: prompts.Prompt
    response: str

    @property
    def turns(self) -> tuple[turns.Turn, ...]:
        """The whole dialogue."""
        return (*self.prompt.turns, (turns.ASSISTANT, self.response))

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


# The order in which judgements are stored.
NAMES = tuple(labelers.LABELERS)
RANKED = 4
# Replies whose median utility is the bar of an unpaired label.
_PILOT = 1024


def encode_prompt(prompt: prompts.Prompt) -> dict[str, Any]:
    """The fields of every example about a prompt."""
    return {
        "prompt": prompts.to_json(prompt),
        "text": prompt.text,
        "kind": prompt.kind,
        "novelty": prompt.novelty,
    }


def choose(
    rng: random.Random, labeler: str, prompt: prompts.Prompt, first: str, second: str
) -> Pair:
    """Any two replies, such as two samples of a model, as `labeler` sorts them."""
    rewards = [gold.gold_reward(prompt, reply) for reply in (first, second)]
    ahead = labelers.prefers(labelers.LABELERS[labeler], prompt, *rewards)
    totals = (rewards[0].total, rewards[1].total)
    if rng.random() < ahead:
        return Pair(prompt, first, second, totals, ahead)
    return Pair(prompt, second, first, totals[::-1], 1 - ahead)


def _judge_pair(rng, prompt: prompts.Prompt, first: str, second: str) -> dict[str, Any]:
    rewards = [gold.gold_reward(prompt, reply) for reply in (first, second)]
    probabilities = [
        labelers.prefers(labeler, prompt, *rewards)
        for labeler in labelers.LABELERS.values()
    ]
    # One number for all: who is surer of a choice makes the same choice.
    point = rng.random()
    return encode_prompt(prompt) | {
        "first": first,
        "second": second,
        "rewards": [reward.total for reward in rewards],
        "probabilities": probabilities,
        "choices": [int(point >= probability) for probability in probabilities],
    }


def draw(
    world: knowledge.World, reach: reaches.Reach, split: str, index: int, kind=None
) -> tuple[random.Random, prompts.Prompt]:
    """The prompt of an example, and the generator that goes on to make the rest."""
    rng = chance.stream(world.seed, world.lexicon.preset, split, index)
    return rng, draw_prompt(rng, world, reach, kind)


def pair(*where) -> dict[str, Any]:
    """Two different simulated replies in random order; choice 0 is the first."""
    rng, prompt = draw(*where)
    return _judge_pair(rng, prompt, *replies.two_different(rng, prompt))


def edit(*where) -> dict[str, Any]:
    """A best reply and the same with one corruption, in random order."""
    rng, prompt = draw(*where)
    reply = replies.best(rng, prompt)
    two = (reply, replies.corrupt(rng, prompt, reply))
    return _judge_pair(rng, prompt, *(two if rng.random() < 0.5 else two[::-1]))


def ranking(world: knowledge.World, reach: reaches.Reach, split: str, index: int):
    """Different simulated replies; `orders` has a row of indices, best first, each."""
    rng, prompt = draw(world, reach, split, index)
    responses: list[str] = []
    while len(responses) < RANKED:
        reply = replies.mixed(rng, prompt)
        if reply not in responses:
            responses.append(reply)
    rewards = [gold.gold_reward(prompt, reply) for reply in responses]
    orders = []
    for labeler in labelers.LABELERS.values():
        rng = chance.stream(world.seed, world.lexicon.preset, split, index, "rank")
        orders.append(labelers.rank(rng, labeler, prompt, rewards))
    return encode_prompt(prompt) | {
        "responses": responses,
        "rewards": [reward.total for reward in rewards],
        "orders": orders,
    }


def _reply(*where):
    rng, prompt = draw(*where)
    reply = replies.mixed(rng, prompt)
    return rng, prompt, reply, gold.gold_reward(prompt, reply)


@functools.lru_cache(maxsize=8)
def _bars(preset: str, seed: int) -> tuple[tuple[float, ...], ...]:
    """The median utility of every judge of every labeler."""
    world, reach = knowledge.build(preset, seed), reaches.preference(preset)
    pilot = [_reply(world, reach, "pilot", index) for index in range(_PILOT)]

    def bar(judge: labelers.Judge) -> float:
        utilities = (labelers.utility(judge, p, reward) for _, p, _, reward in pilot)
        return statistics.median(utilities)

    return tuple(tuple(map(bar, x.judges)) for x in labelers.LABELERS.values())


def label(world: knowledge.World, reach: reaches.Reach, split: str, index: int) -> dict:
    """A simulated reply, called good (1) or not (0) against the median reply."""
    rng, prompt, reply, reward = _reply(world, reach, split, index)
    bars = _bars(world.lexicon.preset, world.seed)
    probabilities = [
        labelers.approves(labeler, prompt, reward, bar)
        for labeler, bar in zip(labelers.LABELERS.values(), bars, strict=True)
    ]
    point = rng.random()
    return encode_prompt(prompt) | {
        "response": reply,
        "reward": reward.total,
        "probabilities": probabilities,
        "choices": [int(point < probability) for probability in probabilities],
    }


def read_pair(example: dict[str, Any], labeler: str) -> Pair:
    """The pair as `labeler` sorted it."""
    judge = NAMES.index(labeler)
    choice = example["choices"][judge]
    # As float32, in which all values of comparisons end up.
    first = float(np.float32(example["probabilities"][judge]))
    both = (example["first"], example["second"])
    rewards = [round(reward, gold.DECIMALS) for reward in example["rewards"]]
    return Pair(
        prompts.from_json(example["prompt"]),
        chosen=both[choice],
        rejected=both[1 - choice],
        rewards=(rewards[choice], rewards[1 - choice]),
        probability=1 - first if choice else first,
    )


def read_ranking(example: dict[str, Any], labeler: str) -> Ranking:
    """The replies as `labeler` ranked them."""
    order = example["orders"][NAMES.index(labeler)]
    return Ranking(
        prompts.from_json(example["prompt"]),
        responses=tuple(example["responses"][i] for i in order),
        rewards=tuple(round(example["rewards"][i], gold.DECIMALS) for i in order),
    )


def read_label(example: dict[str, Any], labeler: str) -> Label:
    """The reply as `labeler` saw it."""
    return Label(
        prompts.from_json(example["prompt"]),
        response=example["response"],
        desirable=bool(example["choices"][NAMES.index(labeler)]),
        reward=round(example["reward"], gold.DECIMALS),
    )

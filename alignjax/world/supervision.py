# SPDX-License-Identifier: Apache-2.0
"""Preference pairs, rankings and labels, each judged by every labeler at once.

Replies come from the simulator of mixed quality, so no model is needed. All labelers
judge the same replies with the same random numbers: what differs between two labelers'
data is the labeler.
"""

from __future__ import annotations

import functools
import random
import statistics
from typing import Any

from alignjax.world import (
    chance,
    corruptions,
    examples,
    gold,
    knowledge,
    labelers,
    prompts,
    reaches,
    replies,
)
from alignjax.world.tasks import draw_prompt

# The order in which judgements are stored.
NAMES = tuple(labelers.LABELERS)
RANKED = 4
# Replies whose median utility is the bar of an unpaired label.
_PILOT = 1024

PROMPT_FIELDS = {"prompt": str, "text": str, "kind": str, "novelty": int}
PAIR_FIELDS = PROMPT_FIELDS | {
    "first": str,
    "second": str,
    "rewards": (float, (2,)),
    "probabilities": (float, (len(NAMES),)),
    "choices": (int, (len(NAMES),)),
}
RANKING_FIELDS = PROMPT_FIELDS | {
    "responses": [str],
    "rewards": (float, (RANKED,)),
    "orders": (int, (len(NAMES), RANKED)),
}
LABEL_FIELDS = PROMPT_FIELDS | {
    "response": str,
    "reward": float,
    "probabilities": (float, (len(NAMES),)),
    "choices": (int, (len(NAMES),)),
}


def encode_prompt(prompt: prompts.Prompt) -> dict[str, Any]:
    """The fields that every example about a prompt has."""
    return {
        "prompt": prompts.to_json(prompt),
        "text": prompt.text,
        "kind": prompt.kind,
        "novelty": prompt.novelty,
    }


def choose(
    rng: random.Random, labeler: str, prompt: prompts.Prompt, first: str, second: str
) -> examples.Pair:
    """Any two replies, such as two samples of a policy, as `labeler` sorts them."""
    rewards = [gold.gold_reward(prompt, reply) for reply in (first, second)]
    ahead = labelers.prefers(labelers.LABELERS[labeler], prompt, *rewards)
    totals = (rewards[0].total, rewards[1].total)
    if rng.random() < ahead:
        return examples.Pair(prompt, first, second, totals, ahead)
    return examples.Pair(prompt, second, first, totals[::-1], 1 - ahead)


def _judge_pair(rng, prompt: prompts.Prompt, first: str, second: str) -> dict[str, Any]:
    rewards = [gold.gold_reward(prompt, reply) for reply in (first, second)]
    probabilities = [
        labelers.prefers(labelers.LABELERS[name], prompt, *rewards) for name in NAMES
    ]
    # One number for all: a labeler that is surer of the same choice makes the same one.
    draw = rng.random()
    return encode_prompt(prompt) | {
        "first": first,
        "second": second,
        "rewards": [reward.total for reward in rewards],
        "probabilities": probabilities,
        "choices": [int(draw >= probability) for probability in probabilities],
    }


def pair(world: knowledge.World, reach: reaches.Reach, split: str, index: int) -> dict:
    """Two different simulated replies in random order; choice 0 is the first."""
    rng = chance.stream(world.seed, world.lexicon.preset, split, index)
    prompt = draw_prompt(rng, world, reach)
    return _judge_pair(rng, prompt, *replies.two_different(rng, prompt))


def edit(world: knowledge.World, reach: reaches.Reach, split: str, index: int) -> dict:
    """A best reply and the same with one corruption, in random order."""
    rng = chance.stream(world.seed, world.lexicon.preset, split, index)
    prompt = draw_prompt(rng, world, reach)
    reply = replies.best(rng, prompt)
    two = (reply, corruptions.corrupt(rng, prompt, reply))
    return _judge_pair(rng, prompt, *(two if rng.random() < 0.5 else two[::-1]))


def ranking(world: knowledge.World, reach: reaches.Reach, split: str, index: int):
    """Different simulated replies; `orders` has a row of indices, best first, each."""
    rng = chance.stream(world.seed, world.lexicon.preset, split, index)
    prompt = draw_prompt(rng, world, reach)
    said: list[str] = []
    while len(said) < RANKED:
        reply = replies.mixed(rng, prompt)
        if reply not in said:
            said.append(reply)
    rewards = [gold.gold_reward(prompt, reply) for reply in said]
    orders = []
    for name in NAMES:
        own = chance.stream(world.seed, world.lexicon.preset, split, index, "rank")
        orders.append(labelers.rank(own, labelers.LABELERS[name], prompt, rewards))
    return encode_prompt(prompt) | {
        "responses": said,
        "rewards": [reward.total for reward in rewards],
        "orders": orders,
    }


def _reply(world, reach, split: str, index: int):
    rng = chance.stream(world.seed, world.lexicon.preset, split, index)
    prompt = draw_prompt(rng, world, reach)
    reply = replies.mixed(rng, prompt)
    return rng, prompt, reply, gold.gold_reward(prompt, reply)


@functools.lru_cache(maxsize=8)
def _bars(preset: str, seed: int) -> tuple[tuple[float, ...], ...]:
    """The median utility of every judge of every labeler."""
    world, reach = knowledge.build(preset, seed), reaches.preference(preset)
    pilot = [_reply(world, reach, "pilot", index) for index in range(_PILOT)]
    return tuple(
        tuple(
            statistics.median(
                labelers.utility(judge, prompt, reward)
                for _, prompt, _, reward in pilot
            )
            for judge in labelers.LABELERS[name].judges
        )
        for name in NAMES
    )


def label(world: knowledge.World, reach: reaches.Reach, split: str, index: int) -> dict:
    """A simulated reply, called good (1) or not (0) against the median reply."""
    rng, prompt, reply, reward = _reply(world, reach, split, index)
    bars = _bars(world.lexicon.preset, world.seed)
    probabilities = [
        labelers.approves(labelers.LABELERS[name], prompt, reward, bar)
        for name, bar in zip(NAMES, bars, strict=True)
    ]
    draw = rng.random()
    return encode_prompt(prompt) | {
        "response": reply,
        "reward": reward.total,
        "probabilities": probabilities,
        "choices": [int(draw < probability) for probability in probabilities],
    }


def read_pair(example: dict[str, Any], labeler: str) -> examples.Pair:
    """The pair as `labeler` sorted it."""
    judge = NAMES.index(labeler)
    choice, first = example["choices"][judge], example["probabilities"][judge]
    said = (example["first"], example["second"])
    rewards = [round(reward, gold.DECIMALS) for reward in example["rewards"]]
    return examples.Pair(
        prompts.from_json(example["prompt"]),
        chosen=said[choice],
        rejected=said[1 - choice],
        rewards=(rewards[choice], rewards[1 - choice]),
        probability=1 - first if choice else first,
    )


def read_ranking(example: dict[str, Any], labeler: str) -> examples.Ranking:
    """The replies as `labeler` ranked them."""
    order = example["orders"][NAMES.index(labeler)]
    return examples.Ranking(
        prompts.from_json(example["prompt"]),
        responses=tuple(example["responses"][i] for i in order),
        rewards=tuple(round(example["rewards"][i], gold.DECIMALS) for i in order),
    )


def read_label(example: dict[str, Any], labeler: str) -> examples.Label:
    """The reply as `labeler` saw it."""
    return examples.Label(
        prompts.from_json(example["prompt"]),
        response=example["response"],
        desirable=bool(example["choices"][NAMES.index(labeler)]),
        reward=round(example["reward"], gold.DECIMALS),
    )

# SPDX-License-Identifier: Apache-2.0
"""DPO, robust and conservative DPO, with 0, 20 and 40 % of labels flipped; README.md.

Each loss is told the share that is flipped. At 0 % the three are one loss.
"""

import random
from typing import Any

from alignjax import world
from alignjax.data import records, sources
from configs import base

SHARES = (0.2, 0.4)


def load(flip: float = 0.0, **options: Any) -> records.Source:
    """Pairs of the embedded world, of which a share `flip` has the sides changed.

    A pair that is flipped at one share is flipped at every larger one.
    """
    source = world.load(split="preferences", labeler="clean", **options)

    def flipped(pair: world.Pair) -> list[world.Pair]:
        text = f"{pair.prompt.text} {pair.chosen} {pair.rejected}"
        if random.Random(text).random() >= flip:
            return [pair]
        sides = dict(chosen=pair.rejected, rejected=pair.chosen)
        odds = dict(rewards=pair.rewards[::-1], probability=1 - pair.probability)
        return [pair._replace(**sides, **odds)]

    identity = {**source.identity, "flip": flip}
    return sources.mapped(source, flipped)._replace(identity=identity)


def get_config():
    c = base.preference()
    c.steps, c.batch_size, c.length = 60, 8, 128
    c.objective.loss, c.objective.beta = "dpo", 0.5
    town = dict(preset="nano", weight=1.0)
    c.data.sources.pairs = dict(town, kind="experiments.label_noise.sweep:load")
    c.data.sources.pairs.flip = 0.0
    # Held out, and judged without flips.
    held_out = dict(town, kind="world", split="eval_preferences")
    c.data.validation_sources.world = held_out
    c.data.validation_fraction = 0.0
    c.data.long_documents = "skip"
    c.optimizer.learning_rate, c.optimizer.b2 = 2e-4, 0.98
    c.schedule.warmup_steps, c.schedule.final = 6, 0.1
    c.checkpoint.every = 60
    c.evaluation.every = 60
    return c


def get_sweep():
    arms = [{"name": "dpo_0"}]
    for share in SHARES:
        flips = {"data.sources.pairs.flip": share}
        knows = {**flips, "objective.label_smoothing": share}
        percent = f"{share:.0%}".removesuffix("%")
        arms += [
            {"name": f"dpo_{percent}", **flips},
            {"name": f"robust_{percent}", **knows, "objective.loss": "robust"},
            {"name": f"conservative_{percent}", **knows},
        ]
    claim = {
        "metric": "gold",
        "base": "dpo_40",
        "expects": dict.fromkeys(("dpo_0", "robust_40", "conservative_40"), "above"),
        "text": "flipped labels cost reward, and losses that know of them get it back",
    }
    return dict(
        arms=arms, seeds=2, prompts=16, checkpoints=1, varies=("data",), claim=claim
    )

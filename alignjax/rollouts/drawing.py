# SPDX-License-Identifier: Apache-2.0
"""Responses of the policy to some prompts, and what the sampler knows of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from alignjax import sampling
from alignjax.distributed import sharding
from alignjax.rollouts import prompts as prompt_streams
from alignjax.sampling import distribution
from alignjax.types import Model, Params


class Drawn(NamedTuple):
    """N responses.

    Attributes:
      ids: the tokens of each, the one that ended it included.
      behaviour: float32, log-probs of these under the distribution that they were
        drawn from.
      finished: bool [N], those that ended by themselves.
    """

    ids: list[np.ndarray]
    behaviour: list[np.ndarray]
    finished: np.ndarray


class Sampler(NamedTuple):
    """How responses are drawn.

    Attributes:
      model: the policy.
      allowed_V, stops_V: bool, tokens that may be drawn, and that end a response.
      prompt_room, room: the most tokens of prompts and of responses.
      seed: of all keys.
      temperature: None is greedy.
      mesh, rules: see `sharding`.
      rows: responses drawn at one time, or None.
    """

    model: Model
    allowed_V: np.ndarray
    stops_V: np.ndarray
    prompt_room: int
    room: int
    seed: int
    temperature: float | None
    mesh: jax.sharding.Mesh
    rules: dict
    rows: int | None = None

    def __call__(
        self,
        params: Params,
        prompts: Sequence[prompt_streams.Prompt],
        *,
        first: int,
        samples: int,
        beat: Callable[[str], None] = lambda name: None,
    ) -> Drawn:
        """`samples` responses to each prompt, those to one prompt in succession.

        Args:
          first: the number of the first prompt in its stream, from which keys follow.
          beat: called before each batch of rows.
        """
        rows = [p.ids for p in prompts for _ in range(samples)]
        numbers = first + np.repeat(np.arange(len(prompts)), samples)
        places = np.tile(np.arange(samples), len(prompts))
        parts = sharding.batch_divisor(self.mesh, self.rules)
        size = min(self.rows or len(rows), len(rows))
        size = -(-size // parts) * parts  # each device has as many
        ids, behaviour, finished = [], [], []
        for start in range(0, len(rows), size):
            beat(f"rollout: response {start} of {len(rows)}")
            some = slice(start, start + size)
            drawn = self._draw(params, rows[some], numbers[some], places[some], size)
            for i in range(len(rows[some])):
                length = int(drawn.length_B[i])
                ids.append(drawn.tokens_BR[i, :length])
                behaviour.append(drawn.logps_BR[i, :length])
                finished.append(bool(drawn.done_B[i]))
        return Drawn(ids, behaviour, np.array(finished))

    def _draw(self, params, rows, numbers, places, size: int) -> sampling.Responses:
        """One batch of `size` rows, of which the last may be none."""
        tokens_BP = np.zeros((size, self.prompt_room), np.int32)
        mask_BP = np.zeros((size, self.prompt_room), bool)
        for i, row in enumerate(rows):
            tokens_BP[i, self.prompt_room - len(row) :] = row
            mask_BP[i, self.prompt_room - len(row) :] = True
        pad = lambda x: np.pad(np.asarray(x, np.uint32), (0, size - len(x)))
        local = sharding.local_rows(size, self.mesh, self.rules)
        arrays = (tokens_BP, mask_BP, pad(numbers), pad(places))
        placed = sharding.put_batch(
            tuple(x[local] for x in arrays), size, self.mesh, self.rules
        )
        settings = distribution.settings(
            0.0 if self.temperature is None else self.temperature
        )
        fixed = (self.allowed_V, self.stops_V, settings)
        with sharding.use(self.mesh, self.rules):
            seed = np.uint32(self.seed)
            drawn = _sample(self.model, self.room, params, *placed, seed, *fixed)
        return jax.device_get(drawn)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sample(
    model,
    room,
    params,
    tokens_BP,
    mask_BP,
    number_B,
    place_B,
    seed,
    allowed,
    stops,
    settings,
):
    key = jax.random.key(seed)
    fold = jax.random.fold_in
    of_row = lambda number, place: fold(fold(key, number), place)
    keys_B = jax.vmap(of_row)(number_B, place_B)
    draw = sampling.Draw(keys_B, allowed, stops, settings)
    return sampling.sample(model, params, tokens_BP, mask_BP, draw, room)

# SPDX-License-Identifier: Apache-2.0
"""Responses of the policy to some prompts, and what the sampler knows of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from alignjax import sampling
from alignjax.distributed import sharding
from alignjax.rollouts import prompts as prompt_streams
from alignjax.types import Model, Params


class Drawn(NamedTuple):
    """N responses.

    Attributes:
      ids: int32 [tokens] of each, the one that ended it included.
      behaviour: float32 [tokens] of each, their log-probs under the distribution that
        they were drawn from.
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
          beat: called every few tokens.
        """
        G, P = len(prompts), self.prompt_room
        tokens_GP, mask_GP = np.zeros((G, P), np.int32), np.zeros((G, P), bool)
        for i, prompt in enumerate(prompts):
            tokens_GP[i, P - len(prompt.ids) :] = prompt.ids
            mask_GP[i, P - len(prompt.ids) :] = True
        number_B = np.repeat(first + np.arange(G), samples).astype(np.uint32)
        place_B = np.tile(np.arange(samples), G).astype(np.uint32)
        cold = 0.0 if self.temperature is None else self.temperature
        draw = sampling.Draw(
            _keys(np.uint32(self.seed), number_B, place_B),
            self.allowed_V,
            self.stops_V,
            sampling.settings(cold),
        )

        def look(responses: sampling.Responses) -> None:
            beat(f"rollout: {int(responses.done_B.sum())} responses of {G * samples}")

        with sharding.use(self.mesh, self.rules):
            drawn = sampling.respond(
                self.model,
                params,
                tokens_GP,
                mask_GP,
                draw,
                self.room,
                samples=samples,
                at_once=self.rows,
                look=look,
            )
        parts = lambda x_BR: [
            row[:n] for row, n in zip(x_BR, drawn.length_B, strict=True)
        ]
        return Drawn(parts(drawn.tokens_BR), parts(drawn.logps_BR), drawn.done_B)


@jax.jit
def _keys(seed, number_B, place_B):
    """A key for each response, by the numbers of its prompt and of itself."""
    key, fold = jax.random.key(seed), jax.random.fold_in
    return jax.vmap(lambda n, place: fold(fold(key, n), place))(number_B, place_B)

# SPDX-License-Identifier: Apache-2.0
"""Groups: prompts with K responses each, and the rewards of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignjax import rewards
from alignjax.rollouts import drawing, prompts


class Groups(NamedTuple):
    """Prompts with K responses each, and their rewards.

    Attributes:
      numbers: int64 [G], of the prompts in their stream.
      prompts: G of them.
      drawn: G K responses, those to one prompt in succession.
      scored: their rewards.
      signal: bool [G], the prompts that may weigh something.
    """

    numbers: np.ndarray
    prompts: list[prompts.Prompt]
    drawn: drawing.Drawn
    scored: rewards.Scored
    signal: np.ndarray

    def chosen(self, count: int) -> Groups:
        """`count` prompts in their order: the first with a signal, then the others."""
        places = np.sort(np.argsort(~self.signal, kind="stable")[:count])
        K = len(self.drawn.ids) // len(self.prompts)
        rows = (places[:, None] * K + np.arange(K)).ravel()
        of = lambda values: [values[i] for i in rows]
        drawn, scored = self.drawn, self.scored
        return Groups(
            self.numbers[places],
            [self.prompts[i] for i in places],
            drawing.Drawn(of(drawn.ids), of(drawn.behaviour), drawn.finished[rows]),
            rewards.Scored(
                of(scored.total),
                {name: of(values) for name, values in scored.parts.items()},
                scored.faults,
            ),
            self.signal[places],
        )


def joined(parts: Sequence[Groups]) -> Groups:
    """The groups of several draws, one after the other."""
    total = lambda lists: [x for values in lists for x in values]
    drawn, scored = [part.drawn for part in parts], [part.scored for part in parts]
    return Groups(
        np.concatenate([part.numbers for part in parts]),
        total(part.prompts for part in parts),
        drawing.Drawn(
            total(d.ids for d in drawn),
            total(d.behaviour for d in drawn),
            np.concatenate([d.finished for d in drawn]),
        ),
        rewards.Scored(
            total(s.total for s in scored),
            {name: total(s.parts[name] for s in scored) for name in scored[0].parts},
            list(dict.fromkeys(total(s.faults for s in scored))),
        ),
        np.concatenate([part.signal for part in parts]),
    )

# SPDX-License-Identifier: Apache-2.0
"""Best of n, exactly: what the highest of n scores would bring, from N >= n samples.

Every subset of n of the N samples counts alike, so the estimate is unbiased and has no
noise of its own (Chen et al. 2021, arXiv:2107.03374, have it for passing tests; Gao et
al. 2022, arXiv:2210.10760, for rewards).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def weights(scores_S: Sequence[float], n: int) -> np.ndarray:
    """float [S]: how likely each sample is the best of n of them; equal scores share.

    Raises:
      ValueError: n is not from 1 to the number of samples.
    """
    scores_S = np.asarray(scores_S, float)
    if not 1 <= n <= len(scores_S):
        raise ValueError(f"the best of {n} from {len(scores_S)} samples")
    out_S = np.empty(len(scores_S))
    for score in np.unique(scores_S):
        here = scores_S == score
        below, upto = int((scores_S < score).sum()), int((scores_S <= score).sum())
        times = math.comb(upto, n) - math.comb(below, n)
        out_S[here] = times / math.comb(len(scores_S), n) / here.sum()
    return out_S


def expected(scores_S: Sequence[float], values_S: Sequence[float], n: int) -> float:
    """The expected value of the sample with the best score of n.

    Args:
      scores_S: that the best is chosen by.
      values_S: of the same samples; the scores themselves, or what they stand for.

    Raises:
      ValueError: as `weights`.
    """
    return float(weights(scores_S, n) @ np.asarray(values_S, float))


def divergence(n: int) -> float:
    """log n - (n - 1) / n: nats of KL from the distribution that n were drawn from.

    Exact where no two samples have one score, an upper bound elsewhere (Beirami et al.
    2024, arXiv:2401.01879).
    """
    return math.log(n) - (n - 1) / n

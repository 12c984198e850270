# SPDX-License-Identifier: Apache-2.0
"""Best of n, exactly: what the highest of n scores would bring, from N >= n samples.

Every subset of n of the N samples counts alike, so the estimate is unbiased and has no
noise of its own (Chen et al. 2021, arXiv:2107.03374, have it for passing tests; Gao et
al. 2022, arXiv:2210.10760, for rewards).
"""

from __future__ import annotations

import itertools
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
    # Those up to each score, among which the best of n is where none is above it.
    _, place_S, counts_U = np.unique(scores_S, return_inverse=True, return_counts=True)
    upto_U = np.cumsum(counts_U)
    subsets = [math.comb(int(count), n) for count in (0, *upto_U)]
    share_U = np.array(
        [(now - before) / subsets[-1] for before, now in itertools.pairwise(subsets)]
    )
    return (share_U / counts_U)[place_S]


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

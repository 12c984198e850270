# SPDX-License-Identifier: Apache-2.0
"""Logistic regression with an intercept and a penalty, of many weightings at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

STEPS = 50
CLOSE = 1e-9


class Fit(NamedTuple):
    """Weights and their covariance, of every weighting W of the examples.

    Attributes:
      weights_WK: of the intercept and of each column.
      covariance_WKK: the inverse of the penalised Hessian.
      converged_W: whether the gradient is next to 0; without a penalty the weights run
        away where the outcomes can be separated.
    """

    weights_WK: np.ndarray
    covariance_WKK: np.ndarray
    converged_W: np.ndarray


def fit(
    columns_NK: np.ndarray,
    outcome_N: np.ndarray,
    *,
    l2: float = 0.0,
    counts_WN: np.ndarray | None = None,
) -> Fit:
    """Minimises sum n (log(1 + e^z) - y z) + l2 / 2 |w|^2 by Newton's method.

    Args:
      columns_NK: without the intercept, which is not penalised; or [W, N, K], where
        they depend on the weighting.
      outcome_N: in [0, 1]; a tie is 1/2.
      l2: on all but the intercept.
      counts_WN: how often each example counts; the default is one weighting of ones.

    Raises:
      ValueError: no outcome, or one that is not in [0, 1].
    """
    y_N = checked(outcome_N)
    n_WN = np.ones((1, len(y_N))) if counts_WN is None else np.asarray(counts_WN, float)
    x = np.asarray(columns_NK, float)
    x_WNK = np.broadcast_to(x, (len(n_WN), *x.shape[-2:]))
    x_WNK = np.concatenate([np.ones((*x_WNK.shape[:2], 1)), x_WNK], axis=2)
    penalty_K = np.r_[0.0, np.full(x_WNK.shape[2] - 1, l2)]
    w_WK = np.zeros((len(n_WN), len(penalty_K)))
    for _ in range(STEPS):
        p_WN = special.expit(np.einsum("wnk,wk->wn", x_WNK, w_WK))
        slope_WK = np.einsum("wnk,wn->wk", x_WNK, n_WN * (p_WN - y_N))
        slope_WK += penalty_K * w_WK
        spread_WN = n_WN * p_WN * (1 - p_WN)
        curve_WKK = np.einsum("wnk,wn,wnj->wkj", x_WNK, spread_WN, x_WNK)
        curve_WKK += np.diag(penalty_K)
        inverse_WKK = np.linalg.pinv(curve_WKK, hermitian=True)
        converged_W = np.abs(slope_WK).max(1) < CLOSE * max(1, len(y_N))
        if converged_W.all():
            break
        step_WK = np.einsum("wkj,wj->wk", inverse_WKK, slope_WK)
        # Far steps overshoot where the curve is next to flat.
        length_W1 = np.abs(step_WK).max(1, keepdims=True)
        w_WK = w_WK - step_WK / np.maximum(1.0, length_W1 / 2)
    return Fit(w_WK, inverse_WKK, converged_W)


def checked(outcome_N: Sequence[float]) -> np.ndarray:
    """float [N]: the outcomes. Raises ValueError for none, or one not in [0, 1]."""
    y_N = np.asarray(outcome_N, float)
    if not y_N.size or not ((y_N >= 0) & (y_N <= 1)).all():
        raise ValueError(f"{y_N.size} outcomes; give one or more, from 0 to 1")
    return y_N

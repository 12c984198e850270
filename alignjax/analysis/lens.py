# SPDX-License-Identifier: Apache-2.0
"""The logit lens as rows: what each layer of a model would say next, on a text.

See `Run.logit_lens` (nostalgebraist, "interpreting GPT: the logit lens", 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import special

from alignjax.analysis import run as runs


def rows(run: runs.Run, text: str) -> Iterator[dict[str, Any]]:
    """What each layer would say next, for every token of a text and every layer.

    `token` and `next` are texts, `logp` is log p of the token that follows (None after
    the last), `kl` is KL(model || layer) in nats, and `rank` counts from 1, that of the
    token that follows. Layer 0 is the embeddings.
    """
    ids = run.tokenize(text)
    logps_LTV = special.log_softmax(run.logit_lens(ids), axis=-1)
    last_TV = logps_LTV[-1]
    spelled = lambda token: run.tokenizer.decode([int(token)])
    for t, token in enumerate(ids):
        target = ids[t + 1] if t + 1 < len(ids) else None
        for layer, logps_TV in enumerate(logps_LTV):
            logp_V = logps_TV[t]
            kl = float((np.exp(last_TV[t]) * (last_TV[t] - logp_V)).sum())
            row = {"index": t, "token": spelled(token), "layer": layer}
            row |= {"next": spelled(logp_V.argmax()), "kl": max(0.0, kl)}
            own = None if target is None else float(logp_V[target])
            rank = None if target is None else int((logp_V > own).sum()) + 1
            yield {**row, "logp": own, "rank": rank}


def table(rows: Iterator[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of `rows`: a token, and for each layer its likeliest next and the KL."""
    yield f"{'token':<14} {'layer':>5}  {'next':<14} {'KL':>8} {'log p':>9} {'rank':>6}"
    for row in rows:
        token = repr(row["token"]) if row["layer"] == 0 else ""
        figures = f"{row['kl']:>8.3f}"
        if row["logp"] is not None:
            figures += f" {row['logp']:>9.3f} {row['rank']:>6}"
        yield f"{token:<14.14} {row['layer']:>5}  {row['next']!r:<14.14} {figures}"

# SPDX-License-Identifier: Apache-2.0
"""How much texts differ from each other: distinct n-grams, self-BLEU, entropy.

A token is what spaces part, without regard to case. All of these depend on how many
texts there are, so figures of unequal numbers do not compare.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator, Sequence

BLEU_ORDER = 4


def words(text: str) -> list[str]:
    """The tokens of a text."""
    return text.casefold().split()


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams by all n-grams (Li et al. 2016, arXiv:1510.03055).

    None where no text has so many tokens.
    """
    counts = collections.Counter(g for text in texts for g in _grams(words(text), n))
    return len(counts) / counts.total() if counts else None


def entropy(texts: Sequence[str], n: int = 1) -> float | None:
    """The entropy of the texts' n-grams in nats; None where there are none."""
    counts = collections.Counter(g for text in texts for g in _grams(words(text), n))
    total = counts.total()
    if not total:
        return None
    return math.fsum(-c / total * math.log(c / total) for c in counts.values())


def self_bleu(texts: Sequence[str]) -> float | None:
    """The mean BLEU-4 of each text against the others (Zhu et al. 2018, 1802.01886).

    Counts beyond single tokens get 1 added, as in Lin and Och (2004), since answers are
    short. 1 where all texts are equal; None for fewer than two texts with a token.
    """
    parted = [own for own in map(words, texts) if own]
    if len(parted) < 2:
        return None
    scores = [_bleu(own, parted[:i] + parted[i + 1 :]) for i, own in enumerate(parted)]
    return math.fsum(scores) / len(scores)


def _bleu(own: Sequence[str], others: Sequence[Sequence[str]]) -> float:
    logs = []
    for n in range(1, BLEU_ORDER + 1):
        counts, most = collections.Counter(_grams(own, n)), collections.Counter()
        for other in others:
            most |= collections.Counter(_grams(other, n))
        more = 0 if n == 1 else 1
        hits, total = (counts & most).total() + more, counts.total() + more
        if not hits:
            return 0.0
        logs.append(math.log(hits / total))
    length = min((abs(len(x) - len(own)), len(x)) for x in others)[1]
    penalty = min(0.0, 1 - length / len(own))
    return math.exp(penalty + math.fsum(logs) / len(logs))


def _grams(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(tokens[i:] for i in range(n)), strict=False)

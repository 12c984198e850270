# SPDX-License-Identifier: Apache-2.0
"""Texts, token by token, under two runs, and the page that shows where they part.

A token's colour is by how much likelier the second run makes it. The page is one file
without scripts, and every text in it is escaped.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from scipy import special

from alignjax.analysis import run as runs

# Differences in nats from which a token has the next deeper colour.
STEPS = (0.1, 0.5, 1.0, 2.0)
MOST_TOKENS = 20  # in the table of the largest differences


class Token(NamedTuple):
    """A token of a text, and what both runs say of it.

    Attributes:
      text: of the token alone.
      first, second: log p of it under each, in nats; None of a token that none of them
        predicts, the first of a text or of a window.
      ranks: of it under each, from 1.
      likeliest: what each would rather have said.
      kl: KL(first || second) of what comes here, in nats.
      response: whether it is of the response, and not before it.
    """

    text: str
    first: float | None = None
    second: float | None = None
    ranks: tuple[int, int] = (0, 0)
    likeliest: tuple[str, str] = ("", "")
    kl: float = 0.0
    response: bool = True

    @property
    def shown(self) -> str:
        """Its text where spaces and ends of lines must be seen."""
        return repr(self.text)

    @property
    def change(self) -> float | None:
        return None if self.first is None else self.second - self.first

    @property
    def level(self) -> str:
        """`up2` or `down4`: which way, and how many of `STEPS`; "" for little."""
        steps = sum(abs(self.change or 0.0) >= step for step in STEPS)
        return f"{'up' if self.change > 0 else 'down'}{steps}" if steps else ""


class Text(NamedTuple):
    """Where a text is from, and its tokens."""

    where: str
    tokens: list[Token]

    def scored(self) -> list[Token]:
        return [x for x in self.tokens if x.change is not None and x.response]

    @property
    def mean(self) -> float:
        """The mean difference of the tokens of the response, in nats."""
        return float(np.mean([x.change for x in self.scored()] or [0.0]))


def compare(
    first: runs.Run,
    second: runs.Run,
    where: str,
    prompt: Sequence[int],
    ids: Sequence[int],
) -> Text:
    """A text under two runs of the same tokenizer and vocabulary.

    A text that is longer than a model reads is cut into windows, each of which begins
    anew: its first token is predicted by none.

    Args:
      prompt, ids: tokens before the response, and of it.
    """
    every, response = [*prompt, *ids], len(prompt)
    window = min(run.model.config.max_length for run in (first, second))
    tokens = []
    for start in range(0, len(every), window):
        own = every[start : start + window]
        logps = [_logps(run, own) for run in (first, second)]
        for t, token in enumerate(own):
            place = start + t
            text = first.tokenizer.decode([token])
            tokens.append(Token(text, response=place >= response))
            if t:
                tokens[-1] = _token(first, tokens[-1], token, [x[t - 1] for x in logps])
    return Text(where, tokens)


def _logps(run: runs.Run, ids: Sequence[int]) -> np.ndarray:
    return special.log_softmax(run.logits(ids).astype(np.float64), axis=-1)


def _token(run: runs.Run, token: Token, id: int, logps: list[np.ndarray]) -> Token:
    a, b = (float(logp_V[id]) for logp_V in logps)
    ranks = tuple(int((logp_V > logp_V[id]).sum()) + 1 for logp_V in logps)
    likeliest = tuple(run.tokenizer.decode([int(x.argmax())]) for x in logps)
    kl = float((np.exp(logps[0]) * (logps[0] - logps[1])).sum())
    return token._replace(
        first=a, second=b, ranks=ranks, likeliest=likeliest, kl=max(0.0, kl)
    )


def render(first: str, second: str, texts: Iterable[Text]) -> str:
    """The page; `first` and `second` are the names of the runs."""
    texts = sorted(texts, key=lambda text: -abs(text.mean))
    every = [(text, token) for text in texts for token in text.scored()]
    every.sort(key=lambda pair: -abs(pair[1].change))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("token_page.html.jinja").render(
        first=first,
        second=second,
        texts=texts,
        largest=every[:MOST_TOKENS],
        count=len(every),
        mean=float(np.mean([token.change for _, token in every] or [0.0])),
        kl=float(np.mean([token.kl for _, token in every] or [0.0])),
        steps=STEPS,
    )


def _clean(value: Any) -> Any:
    """Text without what a page may not hold: NUL and other control characters."""
    if not isinstance(value, str):
        return value
    keep = lambda c: c in "\n\t" or (c.isprintable() or c.isspace())
    return "".join(c if keep(c) else "\N{REPLACEMENT CHARACTER}" for c in value)

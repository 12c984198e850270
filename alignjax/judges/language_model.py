# SPDX-License-Identifier: Apache-2.0
"""A run that learned dialogues as a judge: by the log-probs of two verdicts.

Nothing is sampled: P(first) = s(log p("A" | question) - log p("B" | question)), which
spends one pass a verdict and has no verdict that cannot be read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

from alignjax import analysis, errors, judges

VERDICTS = ("A", "B")
ENDS = 8  # tokens that a template may write around a turn
QUESTION = """Two replies to a dialogue are to be compared.

{dialogue}

Reply A:
{first}

Reply B:
{second}

Which reply is better? Answer with A or B alone."""


def make(name: str, path: str, *, network: bool = False) -> judges.Judge:
    """The judge `run:DIR`.

    Raises:
      CheckpointError: no such run.
      ConfigError: it did not learn dialogues.
    """
    run = analysis.open_run(path, network=network)
    if not run.chats:
        raise errors.ConfigError(
            f"judge: {path} did not learn dialogues (data.chat); name a run that did"
        )
    longest = max(len(run.tokenizer.encode(verdict)) for verdict in VERDICTS)
    room = run.model.config.max_length - longest - ENDS

    def compare(pairs: Sequence[judges.Shown]) -> Iterator[judges.Verdict]:
        questions = [[("user", question(pair))] for pair in pairs]
        fits = [len(run.prompt_ids(q)) <= room for q in questions]
        fitting = [q for q, fit in zip(questions, fits, strict=True) if fit]
        repeated = [q for q in fitting for _ in VERDICTS]
        scores = run.score(repeated, VERDICTS * len(fitting))
        logps = iter([score.logp for score in scores])
        for fit in fits:
            if fit:
                gap = next(logps) - next(logps)
                yield judges.Verdict(1 / (1 + math.exp(min(-gap, 700.0))))
            else:
                yield judges.Verdict(None, "longer than the judge's context")

    return judges.Judge(name, run.digest(), compare, ask=question)


def question(pair: judges.Shown, template: str = QUESTION) -> str:
    """The question about a pair, every text of which is in a fence that it has not.

    Args:
      template: with places for `dialogue`, `first` and `second`.
    """
    turns = "\n".join(f"{role}: {text}" for role, text in pair.prompt["turns"])
    texts = [turns, *pair.responses]
    tag = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:6]
    fenced = [f"<{tag}>\n{text}\n</{tag}>" for text in texts]
    return template.format(dialogue=fenced[0], first=fenced[1], second=fenced[2])

# SPDX-License-Identifier: Apache-2.0
"""Texts, dialogues and ids as a run reads them: prompts, rows to score, replies."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from alignjax import errors
from alignjax.analysis import scoring
from alignjax.data import messages
from alignjax.data.chat import format
from alignjax.data.tokenizers import base
from alignjax.models import config as models
from alignjax.sampling import request


class Reader(NamedTuple):
    """How a run reads what it is given.

    Attributes:
      path: of the run, for errors.
      tokenizer: without a start token where its documents have none.
      chats: the format of the dialogues that it learned; None if it learned none.
    """

    path: pathlib.Path
    tokenizer: base.Tokenizer
    chats: str | None

    def format(self) -> format.ChatFormat:
        """How the run writes dialogues. Raises ConfigError where it learned none."""
        if not self.chats:
            raise errors.ConfigError(
                f"data.chat: {self.path} did not learn dialogues; use generate"
            )
        return format.of(self.tokenizer, self.chats)

    def prompt_ids(self, dialogue: str | Sequence) -> list[int]:
        """The tokens of a dialogue, up to where the reply begins."""
        starts = self.tokenizer.bos_id is not None
        return self.format().prompt_ids(messages.chat(dialogue, "dialogue"), starts)

    def tokenize(self, text: str | Sequence) -> list[int]:
        """The tokens of a text or of a dialogue; see `Run.tokenize`."""
        if isinstance(text, str):
            return request.encode(self.tokenizer, text)
        self.format()
        dialogue = messages.chat(text, "dialogue")
        if dialogue.turns[-1][0] != format.ASSISTANT:
            return self.prompt_ids(text)
        row = scoring.row_of_record(self.tokenizer, self.chats, dialogue)
        return [*row.prompt_ids, *row.ids]

    def rows(
        self,
        prompts: Sequence,
        responses: Sequence[str | Sequence[int]],
        configs: Sequence[models.ModelConfig],
    ) -> list[scoring.Row]:
        """Rows to score, that models of these configs take; see `Run.score`."""
        prompts, responses = listed("prompts", prompts), listed("responses", responses)
        if len(prompts) != len(responses):
            raise errors.ConfigError(
                f"responses: {len(responses)} for {len(prompts)} prompts; give one each"
            )
        rows = []
        for i, pair in enumerate(zip(prompts, responses, strict=True)):
            try:
                rows.append(scoring.row_of_pair(self.tokenizer, self.chats, *pair))
            except errors.DataError as error:
                raise errors.DataError(f"prompts[{i}]: {error}") from error
            if reason := scoring.fault(rows[-1], *configs):
                raise errors.ConfigError(f"prompts[{i}]: {reason}")
        return rows


def several(
    generate: Callable[..., list],
    prompts: list,
    samples: int,
    seeds: Sequence[int] | None,
    **options,
) -> list[list]:
    """`samples` completions of each prompt; sample n of every one has `seeds[n]`.

    Args:
      generate: `(prompts, *, seeds, **options) -> completions`.
      seeds: by default the numbers from 0.

    Raises:
      ConfigError: no number of samples, or another number of seeds.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise errors.ConfigError(f"samples: {samples!r} is not a number from 1 up")
    seeds = list(range(samples) if seeds is None else seeds)
    if len(seeds) != samples:
        raise errors.ConfigError(f"seeds: {len(seeds)} for {samples} samples")
    every = [prompt for prompt in prompts for _ in range(samples)]
    done = generate(every, seeds=seeds * len(prompts), **options)
    return [done[i : i + samples] for i in range(0, len(done), samples)]


def listed(name: str, values) -> list:
    """The values as a list. Raises ConfigError for one text or message alone."""
    if not hasattr(values, "__iter__") or isinstance(values, (str, Mapping)):
        raise errors.ConfigError(f"{name}: {values!r:.60} is no list; give one")
    return list(values)

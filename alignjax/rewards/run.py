# SPDX-License-Identifier: Apache-2.0
"""The score of a reward model's run, which may have another tokenizer and template."""

from __future__ import annotations

from collections.abc import Sequence

from alignjax import analysis, errors, rewards
from alignjax.analysis import scoring


def make(
    run: str, step: int | None = None, mean: float = 0.0, std: float = 1.0
) -> rewards.Reward:
    """`(score - mean) / std` of the reward model of a run.

    With several heads the score is their mean. A response that is empty, or that the
    run cannot read, as one longer than its context, has none. A checkpoint of a policy
    is of these parameters, so that the policy does not go on with others where the
    reward model has trained on.

    Args:
      run: its directory, or a Hugging Face folder.
      step: which of its checkpoints; None is the newest.
      mean, std: of this model's scores of the initial policy's responses, so that a KL
        coefficient means the same whatever the scale of the scores is.

    Raises:
      ConfigError: no such run, one that is no reward model or not one of dialogues, or
        a `std` that is not above 0.
    """
    if std <= 0:
        raise errors.ConfigError(f"std: {std} is not positive")
    try:
        opened = analysis.open_run(run, step).at()
    except (errors.CheckpointError, errors.ConfigError) as error:
        raise errors.ConfigError(f"run: {error}") from error
    scoring.check_rewards(opened, "run", run)

    def reward(responses: Sequence[rewards.Response]) -> list[rewards.Score]:
        # An empty response has no token that a score could be read at.
        whole = [i for i, response in enumerate(responses) if response.text.strip()]
        scores = [rewards.Score(None, "an empty response")] * len(responses)
        if whole:
            prompts = [list(responses[i].turns) for i in whole]
            texts = [responses[i].text for i in whole]
            results = scoring.score_or_fault(opened, prompts, texts)
            for i, score in zip(whole, results, strict=True):
                if isinstance(score, str):
                    scores[i] = rewards.Score(None, score)
                else:
                    scores[i] = rewards.Score((score.reward - mean) / std)
        return scores

    reward.provenance = {"digest": opened.digest()}
    return reward

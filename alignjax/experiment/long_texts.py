# SPDX-License-Identifier: Apache-2.0
"""Refuses rollouts that longrope, which goes by a text's length, cannot read."""

from __future__ import annotations

from alignjax import errors
from alignjax.rollouts import rollout


def check(own: rollout.Rollouts, longest: int) -> None:
    """Refuses texts and rows whose frequencies would change on the way.

    Args:
      own: those that are learned from.
      longest: tokens of a prompt, those of evaluations too.

    Raises:
      ConfigError: see `DecoderConfig.short_length`. Most rollouts may be shorter, so
        that a run would end when one is not.
    """
    room, problems = own.sampler.room, []
    limit = own.sampler.model.config.short_length
    where = "model.rope_scaling.original_length"
    if limit is not None and longest - 1 + room > limit:
        problems.append(
            f"rollouts.max_tokens: {room} and a prompt of {longest} tokens are more "
            f"than {where} = {limit}, beyond which longrope has other frequencies, so "
            "that what is being drawn would have to be read again on the way; lower "
            "it, leave out long prompts (a smaller length, and data.long_documents="
            '"skip"), or set model.rope_scaling.short_factor to the numbers of '
            "long_factor"
        )
    if own.shared:
        example = own.example()
        T, K = example.sequences.inputs.shape[-1], example.lengths.shape[-1]
        rows = [(where, limit, T)]
        if own.critic is not None:  # also reads what comes after each response
            limit = own.critic.config.short_length
            rows.append((f"the critic's {where}", limit, T + K))
        too_long = [x for x in rows if x[1] is not None and x[2] > x[1]]
        for where, limit, T in too_long[:1]:  # the remedy is the same
            fewer = "" if own.pairs else "rollouts.samples or "
            problems.append(
                f"data.share_prompt: True makes rows of up to {T} positions, of a "
                f"prompt and its {K} responses of {room} tokens, which is more than "
                f"{where} = {limit}, beyond which longrope goes by the length of each "
                f"response; set data.share_prompt=False, or lower {fewer}"
                "rollouts.max_tokens"
            )
    if problems:
        raise errors.ConfigError(problems)

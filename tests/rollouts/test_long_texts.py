# SPDX-License-Identifier: Apache-2.0
"""Rollouts that longrope, which goes by a text's length, cannot read: refused at first.

The longest prompt has P = 66 tokens, and K = 4 responses have up to R = 12.
"""

import dataclasses

import jax
import pytest

from alignjax import analysis, errors, models
from alignjax.experiment import build, long_texts
from alignjax.models import decoder
from alignjax.objectives import logprobs
from tests.rollouts import small

P, K, R = 66, 4, 12
ROW = P - 1 + K * R  # positions of a shared row; the last token of a text is not read
ON_TRUNK = dict(
    critic={"trunk": "policy", "learning_rate": 3e-3},
    rollouts__advantage={"name": "gae_whitened"},
)


def scaled(original_length):
    """The section `model`, or what changes in one, with longrope."""
    half = analysis.open_run(small.RUNS / "sft").model.config.rotated_dimensions // 2
    scaling = dict(kind="longrope", original_length=original_length)
    scaling |= dict(short_factor=[1.0] * half, long_factor=[4.0] * half)
    return {"rope_scaling": scaling}


def built(folder, original_length, *, share_prompt, **fields):
    fields |= dict(model=scaled(original_length), data__share_prompt=share_prompt)
    return build.build(small.section(folder, **fields)).rollouts


# The least length that will do, whether rows are shared, what is refused below it.
CASES = {
    "text": (P - 1 + R, False, {}, r"^rollouts\.max_tokens: 12 .* 66 tokens .*= 76, "),
    "row": (ROW, True, {}, r"^data\.share_prompt: .* 113 pos.* than model.*= 112, "),
    "values": (
        ROW + K,
        True,
        ON_TRUNK,
        r"^data\.share_prompt: .* 117 .*ic's .*= 116, ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_one_token_too_long(case, folder):
    least, shared, fields, message = CASES[case]
    rollouts = built(folder, least, share_prompt=shared, **fields)
    assert rollouts.sampler.prompt_room == P
    model = rollouts.sampler.model  # which would refuse such rows as it reads them
    sequences = logprobs.flatten_sequences(rollouts.example())
    hidden = jax.eval_shape(model.hidden, decoder.abstract(model), sequences)
    assert hidden.shape[1] == (ROW if shared else P - 1 + R)
    with pytest.raises(errors.ConfigError, match=message):
        built(folder, least - 1, share_prompt=shared, **fields)


def test_what_is_read_apart_may_be_longer_than_a_row(folder):
    rollouts = built(folder, ROW - 1, share_prompt=False)
    assert rollouts.sampler.model.config.short_length == ROW - 1


def test_a_critic_of_its_own_reads_the_rows_too(experiment):
    """Where the policy has no such frequencies."""
    run = experiment[0]

    def check(original_length):
        section = run.config.model | scaled(original_length)
        critic = models.build(section, run.model.config.vocab_size)
        own = dataclasses.replace(run.rollouts, critic=critic, shared=True)
        long_texts.check(own, P)

    check(ROW + K)
    with pytest.raises(errors.ConfigError, match=r"data\.share_prompt: .*the critic's"):
        check(ROW + K - 1)


def test_prompts_of_evaluations_are_drawn_for_too(experiment):
    """Among the held-out prompts one may be the longest."""
    run = experiment[0]
    model = models.build(
        run.config.model | scaled(P - 1 + R), run.model.config.vocab_size
    )
    sampler = run.rollouts.sampler._replace(model=model)
    own = dataclasses.replace(run.rollouts, sampler=sampler, shared=False)
    long_texts.check(own, P)
    with pytest.raises(errors.ConfigError, match="prompt of 67 tokens"):
        long_texts.check(own, P + 1)

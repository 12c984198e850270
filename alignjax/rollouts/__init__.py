# SPDX-License-Identifier: Apache-2.0
"""Rollouts: prompts, responses that the policy draws, their rewards, and advantages.

Rollout r is a function of (parameters, seed, r): prompts r N to (r + 1) N - 1 of a
stream that is a function of the seed, K responses to each, whose keys follow from the
number of the prompt and of the response alone. So nothing of a rollout is saved, and a
run that goes on at its boundary draws what it would have drawn.
"""

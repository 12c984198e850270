# SPDX-License-Identifier: Apache-2.0
"""Rollouts: prompts, responses that the policy draws, their rewards, and advantages.

Rollout r is a function of (parameters, seed, r). With N prompts a rollout and T = 1 +
`redraws`, the prompts r T N to (r + 1) T N - 1 of a stream are its alone, K responses
to each. The order of the stream follows from the seed, a key from the seed and the
numbers of prompt and response. So nothing of a rollout is saved, and a
run that goes on at its boundary draws what it would have drawn.
"""

# SPDX-License-Identifier: Apache-2.0
"""The noise that draws tokens: `jax.random.gumbel`'s numbers, in one pass.

On CPUs jax runs the rounds of its generator as a loop, which copies two numbers for
each word of the vocabulary in each of its five turns; on GPUs they are a kernel of
their own. Here they are plain operations, which the compiler puts into one pass with
the logarithms.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# Threefry-2x32 of 20 rounds (Salmon et al., "Parallel random numbers: as easy as
# 1, 2, 3", SC 2011): turns of the rounds, and the constant of its third key.
TURNS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def gumbel(keys_B: jax.Array, size: int) -> jax.Array:
    """float32 [B, size]: for each key what `jax.random.gumbel(key, (size,))` gives.

    With keys of another kind than `threefry2x32` it is jax's own.
    """
    if str(jax.random.key_impl(keys_B)) != "threefry2x32":
        return jax.vmap(lambda key: jax.random.gumbel(key, (size,)))(keys_B)
    keys_B2 = jax.random.key_data(keys_B)
    place_BV = jax.lax.broadcasted_iota(jnp.uint32, (len(keys_B), size), 1)
    zeros_BV = jnp.zeros_like(place_BV)
    x_BV, y_BV = _threefry(keys_B2[:, :1], keys_B2[:, 1:], zeros_BV, place_BV)
    # 23 random bits are the fraction of a number in [1, 2).
    bits_BV = ((x_BV ^ y_BV) >> np.uint32(9)) | np.uint32(0x3F800000)
    uniform_BV = jax.lax.bitcast_convert_type(bits_BV, jnp.float32) - 1
    uniform_BV = jnp.maximum(uniform_BV, np.finfo(np.float32).tiny)
    return -jnp.log(-jnp.log(uniform_BV))


def _threefry(key0, key1, x, y):
    keys = (key0, key1, key0 ^ key1 ^ PARITY)
    x, y = x + keys[0], y + keys[1]
    for i in range(5):
        for turn in TURNS[i % 2]:
            x = x + y
            y = x ^ ((y << np.uint32(turn)) | (y >> np.uint32(32 - turn)))
        x = x + keys[(i + 1) % 3]
        y = y + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x, y

# SPDX-License-Identifier: Apache-2.0
"""Backends of attention: equal in value and gradient, causal, packed, windowed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.distributed import sharding
from alignjax.models import attention


def inputs(B=2, T=256, N=4, K=2, H=128, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    q, k, v = (
        jax.random.normal(key, (B, T, heads, H))
        for key, heads in zip(keys, (N, K, K), strict=True)
    )
    ends = np.sort(np.random.default_rng(seed).choice(T, (B, 4)), axis=1)
    ids = (np.arange(T)[None, :, None] >= ends[:, None]).sum(-1).astype(np.int32)
    return q, k, v, jnp.asarray(ids)  # segment 0 stands for padding


def naive(q, k, v, ids, *, window, softcap):
    """The definition, in float64 numpy, one query at a time."""
    q, k, v, ids = (np.asarray(x, np.float64) for x in (q, k, v, ids))
    out = np.zeros_like(q)
    B, T, N, H = q.shape
    for b in range(B):
        for n in range(N):
            kv = n // (N // k.shape[2])
            for t in range(T):
                s = np.arange(t + 1)
                s = s[ids[b, s] == ids[b, t]]
                s = s if window is None else s[t - s < window]
                logits = k[b, s, kv] @ q[b, t, n] / np.sqrt(H)
                if softcap is not None:
                    logits = softcap * np.tanh(logits / softcap)
                weights = np.exp(logits - logits.max())
                out[b, t, n] = weights @ v[b, s, kv] / weights.sum()
    return out


VARIANTS = [(None, None), (40, None), (None, 5.0), (1, 20.0)]


@pytest.mark.parametrize("window,softcap", VARIANTS)
@pytest.mark.parametrize("block", [16, 48, 1000])
def test_xla_is_the_definition(window, softcap, block):
    q, k, v, ids = inputs(T=96, H=8)
    ours = attention.xla(q, k, v, ids, window=window, softcap=softcap, block=block)
    theirs = naive(q, k, v, ids, window=window, softcap=softcap)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("window,softcap", [(None, None), (40, 5.0)])
def test_splash_equals_xla_with_gradients(window, softcap):
    q, k, v, ids = inputs(B=1)
    options = dict(window=window, softcap=softcap)
    splash = functools.partial(attention.splash, interpret=True, **options)
    xla = functools.partial(attention.xla, **options)

    def value_and_grads(f):
        weight = jnp.cos(jnp.arange(q.size)).reshape(q.shape)
        loss = lambda q, k, v: (f(q, k, v, ids) * weight).sum()
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)

    for ours, theirs in zip(
        jax.tree.leaves(value_and_grads(splash)),
        jax.tree.leaves(value_and_grads(xla)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)


def test_splash_on_a_mesh_equals_one_device():
    q, k, v, ids = inputs(B=4, T=128)
    splash = functools.partial(
        attention.splash, interpret=True, window=None, softcap=None
    )
    alone = jax.jit(splash)(q, k, v, ids)
    mesh, rules = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)), sharding.rules()
    with sharding.use(mesh, rules):
        shared = jax.jit(splash)(q, k, v, ids)
        np.testing.assert_allclose(shared, alone, atol=1e-6)


def test_kernels_refuse_what_they_cannot():
    q, k, v, ids = inputs(B=1, T=100)
    with pytest.raises(ValueError, match="multiple of 128 tokens, length is 100"):
        attention.splash(q, k, v, ids, window=None, softcap=None)
    with pytest.raises(ValueError, match=r"16 bits, model\.dtype is float32"):
        attention.cudnn(q, k, v, ids, window=None, softcap=None)
    with pytest.raises(ValueError, match="no softcap"):
        attention.cudnn(q, k, v, ids, window=None, softcap=30.0)


@pytest.mark.parametrize(
    "platform,T,H,dtype,softcap,expected",
    [
        ("cpu", 128, 128, "bfloat16", None, "xla"),
        ("tpu", 256, 128, "bfloat16", 30.0, "splash"),
        ("tpu", 100, 128, "bfloat16", None, "xla"),
        ("tpu", 256, 64, "bfloat16", None, "xla"),
        ("gpu", 100, 64, "bfloat16", None, "cudnn"),
        ("gpu", 100, 64, "float32", None, "xla"),
        ("gpu", 100, 64, "bfloat16", 30.0, "xla"),
        ("gpu", 100, 256, "bfloat16", None, "xla"),
    ],
)
def test_auto_is_what_the_kernel_takes(platform, T, H, dtype, softcap, expected):
    q = jnp.zeros((1, T, 2, H), dtype)
    assert attention.resolve("auto", q, softcap, platform) == expected
    assert attention.resolve("splash", q, softcap, platform) == "splash"

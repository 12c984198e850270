# SPDX-License-Identifier: Apache-2.0
"""Backends of attention: equal in value and gradient, at any length, for any rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors, models
from alignjax.distributed import sharding
from alignjax.models import attention
from alignjax.models.attention import cudnn, merge, plain, splash
from tests.fixtures import marks
from tests.models import small
from tools import check_attention
from tools.check_attention import KINDS, dense, heads, rows_of, sees

BACKENDS = {
    "xla": plain.attend,
    "cudnn": functools.partial(cudnn.attend, implementation="xla"),
    "splash": functools.partial(splash.attend, interpret=True),
}
QUICK = [("ragged", None), ("packed", 7), ("shared", None)]
CASES = [(b, *kind) for b in BACKENDS for kind in KINDS]
CASES.remove(("splash", "shared", 9))  # which it refuses

reference = functools.cache(check_attention.Reference)


def check(backend, layout, window, lengths, longest, B=1):
    attend = functools.partial(BACKENDS[backend], window=window, softcap=None)
    right = reference(layout, window, B, longest)
    by = functools.partial(right.by, attend)
    if backend != "splash":  # whose interpreter would be compiled for each length
        by = jax.jit(by, static_argnums=0)
    for length in lengths:
        pairs = zip(by(length), right.of(length), strict=True)
        for ours, theirs in pairs:
            np.testing.assert_allclose(
                ours, theirs, atol=1e-5, err_msg=f"{length} tokens"
            )


@pytest.mark.parametrize("layout,window", [("packed", None), ("shared", 9)])
def test_who_sees_whom_is_the_definition(layout, window):
    """One pair of tokens at a time."""
    rows = rows_of(layout, 2, 70)
    segments = np.asarray(rows.segment_ids)
    branches, positions = np.zeros_like(segments), np.tile(np.arange(70), (2, 1))
    if layout == "shared":
        branches, positions = map(np.asarray, rows.branches)
        assert branches.max() == 3 and segments.max() > 1
    mask = sees(rows, window)
    for b, t, s in np.ndindex(mask.shape):
        assert mask[b, t, s] == (
            s <= t
            and segments[b, s] == segments[b, t]
            and branches[b, s] in (0, branches[b, t])
            and (window is None or positions[b, t] - positions[b, s] < window)
        )


@pytest.mark.parametrize(
    "backend,layout,window", marks.slow_but([c for c in CASES if c[1:] in QUICK], CASES)
)
def test_every_backend_is_the_definition(backend, layout, window):
    check(backend, layout, window, (130, 129, 1), 130, B=2)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_length_will_do(backend):
    """Each in another kind of rows."""
    kinds = [kind for kind in KINDS if (backend, *kind) in CASES]
    for i, kind in enumerate(kinds):
        check(backend, *kind, range(1 + i, 131, len(kinds)), 130)
        jax.clear_caches()  # each length is a program; together they take gigabytes


@pytest.mark.slow
@pytest.mark.parametrize("backend,layout,window", CASES)
def test_long_rows(backend, layout, window):
    check(backend, layout, window, (511, 640), 640)
    if window is None:
        check(backend, layout, window, (2047,), 2048)


VARIANTS = [(None, None), (40, None), (None, 5.0), (1, 20.0)]


@pytest.mark.parametrize("layout", ["packed", "shared"])
@pytest.mark.parametrize("window,softcap", VARIANTS)
@pytest.mark.parametrize("block", [16, 48, 1000])
def test_xla_is_the_definition_in_blocks(layout, window, softcap, block):
    arrays, rows = heads(2, 96, N=4, K=2, H=8), rows_of(layout, 2, 96)
    attend = functools.partial(plain.attend, window=window, softcap=softcap)
    ours = jax.jit(functools.partial(attend, block=block))(*arrays, rows)
    wide = [np.asarray(x, np.float64) for x in arrays]
    theirs = dense(*wide, sees(rows, window), softcap, np)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_splash_has_a_softcap():
    arrays, rows = heads(1, 100, N=4, K=2, H=128), rows_of("shared", 1, 100)
    options = dict(window=None, softcap=5.0)
    loss = lambda attend: lambda *x: jnp.sin(3 * attend(*x, rows, **options)).sum()
    ours, theirs = (
        jax.tree.leaves(jax.value_and_grad(loss(attend), (0, 1, 2))(*arrays))
        for attend in (BACKENDS["splash"], plain.attend)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("backend", ["cudnn", "splash"])
def test_a_kernel_on_a_mesh_equals_one_device(backend):
    arrays, rows = heads(4, 100, N=4, K=2), rows_of("shared", 4, 100)
    attend = functools.partial(BACKENDS[backend], window=None, softcap=None)
    alone = jax.jit(attend)(*arrays, rows)
    mesh, rules = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)), sharding.rules()
    with sharding.use(mesh, rules):
        shared = jax.jit(attend)(*arrays, rows)
        np.testing.assert_allclose(shared, alone, atol=1e-6)


def merged_passes():
    """The passes of `merge.Kernel` as flash kernels compute them; a part is a mask."""
    weights = lambda q, k, mask: jnp.where(mask, q @ k.T, -jnp.inf)

    def forward(q, k, v, mask):
        lse = jax.nn.logsumexp(jnp.where(mask, q @ k.T, -1e30), axis=-1)
        return jnp.exp(weights(q, k, mask) - lse[:, None]) @ v, lse

    def backward(q, k, v, mask, out, lse, d_out):
        p = jnp.exp(weights(q, k, mask) - lse[:, None])
        ds = p * (d_out @ v.T - (d_out * out).sum(-1, keepdims=True))
        return ds @ k, ds.T @ q, p.T @ d_out

    return merge.Kernel(forward, backward)


def test_parts_merge_exactly_where_autodiff_of_a_kernel_does_not():
    """The day that this fails for the second loss, jax has mended it."""
    T, H = 24, 8
    q, k, v = (x[0, :, 0] for x in heads(1, T, N=1, H=H))
    causal = jnp.tril(jnp.ones((T, T), bool))
    first = jnp.arange(T) < 9  # keys of one part; the first 9 queries see no other
    parts = (causal & first, causal & ~first)
    weight = jnp.cos(jnp.arange(T * H)).reshape(T, H)

    def whole(q, k, v):
        return (jax.nn.softmax(jnp.where(causal, q @ k.T, -1e30)) @ v * weight).sum()

    def exact(q, k, v):
        return (merge.attend(merged_passes(), parts, q, k, v) * weight).sum()

    def by_autodiff(q, k, v):
        lift = lambda x: x[None, :, None]
        outs, lses = zip(
            *(
                jax.nn.dot_product_attention(
                    *map(lift, (q, k, v)),
                    mask=mask[None, None],
                    scale=1.0,
                    return_residual=True,
                )
                for mask in parts
            ),
            strict=True,
        )
        shares = jax.nn.softmax(jnp.stack([x[0, :, 0] for x in lses]), axis=0)
        out = sum(p[:, None] * o[0, :, 0] for p, o in zip(shares, outs, strict=True))
        return (out * weight).sum()

    value, gradients = jax.value_and_grad(whole, (0, 1, 2))(q, k, v)
    ours, our_gradients = jax.value_and_grad(exact, (0, 1, 2))(q, k, v)
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    for a, b in zip(our_gradients, gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(by_autodiff(q, k, v), value, rtol=1e-5)
    wrong = jax.grad(by_autodiff)(q, k, v) - gradients[0]
    assert np.linalg.norm(wrong) > 0.1 * np.linalg.norm(gradients[0])


LENGTHS = [1, 2, 511, 2047]


@pytest.mark.parametrize("layout,window", [k for k in KINDS if k[1] != 9])
@pytest.mark.parametrize(
    "lengths",
    [LENGTHS, pytest.param(range(1, 131), marks=pytest.mark.slow)],
    ids=["some", "every"],
)
def test_cudnn_is_lowered_for_every_length(monkeypatch, layout, window, lengths):
    """On no GPU: jax refuses what it cannot do where it is traced and lowered."""
    library = jax._src.cudnn.fused_attention_stablehlo
    monkeypatch.setattr(library, "check_cudnn_version", lambda: 92800)

    def loss(q, k, v, rows):
        out = attention.run(
            "auto",
            *(q, k, v, rows),
            window=window,
            windowed=window is not None,
            softcap=None,
            scale=None,
        )
        return out.astype(jnp.float32).sum()

    monkeypatch.setattr(sharding, "platform", lambda: "gpu")
    for length in lengths:
        arrays = (x.astype(jnp.bfloat16) for x in heads(1, length))
        rows = jax.tree.map(lambda x, n=length: x[:, :n], rows_of(layout, 1, 2048))
        traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*arrays, rows)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        name = "Softmax" if layout == "ragged" else "ScaleBiasSoftmax"
        assert f"__cudnn$fmha{name}(" in text, length
        assert f"__cudnn$fmha{name}Backward(" in text, length


CASE = attention.Case("gpu", "bfloat16", 64)


@pytest.mark.parametrize(
    "expected,changed",
    [
        ("xla", dict(platform="cpu")),
        ("cudnn", dict()),
        ("cudnn", dict(head_size=80, window=7, branches=True)),
        ("xla", dict(dtype="float32")),
        ("xla", dict(softcap=30.0)),
        ("xla", dict(head_size=36)),
        ("xla", dict(head_size=256)),  # which only some GPUs have
        ("splash", dict(platform="tpu")),
        ("splash", dict(platform="tpu", dtype="float32", softcap=30.0, window=7)),
        ("xla", dict(platform="tpu", head_size=80)),
        ("xla", dict(platform="tpu", branches=True)),
    ],
)
def test_auto_is_the_kernel_of_the_devices(expected, changed):
    case = CASE._replace(**changed)
    assert attention.resolve("auto", case) == expected
    assert attention.problem(expected, case) is None
    assert attention.resolve("splash", case) == "splash"


@pytest.mark.parametrize(
    "backend,changed",
    [
        ("cudnn", dict(platform="cpu")),
        ("cudnn", dict(platform="tpu")),
        ("cudnn", dict(dtype="float32")),
        ("cudnn", dict(softcap=30.0)),
        ("cudnn", dict(head_size=264)),
        ("splash", dict()),
        ("splash", dict(platform="tpu", head_size=72)),
        ("splash", dict(platform="tpu", branches=True, window=7)),
    ],
)
def test_what_a_kernel_cannot_do_is_refused(monkeypatch, backend, changed):
    case = CASE._replace(**changed)
    assert attention.problem(backend, case)
    monkeypatch.setattr(sharding, "platform", lambda: case.platform)
    q, k, v = (x.astype(case.dtype) for x in heads(1, 16, H=case.head_size))
    rows = rows_of("shared" if case.branches else "packed", 1, 16)
    options = dict(window=case.window, windowed=case.window is not None)
    options |= dict(softcap=case.softcap, scale=None)
    with pytest.raises(errors.ConfigError, match=r"^model\.attention: "):
        attention.run(backend, q, k, v, rows, **options)


@pytest.mark.parametrize(
    "fields",
    [
        dict(attention="cudnn"),
        dict(attention="cudnn", dtype="bfloat16", attention_softcap=30.0),
        dict(attention="splash", head_dim=80),
    ],
)
def test_a_model_says_what_its_kernel_cannot_do(fields):
    with pytest.raises(errors.ConfigError, match=r"^model\.attention: "):
        models.build({**small.SMALL, **fields}, small.V)


def test_a_model_with_a_kernel_can_be_initialised_anywhere():
    model = models.build({**small.SMALL, "attention": "splash", "head_dim": 64}, 61)
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    with sharding.use(mesh, sharding.rules()):
        jax.eval_shape(model.init, jax.random.key(0))


def test_the_platform_is_that_of_the_mesh(monkeypatch):
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert sharding.platform() == "tpu"
    with sharding.use(mesh, sharding.rules()):
        assert sharding.platform() == "cpu"
        assert jax.jit(lambda x: x + (sharding.platform() == "cpu"))(1) == 2


@pytest.mark.parametrize("fields", [dict(), dict(unroll=2, remat="attention")])
def test_one_document_a_row_needs_no_mask(monkeypatch, fields):
    """And that it is one reaches the kernel through scans and checkpoints."""
    flags = []

    def kernel(q, k, v, rows, **options):
        flags.append(rows.one_document)
        return BACKENDS["cudnn"](q, k, v, rows, **options)

    monkeypatch.setitem(attention.BACKENDS, "kernel", kernel)
    batch = small.one_document(B=3)
    batch = jax.tree.map(lambda x: x.at[1, 9:].set(0), jax.tree.map(jnp.asarray, batch))

    def value_and_grad(batch, **fields):
        model, params = small.make(**fields)
        real = (batch.segment_ids > 0)[..., None]
        loss = lambda p: (jnp.where(real, model.hidden(p, batch), 0) ** 2).sum()
        return jax.jit(jax.value_and_grad(loss))(params)

    theirs = value_and_grad(batch, attention="xla")
    for one_document in (True, False):
        flags.clear()
        batch = batch.replace(one_document=one_document)
        ours = value_and_grad(batch, attention="kernel", **fields)
        assert set(flags) == {one_document}
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_the_check_of_a_machine_sees_a_wrong_backend(monkeypatch, capsys):
    flags = ["--lengths", "64", "--dtype=float32", "--attention=xla"]
    monkeypatch.setattr(check_attention, "KINDS", [("packed", None), ("shared", 9)])
    monkeypatch.setattr(check_attention, "HEADS", [(2, 1, 8)])
    assert check_attention.main(flags) == 0
    no_segments = lambda rows: rows.replace(segment_ids=jnp.ones_like(rows.segment_ids))
    wrong = lambda q, k, v, rows, **options: plain.attend(
        q, k, v, no_segments(rows), **options
    )
    monkeypatch.setitem(attention.BACKENDS, "xla", wrong)
    assert check_attention.main(flags) == 1
    assert "WRONG" in capsys.readouterr().out

# SPDX-License-Identifier: Apache-2.0
"""FLOPs against counts by hand and by XLA, and rates under a clock that we move."""

import jax
import jax.numpy as jnp
import pytest

from alignjax import models
from alignjax.models import decoder
from alignjax.tracking import throughput


@pytest.mark.parametrize("context", [1, 2, 7, 64])
@pytest.mark.parametrize("window", [None, 1, 3, 64, 100])
def test_attention_sees_the_mean_over_queries(context, window):
    keys = [min(t + 1, window or context) for t in range(context)]
    flops = throughput.attention_flops_per_token(
        layers=1, heads=1, head_dim=1, context=context, window=window
    )
    assert flops == pytest.approx(12 * sum(keys) / context)


def test_gpt2_124m():
    """By hand: 12 layers of 12 width^2 weights, biases and norms; and the head."""
    d, layers, vocab, context = 768, 12, 50_257, 1024
    layer = (4 * d * d + 4 * d) + (8 * d * d + 5 * d) + 4 * d
    total = vocab * d + context * d + layers * layer + 2 * d
    assert total == 124_439_808  # as published
    model = models.build({"family": "gpt2", "name": "124m"}, vocab)
    attention = 12 * layers * d * (context + 1) / 2
    matrices = total - context * d
    assert decoder.flops_per_token(model, context) == 6 * matrices + attention


def test_formula_agrees_with_what_xla_counts():
    """A layer's matrices and attention, full since XLA computes the masked half too."""
    b, t, d, n, h, f = 2, 64, 64, 4, 16, 256
    shapes = {"qkv": (d, 3, n, h), "out": (n, h, d), "up": (d, f), "down": (f, d)}
    params = {k: jnp.ones(shape) for k, shape in shapes.items()}

    def loss(params, x_BTD):
        q, k, v = jnp.einsum("btd,dcnh->cbtnh", x_BTD, params["qkv"])
        scores = jnp.einsum("btnh,bsnh->bnts", q, k)
        mixed = jnp.einsum("bnts,bsnh->btnh", scores, v)
        x_BTD = jnp.einsum("btnh,nhd->btd", mixed, params["out"])
        return jnp.sum(((x_BTD @ params["up"]) @ params["down"]) ** 2)

    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    cost = step.lower(params, jnp.ones((b, t, d))).compile().cost_analysis()
    matrices = 6 * sum(x.size for x in params.values())
    masked = throughput.attention_flops_per_token(
        layers=1, heads=n, head_dim=h, context=t
    )
    full = masked * t / ((t + 1) / 2)
    assert cost["flops"] == pytest.approx((matrices + full) * b * t, rel=0.03)


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("TPU7x", 1153.5),
    ],
)
def test_peaks_by_the_names_that_jax_gives(kind, teraflops):
    assert throughput.peak_flops(kind) == teraflops * 1e12


@pytest.mark.parametrize("kind", ["", "cpu", "NVIDIA GeForce RTX 4090", "TPU v99"])
def test_an_unknown_chip_has_no_peak(kind):
    assert throughput.peak_flops(kind) is None
    meter = throughput.Meter(flops_per_token=1e9, device_kind=kind)
    meter.step(1)
    assert set(meter.step(1)) == {"tokens_per_second"}


def test_rates_leave_out_the_first_step_and_pauses():
    now = 100.0
    meter = throughput.Meter(
        flops_per_token=312e12 / 1000, device_kind="NVIDIA A100", devices=4, steps=2,
        clock=lambda: now,
    )  # fmt: skip
    now += 60  # compilation
    assert meter.step(100) == {}
    now += 2
    assert meter.step(100) == {"tokens_per_second": 50.0, "mfu": 50 / 4000}
    with meter.pause():
        now += 1000
    now += 0.5
    assert meter.step(100)["tokens_per_second"] == 200 / 2.5
    now += 0.5
    assert meter.step(50)["tokens_per_second"] == 150  # the last two steps only


def test_a_pause_before_the_first_step_is_harmless():
    now = 0.0
    meter = throughput.Meter(clock=lambda: now)
    with meter.pause():
        now += 5
    assert meter.step(1) == {}
    now += 1
    assert meter.step(3) == {"tokens_per_second": 3.0}

# SPDX-License-Identifier: Apache-2.0
"""What layers keep for the backward pass, and what is chosen where that is too much."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from alignjax import errors, models
from alignjax.models import decoder, memory
from tests.models import small

GELU = dict(norm="layernorm", activation="gelu", mlp_bias=True, attention_bias="all")
BATCH = small.one_document(B=3)


def config(**fields):
    return small.make(**fields)[0].config


def kept(model, params, sequences=BATCH):
    """Shapes and dtypes of all that a gradient keeps of the forward pass."""
    run = lambda params: jax.vjp(lambda p: model.hidden(p, sequences), params)[1]
    return jax.tree.leaves(jax.eval_shape(run, params))


@pytest.mark.parametrize("fields", [{}, GELU, dict(qk_norm="head")], ids=str)
def test_layers_keep_their_16_bit_inputs_alone(fields):
    """Of norms and activations: in float32 they would be the most of all."""
    sizes = dict(head_dim=24, dtype="bfloat16", layers=2, unroll=2)
    model, params = small.make(**fields, **sizes)
    B, T = BATCH.inputs.shape
    wide = [
        x.shape
        for x in kept(model, params)
        if x.dtype == jnp.float32 and x.shape[:2] == (B, T) and x.shape[2:] != (1, 12)
    ]
    # Cosines and sines apart, those are the weights of plain attention.
    assert all(len(shape) == 5 for shape in wide), wide


def test_what_is_kept_is_what_a_gradient_keeps():
    """By the gradient of more layers and rows than are looked at."""
    c = config(layers=4, unroll=4, remat="dots", dtype="bfloat16", **GELU)
    estimate = memory.kept_bytes(c, BATCH, rows=3)
    layer = memory.kept_bytes(dataclasses.replace(c, remat="none"), BATCH, 3) / 4
    made = small.make(layers=4, unroll=4, remat="dots", dtype="bfloat16", **GELU)
    twice, once = (kept(*made, small.one_document(B=rows)) for rows in (6, 3))
    nbytes = lambda arrays: sum(x.size * x.dtype.itemsize for x in arrays)
    actual = nbytes(twice) - nbytes(once)
    # Beside the layers: the input of the last norm, and tokens.
    assert 0 <= actual - (estimate - layer) < 0.4 * layer


def test_as_much_is_recomputed_as_memory_asks_for():
    c = config(layers=4)
    one = dataclasses.replace(c, unroll=1)
    size = lambda remat: memory.kept_bytes(
        dataclasses.replace(one, remat=remat), BATCH, 1000
    )

    def chosen(free, c=c, platform="cpu"):
        return memory.choose(c, BATCH, 1000, platform=platform, free=int(free)).config

    sizes = {remat: size(remat) for remat in decoder.REMAT_POLICIES}
    assert sorted(sizes.values(), reverse=True) == list(sizes.values())
    for remat in ("dots", "full"):
        assert chosen(sizes[remat] / memory.SHARE + 10).remat == remat
    assert chosen(1e12).remat == "none"
    assert chosen(0).remat == "full"  # nothing keeps less
    assert chosen(0, dataclasses.replace(c, remat="dots")).remat == "dots"
    assert chosen(1e12).unroll == chosen(1e12, platform="tpu").unroll == 1
    assert chosen(1e12, platform="gpu").unroll == 4
    assert chosen(1e12, dataclasses.replace(c, unroll=2), "gpu").unroll == 2
    many = config(layers=memory.UNROLLED + 1)
    assert chosen(1e12, many, "gpu").unroll == 1


def test_no_policy_keeps_more_than_the_bound():
    """By which large memories are not looked at closely."""
    norms = dict(qk_norm="full", norm_placement="both")
    for fields in ({}, GELU, norms, dict(experts=4)):
        c = config(layers=2, unroll=2, remat="none", **fields)
        free = 10**15
        bound = memory.choose(c, BATCH, 5, platform="gpu", free=free).nbytes
        assert memory.kept_bytes(c, BATCH, 5) < bound


def test_attention_does_not_run_again_where_its_output_is_kept():
    """Other products are kept by the policy too, so that none is made twice."""

    def products(remat):
        model, params = small.make(layers=2, unroll=2, remat=remat, max_length=256)
        row = small.one_document(B=1, length=256)  # attention in several blocks
        gradient = jax.grad(lambda p: jnp.sin(model.hidden(p, row)).sum())
        return str(jax.make_jaxpr(gradient)(params)).count("dot_general[")

    assert products("dots") == products("none") < products("attention")


def test_auto_is_a_value_of_both_fields():
    build = lambda **fields: models.build({**small.SMALL, **fields}, small.V).config
    assert build().remat == build().unroll == "auto"
    assert build(unroll=2).unroll == 2
    for wrong in (dict(unroll="all"), dict(unroll=0), dict(remat="some")):
        with pytest.raises(errors.ConfigError, match=f"model.{next(iter(wrong))}"):
            build(**wrong)

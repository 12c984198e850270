# SPDX-License-Identifier: Apache-2.0
"""The hash of a leaf: what it sees, and what it does not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.storage import fingerprint
from tests.fixtures import tiny

DTYPES = ["bool", "int8", "uint8", "int32", "bfloat16", "float16", "float32"]
DTYPES += ["float8_e4m3fn"]


def digits(x) -> str:
    (found,) = fingerprint.fingerprints([x]).values()
    return found.digits


def in_numpy(x: np.ndarray) -> str:
    """The same hash from its definition, in Python's own integers and numpy's."""

    def mix(v):
        v = ((v ^ (v >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
        v = ((v ^ (v >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
        return v ^ (v >> 16)

    words = x.reshape(-1).view(f"uint{8 * x.dtype.itemsize}").astype(np.uint64)
    terms = mix(words ^ mix(np.arange(words.size, dtype=np.uint64) + 1))
    low = mix((terms + 0x9E3779B9) & 0xFFFFFFFF)
    return f"{int(terms.sum()) % 2**32:08x}{int(low.sum()) % 2**32:08x}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 4)])
def test_is_what_its_definition_says(dtype, shape):
    x = np.random.default_rng(0).normal(size=shape) * 3
    x = np.asarray(x).astype(jnp.dtype(dtype))
    assert digits(x) == in_numpy(x)


def test_stays_the_same_from_version_to_version():
    x = jnp.arange(24, dtype=jnp.float32).reshape(2, 3, 4)
    assert digits(x) == "d4679586a0439549", (
        "checkpoints of earlier versions would be taken for broken: raise "
        "storage.FORMAT and keep reading the old one"
    )


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_does_not_depend_on_the_mesh(axis):
    found = set()
    for count in (1, 2, 4, 8):
        state = tiny.state_at(3, tiny.abstract(tiny.mesh_of(count), axis))
        found.add(str(fingerprint.fingerprints(state)))
    assert len(found) == 1


def test_sees_every_bit_of_every_element():
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    seen = {digits(x)}
    for element in range(x.size):
        for bit in range(32):
            y = x.copy()
            y.reshape(-1).view(np.uint32)[element] ^= np.uint32(1 << bit)
            seen.add(digits(y))
    assert len(seen) == 1 + x.size * 32


def test_sees_that_elements_changed_places():
    x = jnp.arange(12.0).reshape(3, 4)
    seen = {digits(y) for y in (x, x[::-1], x[:, ::-1], jnp.roll(x, 1))}
    assert len(seen) == 4
    assert digits(jnp.zeros(3)) != digits(jnp.zeros(4))


def test_names_leaves_and_flags_what_is_not_finite():
    tree = {
        "good": jnp.ones(3),
        "nan": jnp.array([0, jnp.nan]),
        "inf": jnp.array(-jnp.inf, jnp.bfloat16),
        "count": jnp.int32(2**31 - 1),
    }
    found = fingerprint.fingerprints(tree)
    bad = {name for name, leaf in found.items() if leaf.nonfinite}
    assert set(found) == set(tree)
    assert bad == {"nan", "inf"}
    assert fingerprint.fingerprints({}) == {}


def test_compiles_once_for_states_of_one_shape(caplog):
    like = tiny.abstract(tiny.mesh_of(2), size=6)  # as no other test
    first, second = tiny.state_at(1, like), tiny.state_at(2, like)
    with jax.log_compiles():
        fingerprint.fingerprints(first)
        assert "Compiling" in caplog.text
        caplog.clear()
        fingerprint.fingerprints(second)
        assert "Compiling" not in caplog.text

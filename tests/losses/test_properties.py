# SPDX-License-Identifier: Apache-2.0
"""What every loss of the catalogue must satisfy; a new one is tested for it unasked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.losses import catalogue
from alignjax.types import LogProbs
from tests.losses import batches

LOSSES = batches.names()
OF_LOGPROBS = [case for case in LOSSES if case[0] != "reward"]
every_loss = pytest.mark.parametrize(("kind", "name"), LOSSES)
PREFERENCE = sorted(catalogue.PREFERENCE)

LN2 = np.log(2)
# Where the policy is the reference, at the default options; None where it depends on
# the responses, because the loss has no reference or looks at lengths.
START = {
    "aot": LN2,
    "aot_unpaired": LN2,
    "apo_down": 1.0,
    "apo_zero": 1.0,
    "bco_pair": 2 * LN2,
    "bco_pair_trl": 2 * LN2,
    "beta_dpo": LN2,
    "chi_po": LN2,
    "discopop": 0.846574,
    "dpo": LN2,
    "dpop": LN2,
    "exo_pair": 2.761231,
    "exo_pair_authors": 5 - LN2,
    "f_dpo": LN2,
    "hinge": 1.0,
    "ipo": 25.0,
    "ipo_mean": 25.0,
    "iterative_rpo": None,
    "ld_dpo": LN2,
    "ln_dpo": LN2,
    "mpo": None,
    "nca_pair": 2 * LN2,
    "npo": 20 * LN2,
    "odpo": None,
    "r_dpo": None,
    "reward_aware": None,
    "robust": LN2,
    "rpo": None,
    "rpo_trl": None,
    "rso": 1.0,
    "sampo": LN2,
    "sppo": 250_000.0,
    "sppo_soft": None,
    "sppo_trl": 500_000.0,
    "tdpo1": LN2,
    "tdpo2": LN2,
    "wpo": LN2,
    "wpo_authors": LN2,
}


def at_reference(kind):
    """The batch as it is before the first step, of a policy sure of each token."""
    _, reference, inputs = batches.batch(kind)
    still = reference.replace(
        collision=reference.total, reference_kl=np.zeros_like(reference.total)
    )
    return still, still, inputs


@pytest.mark.parametrize("name", PREFERENCE)
def test_where_a_loss_starts(name):
    free = not catalogue.traits(catalogue.PREFERENCE[name]).reference
    assert free or name in START, f"say where {name} starts, or that it varies: None"
    if free or START[name] is None:
        return
    policy, reference, inputs = batches.cast(at_reference("preference"), np.float32)
    loss_B = batches.call("preference", name, {})(policy, reference, inputs)
    # beta-DPO leaves pairs out, so that only its mean is known.
    np.testing.assert_allclose(np.mean(loss_B), START[name], rtol=1e-5)
    if name != "beta_dpo":
        np.testing.assert_allclose(loss_B, START[name], rtol=1e-5)


@pytest.mark.parametrize("name", [n for n in PREFERENCE if n != "discopop"])
def test_the_first_step_prefers_the_chosen(name):
    """DiscoPOP alone is meant not to."""
    policy, reference, inputs = batches.cast(at_reference("preference"), np.float32)
    run = batches.value_and_gradient(batches.call("preference", name, {}))
    _, gradients = run(policy, reference, inputs)
    field = {"sampo": "sample"}.get(name, "total")
    chosen_B, rejected_B = gradients[field].T
    assert (chosen_B <= 0).all() and (rejected_B >= 0).all()
    assert (chosen_B < 0).any() or (rejected_B > 0).any()


MARGIN = [n for n in PREFERENCE if catalogue.traits(catalogue.PREFERENCE[n]).margin]


@pytest.mark.parametrize("name", MARGIN)
def test_swapping_the_sides_negates_the_margin(name):
    """And with it all: what lifts the chosen one lowers the other by as much."""
    policy, reference, inputs = batches.batch("preference")
    with jax.enable_x64(True):
        data = batches.cast((policy, reference, inputs), np.float64)
        loss = batches.call("preference", name, {})
        loss_B, gradients = batches.value_and_gradient(loss)(*data)
        total_B2 = gradients["total"]
        np.testing.assert_allclose(total_B2[:, 0], -total_B2[:, 1], atol=1e-12)
        # The same margins from the other side: both models' sides swapped and negated.
        mirror = lambda x: x.replace(total=-x.total[:, ::-1])
        mirrored_B = loss(mirror(data[0]), mirror(data[1]), data[2])
        np.testing.assert_allclose(mirrored_B, loss_B, rtol=1e-12)
        both = lambda x: x.replace(total=x.total - 7.0)
        np.testing.assert_allclose(
            loss(both(data[0]), data[1], data[2]), loss_B, rtol=1e-10
        )


def test_margin_losses_are_declared():
    """That of the undeclared ones, none could be."""
    undeclared = set(PREFERENCE) - set(MARGIN)
    policy, reference, inputs = batches.batch("preference")
    for name in undeclared:
        run = batches.value_and_gradient(batches.call("preference", name, {}))
        _, gradients = run(*batches.cast((policy, reference, inputs), np.float32))
        total_B2 = gradients["total"]
        same = np.allclose(total_B2[:, 0], -total_B2[:, 1], atol=1e-9)
        assert not same or catalogue.traits(catalogue.PREFERENCE[name]).needs, name


def extremes(kind):
    """Log-probabilities of 0 and -1e4 nats in all combinations, and empty responses."""
    shape = batches.SHAPES[kind]
    _, _, inputs = batches.batch(kind)
    rng = np.random.default_rng(1)
    for length in (0.0, 1e4):
        for _ in range(2):
            far = lambda: -1e4 * rng.integers(0, 2, shape).astype(float)
            make = lambda length=length, far=far: LogProbs(
                far(),
                np.full(shape, length),
                **{name: far() for name in batches.FIELDS[1:]},
            )
            yield make().replace(reference_kl=-far()), make(), inputs


@every_loss
def test_finite_at_the_extremes(kind, name):
    run = batches.value_and_gradient(batches.call(kind, name, {}))
    for policy, reference, inputs in extremes(kind):
        loss_B, gradients = run(*batches.cast((policy, reference, inputs), np.float32))
        assert np.isfinite(loss_B).all()
        for field, gradient in gradients.items():
            assert np.isfinite(gradient).all(), field


@pytest.mark.parametrize("options", batches.EXTRA["f_dpo"], ids=str)
def test_finite_at_the_extremes_under_any_divergence_and_link(options):
    run = batches.value_and_gradient(batches.call("preference", "f_dpo", options))
    for policy, reference, inputs in extremes("preference"):
        data = batches.cast((policy, reference, inputs), np.float32)
        loss_B, gradients = run(*data)
        assert np.isfinite(loss_B).all()
        assert np.isfinite(gradients["total"]).all()


@pytest.mark.parametrize(("kind", "name"), OF_LOGPROBS)
def test_a_loss_reads_what_it_declares(kind, name):
    """What it does not ask for may be missing, and what it asks for matters."""
    policy, reference, inputs = batches.cast(batches.batch(kind), np.float32)
    asked = catalogue.traits(catalogue.CATALOGUE[kind][name])
    loss = batches.call(kind, name, {})
    loss_B = loss(policy, reference, inputs)
    missing = {f: None for f in batches.FIELDS[1:] if f not in asked.needs}
    less = None if not asked.reference else reference.replace(**missing)
    np.testing.assert_array_equal(loss(policy.replace(**missing), less, inputs), loss_B)
    for field in asked.needs:
        other = policy.replace(**{field: getattr(policy, field) / 7})
        moved_B = loss(other, reference, inputs)
        assert not np.allclose(moved_B, loss_B), field
    if asked.reference:
        other = jax.tree.map(lambda x: x / 7, reference)
        assert not np.allclose(loss(policy, other, inputs), loss_B)


@every_loss
def test_the_order_of_the_batch_does_not_matter(kind, name):
    data = batches.batch(kind)
    loss = batches.call(kind, name, {})
    order = np.array([3, 0, 5, 1, 4, 2])
    moved = jax.tree.map(lambda x: x[order], data)
    with jax.enable_x64(True):
        loss_B = loss(*batches.cast(data, np.float64))
        moved_B = loss(*batches.cast(moved, np.float64))
    np.testing.assert_allclose(moved_B, loss_B[order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", catalogue.CATALOGUE)
def test_jit_is_eager(kind):
    """All losses of a kind in one program, which compiles sooner than one for each."""
    runs = {
        name: batches.value_and_gradient(batches.call(kind, name, {}))
        for name in catalogue.CATALOGUE[kind]
    }
    data = batches.cast(batches.batch(kind), np.float32)
    compiled = jax.jit(lambda *data: {n: run(*data) for n, run in runs.items()})(*data)
    for name, run in runs.items():
        check = lambda a, b, name=name: np.testing.assert_allclose(
            a, b, rtol=1e-5, atol=1e-6, err_msg=name
        )
        jax.tree.map(check, compiled[name], run(*data))


COUPLED = [
    (kind, name)
    for kind, name in LOSSES
    if catalogue.traits(catalogue.CATALOGUE[kind][name]).coupled
]


# WPO's weight moves too, and has no gradient: its transcription tests that.
SMOOTH = [case for case in OF_LOGPROBS if "wpo" not in case[1]]


@pytest.mark.parametrize(("kind", "name"), SMOOTH)
def test_gradients_are_numerical(kind, name):
    """With the statistic held where it is, as two passes over a batch hold it."""
    policy, reference, inputs = batches.batch(kind)
    function = batches.bound(kind, name, {})
    inputs = batches.only(function, inputs)
    if (kind, name) in COUPLED:
        statistic = catalogue.measure(function, policy, reference, **inputs)
        inputs = dict(inputs, statistic=statistic)
    with jax.enable_x64(True):
        data = batches.cast((policy, reference, inputs), np.float64)
        policy, reference, inputs = data
        total = lambda x: function(policy.replace(total=x), reference, **inputs).sum()
        if name == "aot_unpaired":  # whose value moves with the pairs it is matched to
            total = lambda x: batches.evaluate(
                function, policy.replace(total=x), reference, inputs
            ).sum()
        gradient = np.asarray(jax.grad(total)(policy.total))
        rng = np.random.default_rng(2)
        way, step = rng.normal(0, 1, policy.total.shape), 1e-5
        ahead, behind = policy.total + step * way, policy.total - step * way
        numerical = (total(ahead) - total(behind)) / (2 * step)
    expected = (gradient * way).sum()
    np.testing.assert_allclose(numerical, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("kind", "name"), OF_LOGPROBS)
def test_microbatches_add_up(kind, name):
    """Halves of the batch that share one statistic are the batch."""
    function = batches.bound(kind, name, {})
    with jax.enable_x64(True):
        data = batches.cast(batches.batch(kind), np.float64)
        policy, reference, inputs = data
        inputs = batches.only(function, inputs)
        statistic = catalogue.measure(function, policy, reference, **inputs)
        if statistic is not None:
            inputs["statistic"] = statistic
        split = lambda tree, rows: jax.tree.map(
            lambda x: x[rows] if jnp.ndim(x) else x, tree
        )

        def total(fields, rows):
            some = split((policy.replace(**fields), reference, inputs), rows)
            return function(*some[:2], **some[2]).sum()

        fields = dict(total=policy.total)
        halves = [slice(0, None, 2), slice(1, None, 2)]
        whole = jax.value_and_grad(total)(fields, slice(None))
        parts = [jax.value_and_grad(total)(fields, rows) for rows in halves]
        summed = jax.tree.map(lambda a, b: a + b, *parts)
    check = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12)
    jax.tree.map(check, summed, whole)


@pytest.mark.parametrize(("kind", "name"), COUPLED)
def test_coupled_losses_are_declared_because_it_matters(kind, name):
    """A statistic of half the batch is another: no microbatch may take its own."""
    policy, reference, inputs = batches.batch(kind)
    loss = batches.call(kind, name, {})
    whole_B = np.asarray(loss(policy, reference, inputs))
    gaps = []
    for rows in (slice(0, 3), slice(3, 6), slice(0, None, 2)):
        half = jax.tree.map(lambda x, rows=rows: x[rows], (policy, reference, inputs))
        gaps.append(np.abs(np.asarray(loss(*half)) - whole_B[rows]).max())
    assert max(gaps) > 1e-6


@pytest.mark.parametrize(("kind", "name"), COUPLED)
def test_padding_rows_do_not_enter_a_statistic(kind, name):
    policy, reference, inputs = batches.batch(kind)
    function = batches.bound(kind, name, {})
    inputs = batches.only(function, inputs)
    plain = catalogue.measure(function, policy, reference, **inputs)
    double = lambda x: np.concatenate([x, x * 3 if x.dtype != bool else ~x])
    padded = jax.tree.map(double, (policy, reference, inputs))
    weight_B = np.repeat([1.0, 0.0], 6)
    same = catalogue.measure(function, *padded[:2], **padded[2], weight_B=weight_B)
    first = lambda x: x[:6] if jnp.ndim(x) else x
    check = lambda a, b: np.testing.assert_allclose(first(a), b, rtol=1e-5)
    jax.tree.map(check, same, plain)
    loss_B = function(*padded[:2], **padded[2], statistic=same)
    assert np.isfinite(loss_B).all()


LIMITS = [
    ("robust", dict(label_smoothing=0.0), "dpo", {}),
    ("dpop", dict(beta=0.1, penalty=0.0), "dpo", {}),
    ("r_dpo", dict(alpha=0.0), "dpo", {}),
    ("tdpo2", dict(alpha=0.0), "dpo", {}),
    ("ld_dpo", dict(alpha=1.0), "dpo", {}),
    ("beta_dpo", dict(sensitivity=0.0, drop=0.0), "dpo", {}),
    ("rpo", dict(eta=0.0), "dpo", dict(beta=0.01)),
    ("iterative_rpo", dict(alpha=0.0), "dpo", {}),
    ("f_dpo", dict(divergence="alpha", alpha=1e-9), "dpo", {}),
    ("f_dpo", dict(divergence="alpha", alpha=1.0), "f_dpo", {}),
    ("alphapo", dict(alpha=1e-9), "simpo", dict(beta=2.5, gamma=0.1)),
    ("rso", dict(link="logistic"), "dpo", dict(beta=0.05)),
]


@pytest.mark.parametrize(("name", "options", "limit", "of"), LIMITS, ids=str)
def test_limits(name, options, limit, of):
    data = batches.batch("preference")
    with jax.enable_x64(True):
        ours_B = batches.call("preference", name, options)(*data)
        theirs_B = batches.call("preference", limit, of)(*data)
    np.testing.assert_allclose(ours_B, theirs_B, rtol=1e-6)


def test_a_list_of_two_is_a_pair():
    policy, reference, _ = batches.batch("preference")
    dpo_B = batches.call("preference", "dpo", {})(policy, reference, {})
    listwise = batches.call("ranked", "plackett_luce_dpo", {})
    np.testing.assert_allclose(listwise(policy, reference, {}), dpo_B, rtol=1e-5)
    sure = dict(reward_BK=np.tile([100.0, 0.0], (6, 1)))
    infonca = batches.call("ranked", "infonca", dict(beta=0.1))
    np.testing.assert_allclose(infonca(policy, reference, sure), dpo_B, rtol=1e-5)


def test_aot_of_one_pair_is_dpo():
    policy, reference, _ = batches.batch("preference")
    for name in ("aot", "aot_unpaired"):
        loss = batches.call("preference", name, dict(beta=0.1))
        for i in range(6):
            one = jax.tree.map(lambda x, i=i: x[i : i + 1], (policy, reference))
            dpo_B = batches.call("preference", "dpo", {})(*one, {})
            np.testing.assert_allclose(loss(*one, {}), dpo_B, rtol=1e-5)

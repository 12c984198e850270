# SPDX-License-Identifier: Apache-2.0
"""The KL penalty, in every place by every estimator, on a task that is enumerated.

Two tokens of three words each: all nine responses are known, so expected gradients are
sums. Where an estimator stands decides what is descended.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.losses import advantages, catalogue, kl, policy_gradient
from alignjax.types import Now, Then

FILE = pathlib.Path(__file__).parent.parent / "golden" / "policy_gradient.json"
GOLDEN = json.loads(FILE.read_text())
ACTION = np.ones((9, 2), bool)
FIRST, SECOND = np.divmod(np.arange(9), 3)
STATES = np.stack([0 * FIRST, 1 + FIRST], -1)  # the start, and one after each word
WORDS = np.stack([FIRST, SECOND], -1)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def logits(seed):
    """Of each of the four states."""
    return jax.random.normal(jax.random.key(seed), (4, 3), jnp.float64)


def tables(theta):
    """log p(word | state) [4, 3], and of the words of all responses [9, 2]."""
    log_p = jax.nn.log_softmax(theta)
    return log_p, log_p[STATES, WORDS]


def of_states(theta):
    """KL(policy || reference) at the states of every response [9, 2]."""
    log_p, log_q = tables(theta)[0], tables(logits(1))[0]
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)[STATES]


def sequence_kl(theta):
    logp, reference = tables(theta)[1], tables(logits(1))[1]
    return (jnp.exp(logp.sum(-1)) * (logp - reference).sum(-1)).sum()


def expected_gradient(loss, theta=None):
    """Of a loss of all responses, each as often as the policy draws it."""
    theta = logits(0) if theta is None else theta
    often = jax.lax.stop_gradient(jnp.exp(tables(theta)[1].sum(-1)))

    def total(theta):
        logp = tables(theta)[1]
        fixed = jax.lax.stop_gradient(logp)
        reference = tables(logits(1))[1]
        then = Then(ACTION, 0 * fixed, fixed, reference=reference)
        loss_BT = loss(Now(logp, kl=of_states(theta)), then)
        return (often * loss_BT.sum(-1)).sum()

    return np.asarray(jax.grad(total)(theta))


def in_reward(reward, **options):
    """The loss whose token rewards are minus `reward` of `(logp, reference)`."""

    def loss(now, then):
        penalty = reward(jax.lax.stop_gradient(now.logp), then.reference)
        action = ACTION[:, None]
        earned = advantages.token_rewards(
            jnp.zeros((9, 1)), action, penalty[:, None], 1.0
        )
        yes = np.ones((9, 1), bool)
        outcome = advantages.Outcome(earned, action, yes, yes, jnp.zeros((9, 1, 2)))
        if options:
            learned = advantages.gae(outcome, **options).advantage
        else:
            learned = advantages.reinforce(outcome).advantage
        learned = then.replace(advantage=learned[:, 0])
        return catalogue.POLICY_GRADIENT["reinforce"](now, learned)

    return loss


def k1_loss(now, then):
    return kl.k1(now.logp, then.reference)


def k1_ratio(now, then):
    return policy_gradient.ratio(now, then) * kl.k1(now.logp, then.reference)


def k3_value(logp, reference):
    now, then = Now(logp), Then(ACTION, 0, logp, reference=reference)
    return kl.k3(now, then)


def squared_sum(now, then):
    """k2 of a whole response."""
    total = kl.k1(now.logp, then.reference).sum(-1, keepdims=True)
    return jnp.square(total) / 2 * jnp.array([1.0, 0.0])


# Relative error and cosine to the gradient of KL(policy || reference) of responses.
TABLE = {
    "loss k1": (k1_loss, 1.0, None),
    "loss k2": (kl.k2, 0.0858, 0.998),
    "loss k3": (kl.k3, 0.7228, 0.971),
    "loss ratio k1": (k1_ratio, 0.0858, 0.998),
    "loss ratio k3": (kl.k3_ratio, 0.0858, 0.998),
    "loss exact": (kl.exact, 0.0858, 0.998),
    "reward k1, return to go": (in_reward(kl.k1, lam=1.0), 0.0, 1.0),
    "reward k1, sum of the response": (in_reward(kl.k1), 0.0, 1.0),
    "loss k2 of the sum": (squared_sum, 0.0, 1.0),
    "advantage k1, no return to go": (in_reward(kl.k1, lam=0.0), 0.0858, 0.998),
    "reward k3, return to go": (in_reward(k3_value, lam=1.0), 1.654, -0.840),
}


@pytest.mark.parametrize("row", TABLE)
def test_the_table_of_places_and_estimators(row):
    loss, error, cosine = TABLE[row]
    exact = np.asarray(jax.grad(sequence_kl)(logits(0)))
    ours = expected_gradient(loss)
    norm = np.linalg.norm
    np.testing.assert_allclose(norm(ours - exact) / norm(exact), error, atol=6e-4)
    if cosine is None:
        np.testing.assert_allclose(ours, 0, atol=1e-12)
    else:
        ours = (ours * exact).sum() / (norm(ours) * norm(exact))
        np.testing.assert_allclose(ours, cosine, atol=6e-4)


def test_what_each_gradient_is_of():
    theta, reference = logits(0), logits(1)
    np.testing.assert_allclose(sequence_kl(theta), 0.671166, atol=1e-6)
    often = jnp.exp(tables(theta)[1].sum(-1))[:, None]

    def forward(theta):
        log_p, log_q = tables(theta)[0], tables(reference)[0]
        return (often * (jnp.exp(log_q) * (log_q - log_p)).sum(-1)[STATES]).sum()

    held = lambda theta: (often * of_states(theta)).sum()
    by_state = np.asarray(jax.grad(held)(theta))
    for loss in (kl.k2, kl.k3_ratio, kl.exact):
        np.testing.assert_allclose(expected_gradient(loss), by_state, atol=1e-9)
    by_state_forward = jax.grad(forward)(theta)
    np.testing.assert_allclose(expected_gradient(kl.k3), by_state_forward, atol=1e-9)

    def backwards(theta):
        """KL(reference || policy) of whole responses."""
        logp, other = tables(theta)[1], tables(reference)[1]
        return (jnp.exp(other.sum(-1)) * (other - logp).sum(-1)).sum()

    # k3 in the reward: the one less the other, which is 0 where they meet.
    exact = np.asarray(jax.grad(sequence_kl)(theta))
    ours = expected_gradient(in_reward(k3_value, lam=1.0))
    both = exact - np.asarray(jax.grad(backwards)(theta))
    np.testing.assert_allclose(ours[0], both[0], atol=1e-6)  # at the start
    near = reference + 1e-3 * logits(2)
    for penalty, order in ((kl.k1, 1), (k3_value, 2)):
        size = np.abs(expected_gradient(in_reward(penalty, lam=1.0), near)).max()
        assert (size > 1e-5) == (order == 1), size
    # Exact in the reward: all but each state's own part.
    lacking = lambda logp, reference: jax.lax.stop_gradient(of_states(theta))
    ours = expected_gradient(in_reward(lacking, lam=1.0))
    np.testing.assert_allclose(ours, exact - by_state, atol=1e-6)


def test_where_policy_and_reference_are_one_nothing_pulls():
    reference = logits(1)
    for loss in (kl.k2, kl.k3, kl.k3_ratio, kl.exact):
        ours = expected_gradient(loss, reference)
        np.testing.assert_allclose(ours, 0, atol=1e-12)


def test_off_policy_the_ratio_keeps_it_right():
    """Drawn from old parameters: with the ratio the gradient is that of on-policy."""
    theta, old = logits(0)[:1], logits(3)[:1]
    reference = jax.nn.log_softmax(logits(1)[:1])[0][:, None]
    log_old = jax.nn.log_softmax(old)[0][:, None]
    action = np.ones((3, 1), bool)

    def total(estimator, theta):
        then = Then(action, 0 * log_old, log_old, reference=reference)
        now = Now(jax.nn.log_softmax(theta)[0][:, None])
        return (jnp.exp(log_old) * estimator(now, then)).sum()

    def exact(theta):
        logp = jax.nn.log_softmax(theta)[0][:, None]
        return (jnp.exp(logp) * (logp - reference)).sum()

    gradient = lambda f: np.asarray(jax.grad(lambda theta: total(f, theta))(theta))
    expected = np.asarray(jax.grad(exact)(theta))
    np.testing.assert_allclose(total(kl.k3_ratio, theta), exact(theta), rtol=1e-9)
    np.testing.assert_allclose(gradient(kl.k3_ratio), expected, atol=1e-9)
    assert np.abs(gradient(kl.k2) - expected).max() > 1e-2


@pytest.mark.parametrize("d", [-30.0, -22.0, -18.0, -14.0, -1.0, 0.0, 3.0])
def test_the_gradient_of_rho_k3_is_rho_d_in_float32(d):
    """Of its value it would be the difference of two numbers of size rho e^-d."""
    logp, old = jnp.float32([-10.0]), np.float32([-9.0])
    reference = np.float32(logp - d)
    then = Then(np.ones(1, bool), 0 * old, old, reference=reference)
    gradient = jax.grad(lambda logp: kl.k3_ratio(Now(logp), then).sum())(logp)
    np.testing.assert_allclose(gradient, np.exp(-1.0) * d, rtol=1e-5)
    value = kl.k3_ratio(Now(logp), then)
    np.testing.assert_allclose(value, np.exp(-1.0) * kl.k3_of(np.float32([d])), 1e-5)


def test_vectors_of_estimators():
    """Of one state with five words, its expected values and gradients."""
    given = {k: np.asarray(v) for k, v in GOLDEN["INPUT.klgrad"].items()}
    reference = jax.nn.log_softmax(given["ref_logits"])[:, None]
    action = np.ones((5, 1), bool)

    def mean(estimator, theta):
        logp = jax.nn.log_softmax(theta)[:, None]
        fixed = jax.lax.stop_gradient(logp)
        each = (jnp.exp(logp) * (logp - reference)).sum() * jnp.ones((5, 1))
        now, then = Now(logp, kl=each), Then(action, fixed, fixed, reference=reference)
        return (jnp.exp(fixed) * estimator(now, then)).sum()

    for estimator, value, gradient in [
        (k1_loss, 0, "E[grad k1] (as a loss)"),
        (kl.k2, 1, "E[grad k2]"),
        (kl.k3, 2, "E[grad k3]"),
        (kl.exact, 0, "exact_reverse"),
    ]:
        theta = jnp.asarray(given["policy_logits"])
        ours, by_logits = jax.value_and_grad(lambda x, f=estimator: mean(f, x))(theta)
        vector = GOLDEN["klgrad.E[k1,k2,k3]"][value]
        np.testing.assert_allclose(ours, vector, rtol=1e-6)
        np.testing.assert_allclose(by_logits, GOLDEN[f"klgrad.{gradient}"], atol=1e-7)


def test_far_away_it_pulls_all_the_same():
    """A k3 that is cut at 10 has no gradient where log policy/reference is -5.

    And one whose exponent is cut at 20 pushes an unlikely token farther down at -25.
    """
    then = Then(np.ones((1, 5), bool), 0, 0, reference=np.zeros((1, 5)))
    total = lambda logp: kl.k3(Now(logp), then).sum()
    ratios = jnp.array([[-5.0, 30.0, -20.0, -25.0, -1e4]])
    gradient = np.asarray(jax.grad(total)(ratios))
    slope = 1 - np.exp(20)
    expected = [[1 - np.exp(5), 1, slope, slope, slope]]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    values = np.asarray(kl.k3(Now(ratios), then)[0])
    far = np.exp(20) * (1 + np.array([0.0, 5.0, 1e4 - 20])) - 1
    np.testing.assert_allclose(values[2:], far + ratios[0, 2:], rtol=1e-6)
    with jax.enable_x64(False):
        ends = jnp.array([-1e20, 1e30, np.inf], jnp.float32)
        np.testing.assert_allclose(kl.k3_of(ends), [np.exp(20) * 1e20, 1e30, np.inf])


@pytest.mark.parametrize(
    ("place", "estimator", "field", "reason"),
    [
        ("loss", "k1", "estimator", "its expected gradient is 0"),
        ("reward", "k2", "estimator", "vanishes"),
        ("reward", "k3", "estimator", "vanishes where they meet"),
        ("reward", "exact", "estimator", "each state's own"),
        ("reward", "k3_ratio", "estimator", "no gradient"),
        ("loss", "k4", "estimator", "did you mean|known"),
        ("advantage", "k1", "place", "known: loss, reward"),
    ],
)
def test_wrong_pairs_are_refused_with_the_reason(place, estimator, field, reason):
    with pytest.raises(ValueError, match=f"^{field}: .*({reason})"):
        kl.check(place, estimator)


def test_every_other_pair_is_right():
    for place, estimators in kl.PLACES.items():
        for estimator in estimators:
            kl.check(place, estimator)
    assert set(kl.PLACES["loss"]) == set(kl.ESTIMATORS)
    pairs = {(p, e) for p in kl.PLACES for e in ("k1", *kl.ESTIMATORS)}
    right = {(p, e) for p, names in kl.PLACES.items() for e in names}
    assert pairs - right == set(kl.REFUSED)


def test_the_controller():
    for sequence_kl, vector in ((12.0, "kl=12"), (6.0, "kl=6"), (3.0, "kl=3")):
        key = f"adaptive_kl(coef=.2,target=6,horizon=1e4,n=512,{vector})"
        ours = kl.adapted(0.2, sequence_kl, 512, target=6.0, horizon=1e4)
        np.testing.assert_allclose(ours, GOLDEN[key], rtol=1e-6)
    # Between the bounds of a fifth it goes by the size of the error.
    ours = kl.adapted(0.2, 6.6, 1000, target=6.0, horizon=1e4)
    np.testing.assert_allclose(ours, 0.2 * (1 + 0.1 * 0.1), rtol=1e-6)

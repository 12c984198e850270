# SPDX-License-Identifier: Apache-2.0
"""Reward models on a model to follow by hand: scores, losses, ensembles, figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors, objectives
from alignjax.objectives import metrics, reward_model
from alignjax.training import hooks
from alignjax.types import Frozen
from tests.fixtures import marks
from tests.objectives import batches, subject

KEY = jax.random.key(3)


def build(heads=1, **section):
    return objectives.build(subject.model(heads), dict(name="reward_model", **section))


def run(objective, batch, heads=1, key=None):
    """The loss, its gradient and all figures, evaluated on one batch."""

    def value(params):
        loss, metrics = objective.loss(params, Frozen(), batch, key, key is not None)
        return loss.total / loss.weight, {"loss": loss, **metrics}

    params = subject.params(0, heads)
    (loss, means), gradient = jax.value_and_grad(value, has_aux=True)(params)
    return loss, gradient, hooks.figures(jax.device_get(means))


def by_hand(K, heads=1, count=5, pooling="last"):
    """Scores [G, K, H] of the batch of `subject`, and its groups."""
    groups = batches.groups(count, subject.V, K=K)
    params = subject.params(0, heads)
    table = np.asarray(params["embed"] @ params["scores"])
    read = lambda g, r: table[[g.prompt[-1], *r[:-1]]]  # what predicts the response
    pool = (lambda x: x[-1]) if pooling == "last" else (lambda x: x.mean(0))
    return np.array([[pool(read(g, r)) for r in g.responses] for g in groups]), groups


@pytest.mark.parametrize("layout", batches.LAYOUTS)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_scores(layout, pooling):
    batch = subject.batch(layout, K=3, padding=1)
    found = reward_model.score(
        subject.model(2), subject.params(0, 2), batch, pooling=pooling
    )
    expected, groups = by_hand(3, 2, pooling=pooling)
    np.testing.assert_allclose(found[: len(groups)], expected, rtol=1e-5, atol=1e-6)
    assert (found[len(groups) :] == 0).all()


def test_bradley_terry_and_its_figures():
    count = 40
    objective = build(label_smoothing=0.1, centring=0.01)
    batch = subject.batch(count=count)
    loss, _, figures = run(objective, batch)
    score, groups = by_hand(2, count=count)
    score = score[..., 0].astype(np.float64)
    weight = np.array([g.weight for g in groups])
    mean = lambda x, w=weight: (x * w).sum() / w.sum()
    margin = score[:, 0] - score[:, 1]
    log_sigmoid = lambda x: -np.log1p(np.exp(-x))
    z = margin - [g.values["margin"] for g in groups]
    each = -0.9 * log_sigmoid(z) - 0.1 * log_sigmoid(-z) + 0.01 * score.sum(-1) ** 2
    right = (1 + np.sign(margin)) / 2
    length = np.array([[len(r) for r in g.responses] for g in groups], float)
    both = np.repeat(weight, 2)
    moment = lambda x: mean(x.ravel(), both)
    deviation = lambda x: np.sqrt(moment((x - moment(x)) ** 2))
    covariance = moment((score - moment(score)) * (length - moment(length)))
    confidence = 1 / (1 + np.exp(-abs(margin)))
    bins = np.minimum((2 * confidence - 1) * 10 // 1, 9)
    ece = sum(
        abs(mean((confidence - right) * (bins == k))) for k in range(metrics.BINS)
    )
    expected = {
        "loss_weight": weight.sum(),
        "rewards/accuracies": mean(right),
        "rewards/margins": mean(margin),
        "rewards/chosen": mean(score[:, 0]),
        "rewards/rejected": mean(score[:, 1]),
        "calibration/nll": mean(-log_sigmoid(margin)),
        "calibration/brier": mean((1 - 1 / (1 + np.exp(-margin))) ** 2),
        "calibration/ece": ece,
        "score/mean": moment(score),
        "score/std": deviation(score),
        "score/length_correlation": covariance / deviation(score) / deviation(length),
    }
    ahead = np.sign(length[:, 0] - length[:, 1])
    for name, sign in (("shorter", -1), ("as_long", 0), ("longer", 1)):
        kind = weight * (ahead == sign)
        assert kind.sum() > 0
        expected[f"accuracies/chosen_{name}"] = mean(right, kind)
    np.testing.assert_allclose(loss, mean(each), rtol=1e-5)
    assert set(figures) == {"loss", *expected}
    for name, value in expected.items():
        np.testing.assert_allclose(figures[name], value, rtol=1e-4, err_msg=name)
    assert 0.2 < expected["rewards/accuracies"] < 0.8 and ece > 0.01


def judged(scores):
    """The figures of pairs with these scores, all of one length."""
    score = jnp.asarray(scores)[..., None]
    ones = jnp.ones(score.shape[:2])
    means = metrics.score_pairs(score, ones > 0, ones, ones[:, 0], {})
    return hooks.figures(jax.device_get(means))


def test_calibration_does_not_follow_from_the_order_of_pairs():
    """Labels drawn as margins say are calibrated, and not where margins exaggerate."""
    rng = np.random.default_rng(0)
    margin = rng.normal(0, 2, 20_000)
    wins = rng.uniform(size=margin.size) < 1 / (1 + np.exp(-margin))
    chosen = np.where(wins, margin, -margin)
    honest = judged(np.stack([chosen, 0 * chosen], -1))
    assert honest["calibration/ece"] < 0.02
    assert 0.6 < honest["rewards/accuracies"] < 0.9
    boastful = judged(np.stack([5 * chosen, 0 * chosen], -1))
    assert boastful["rewards/accuracies"] == honest["rewards/accuracies"]
    assert boastful["calibration/ece"] > 0.1
    assert judged(np.zeros((4, 2)))["rewards/accuracies"] == 0.5


@pytest.mark.parametrize(
    "loss", marks.slow_but(["plackett_luce"], ["plackett_luce", "all_pairs"])
)
def test_lists_with_less_than_all_responses(loss):
    objective = build(loss=loss, pooling="mean")
    found = [
        run(objective, subject.batch(layout, K=3, empty=(1,), padding=2))
        for layout in batches.LAYOUTS
    ]
    assert objective.needs.data == "rankings"
    for loss, gradient, figures in found:
        np.testing.assert_allclose(loss, found[0][0], rtol=1e-5)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
        assert figures["rewards/accuracies"] == pytest.approx(
            found[0][2]["rewards/accuracies"], rel=1e-5
        )
    alone = run(objective, subject.batch(K=3, empty=(1,)))
    np.testing.assert_allclose(alone[0], found[0][0], rtol=1e-5)


def test_ratings_of_two_attributes_of_which_some_are_not_rated():
    objective = build(heads=2, loss="regression")
    assert objective.needs.data == "ratings" and objective.needs.values == ("target",)
    batch = subject.batch(K=1)
    target = batch.values["target"].at[1, 0, 0].set(jnp.nan)
    loss, gradient, figures = run(
        objective, batch.replace(values=dict(target=target)), 2
    )
    score, groups = by_hand(1, 2)
    weight = np.array([g.weight for g in groups])
    error = (score[:, 0] - np.array([g.values["target"] for g in groups])) ** 2
    each = error.mean(-1)
    each[1] = error[1, 1]
    np.testing.assert_allclose(loss, (each * weight).sum() / weight.sum(), rtol=1e-5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert -1 <= figures["correlation/1"] <= 1 and figures["error/1"] > 0


def test_members_learn_apart():
    """Each has the loss of its own; with a bootstrap, of groups of its own."""
    batch = subject.batch(count=30)
    loss, gradient, _ = run(build(heads=2, members=2), batch, 2)
    score, groups = by_hand(2, 2, count=30)
    weight = np.array([g.weight for g in groups])
    margin = np.array([g.values["margin"] for g in groups])[:, None]
    each = np.log1p(np.exp(-(score[:, 0] - score[:, 1] - margin)))
    mean = lambda w: (each * w).sum() / w.sum()
    np.testing.assert_allclose(loss, mean(np.stack([weight, weight], -1)), rtol=1e-5)

    resampled = build(heads=2, members=2, bootstrap=True)
    drawn, other_gradient, _ = run(resampled, batch, 2, KEY)
    copies = np.asarray(reward_model._copies(batch.index.reshape(-1), 2))
    np.testing.assert_allclose(drawn, mean(weight[:, None] * copies), rtol=1e-5)
    assert (copies[:, 0] != copies[:, 1]).any() and drawn != loss
    again, _, _ = run(resampled, batch, 2, jax.random.key(4))
    assert again == drawn  # by the group, not by the step
    evaluated, _, _ = run(resampled, batch, 2)
    np.testing.assert_allclose(evaluated, loss, rtol=1e-6)
    assert not np.allclose(gradient["scores"], other_gradient["scores"])


def test_copies_are_drawn_with_replacement():
    copies = np.asarray(reward_model._copies(jnp.arange(20_000), 2))
    share = [(copies == n).mean() for n in range(4)]
    np.testing.assert_allclose(share, np.exp(-1) / np.array([1, 1, 2, 6]), atol=0.01)
    assert abs(np.corrcoef(copies.T)[0, 1]) < 0.03


def test_reductions():
    x = jnp.array([[[[1.0], [4.0]]]])  # two members
    reduced = lambda *how: float(reward_model.reduced(x, *how)[0, 0, 0])
    assert (reduced("mean"), reduced("min")) == (2.5, 1.0)
    assert reduced("penalised", 2.0) == 2.5 - 2 * 1.5
    batch = subject.batch(count=30)
    found = {
        how: run(build(heads=2, members=2, reduce=how, **more), batch, 2)
        for how, more in (("mean", {}), ("min", {}), ("penalised", {"penalty": 0.5}))
    }
    assert len({float(loss) for loss, _, _ in found.values()}) == 1  # it is reported
    assert len({f["score/mean"] for _, _, f in found.values()}) == 3
    assert found["mean"][2]["score/disagreement"] > 0


def reduced(score_B2):
    return score_B2.mean()


@pytest.mark.parametrize(
    ("heads", "section", "words"),
    [
        (1, dict(loss="bradley"), ["objective.loss", "bradley_terry"]),
        (1, dict(loss=f"{__name__}:reduced"), ["objective.loss: reduced returns"]),
        (1, dict(centering=0.1), ["objective.centering", "did you mean 'centring'"]),
        (1, dict(pooling="first"), ["objective.pooling", "'last', 'mean'"]),
        (1, dict(members=2), ["objective.members: 2", "score_heads = 1"]),
        (0, dict(), ["objective.members: 1", "score_heads = 0"]),
        (4, dict(members=2), ["model.score_heads = 2"]),
        (1, dict(penalty=0.1), ["objective.penalty", "'mean' has no penalty"]),
        (2, dict(members=2, reduce="penalised"), ["needs a penalty"]),
        (
            2,
            dict(members=2, reduce="penalised", penalty=-1.0),
            ["objective.penalty: -1.0 is not at least 0"],
        ),
        (1, dict(bootstrap=True), ["objective.bootstrap"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(heads, section, words):
    with pytest.raises(errors.ConfigError) as error:
        build(heads, **section)
    for word in words:
        assert word in str(error.value)


def test_groups_of_another_size_are_refused():
    with pytest.raises(errors.ConfigError, match=r"groups of 2, .* groups of 3"):
        run(build(), subject.batch(K=3))


@pytest.mark.parametrize(
    ("heads", "members", "wanted"), [(1, 1, 2), (3, 1, 2), (2, 2, 4)]
)
def test_heads_are_as_many_as_targets(heads, members, wanted):
    objective = build(heads, loss="regression", members=members)
    message = f"model.score_heads: {heads} .* the data rate 2; set .* = {wanted}\\b"
    with pytest.raises(errors.ConfigError, match=message):
        run(objective, subject.batch(K=1), heads)

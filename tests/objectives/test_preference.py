# SPDX-License-Identifier: Apache-2.0
"""The preference objective, with every loss there is, on a model to follow by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors, objectives
from alignjax.losses import catalogue
from alignjax.objectives import logprobs, preference
from alignjax.training import hooks
from alignjax.types import Frozen, LogProbs
from tests.fixtures import marks
from tests.objectives import batches, subject

LOSSES = [name for kind in preference.KINDS for name in catalogue.CATALOGUE[kind]]
REFERENCE = Frozen(reference=subject.params(1))
# Whose inputs or statistics might be divided by, or have their logarithm taken.
DELICATE = ["odpo", "reward_aware", "sppo_soft", "aot_unpaired", "beta_dpo", "mpo"]
DELICATE += ["cpo_trl", "sampo", "wpo", "kto", "bco", "infonca"]


def build(name=None, **options):
    return objectives.build(
        subject.model(), dict(name="preference", loss=name, **options)
    )


def groups_of(objective):
    return 3 if objective.needs.data == "rankings" else 2


def run(objective, params, frozen, batch):
    """The loss, its gradient and the metrics, all divided."""

    def value(params):
        loss, means = objective.loss(params, frozen, batch, None, False)
        return loss.total, (loss, means)

    gradient, (loss, means) = jax.grad(value, has_aux=True)(params)
    figures = hooks.figures(jax.device_get({"loss": loss, **means}))
    return float(loss.value()), gradient, figures


def close(found, expected):
    """Equal to 1e-5 of the largest number of each array."""
    for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


def finite(tree):
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name):
    """It has a gradient, also beside empty responses and padding; in training it is
    the loss that it is in evaluations."""
    objective = build(name)
    K = groups_of(objective)
    batch = subject.batch(K=K, empty=(1, 3), padding=2)
    loss, gradient, metrics = run(objective, subject.params(), REFERENCE, batch)
    assert finite((loss, gradient, metrics))
    assert any(np.abs(x).max() > 0 for x in jax.tree.leaves(gradient))
    trained, _ = objective.loss(subject.params(), REFERENCE, batch, None, True)
    assert float(trained.value()) == pytest.approx(loss, rel=1e-6)
    there, _, _ = run(objective, subject.params(1), REFERENCE, batch)
    assert there != pytest.approx(loss, rel=1e-6)
    assert objective.needs.reference == any(key.startswith("drift/") for key in metrics)


BESIDE = ["odpo", "aot_unpaired", "kto", "infonca"]


@pytest.mark.parametrize("name", marks.slow_but(BESIDE, DELICATE))
def test_padding_beside_a_batch_changes_nothing(name):
    objective = build(name)
    K = groups_of(objective)
    found = [
        run(objective, subject.params(), REFERENCE, subject.batch(K=K, padding=n))
        for n in (0, 2)
    ]
    close(found[1], found[0])


ALONE = ["sppo_soft", "mpo", "wpo", "bco"]


@pytest.mark.parametrize("name", marks.slow_but(ALONE, DELICATE))
def test_padding_alone_teaches_nothing(name):
    objective = build(name)
    batch = subject.batch(K=groups_of(objective))
    batch = batch.replace(
        weights=jnp.zeros_like(batch.weights),
        responses=jnp.zeros_like(batch.responses),
        lengths=jnp.zeros_like(batch.lengths),
        values={k: jnp.zeros_like(x) for k, x in batch.values.items()},
    )
    loss, gradient, metrics = run(objective, subject.params(), REFERENCE, batch)
    assert loss == 0 and finite(metrics)
    assert all((x == 0).all() for x in jax.tree.leaves(gradient))


FIGURED = [*DELICATE, "dpo", "tdpo1", "apo_zero_unpaired"]
TWICE = ["reward_aware", "beta_dpo", "sampo", "tdpo1", "apo_zero_unpaired"]


@pytest.mark.parametrize("name", marks.slow_but(TWICE, FIGURED))
def test_a_batch_twice_over_has_the_same_figures(name):
    # Which of several equal pairs are dropped is no matter of figures.
    objective = build(name, **({"drop": 0.0} if name == "beta_dpo" else {}))
    batch = subject.batch(K=groups_of(objective))
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
    once, again = (
        run(objective, subject.params(), REFERENCE, b)[2] for b in (batch, twice)
    )
    assert again.pop("loss_weight") == 2 * once.pop("loss_weight")
    assert again.keys() == once.keys()
    for figure, value in once.items():
        assert again[figure] == pytest.approx(value, rel=1e-4, abs=1e-5), figure


def by_hand(params, count=5, K=2):
    """The `LogProbs` of the batch of `subject`, one token after the other."""
    groups = batches.groups(count, subject.V, K=K)
    sums = [[sum(subject.logp(params, g, k)) for k in range(K)] for g in groups]
    lengths = [[len(g.responses[k]) for k in range(K)] for g in groups]
    return LogProbs(np.array(sums), np.array(lengths, float)), groups


def test_dpo_and_its_metrics_by_hand():
    policy, groups = by_hand(subject.params())
    reference, _ = by_hand(subject.params(1))
    weight = np.array([g.weight for g in groups])
    mean = lambda x: (x * weight).sum() / weight.sum()
    ratio = policy.total - reference.total
    margin = 0.3 * (ratio[:, 0] - ratio[:, 1])
    _, _, metrics = run(
        build("dpo", beta=0.3), subject.params(), REFERENCE, subject.batch()
    )
    expected = {
        "loss": mean(np.log1p(np.exp(-margin))),
        "loss_weight": sum(g.weight for g in groups),
        "rewards/margins": mean(margin),
        "rewards/accuracies": mean(margin > 0),
        "rewards/chosen": mean(0.3 * ratio[:, 0]),
        "rewards/rejected": mean(0.3 * ratio[:, 1]),
        "logps/chosen": mean(policy.total[:, 0]),
        "logps/rejected": mean(policy.total[:, 1]),
        "drift/chosen": mean(ratio[:, 0]),
        "drift/rejected": mean(ratio[:, 1]),
        "length/chosen": mean(policy.length[:, 0]),
        "length/rejected": mean(policy.length[:, 1]),
    }
    table, other = (
        jax.nn.softmax(params["embed"] @ params["head"])
        for params in (subject.params(), subject.params(1))
    )
    tokens = [([g.prompt[-1], *r[:-1]], g.weight) for g in groups for r in g.responses]
    count = sum(w * len(t) for t, w in tokens)
    for name, nats_V in {
        "entropy": -(table * np.log(table)).sum(-1),
        "kl/reference": (other * np.log(other / table)).sum(-1),
    }.items():
        nats = sum(w * nats_V[np.array(t)].sum() for t, w in tokens)
        expected[name] = nats / count
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def test_a_tie_is_half_right():
    _, _, metrics = run(build("dpo"), subject.params(1), REFERENCE, subject.batch())
    assert metrics["rewards/accuracies"] == 0.5


def test_kto_and_its_metrics():
    objective = build("kto", beta=0.3)
    policy, groups = by_hand(subject.params())
    reference, _ = by_hand(subject.params(1))
    weight = np.array([g.weight for g in groups])
    desirable = np.array([g.values["desirable"] for g in groups]) > 0
    ratio = policy.total - reference.total  # the second column is the mismatched one
    z = max(0, (ratio[:, 1] * weight).sum() / weight.sum())
    sign = np.where(desirable, 1, -1)
    each = 1 / (1 + np.exp(0.3 * sign * (ratio[:, 0] - z)))
    loss, _, metrics = run(objective, subject.params(), REFERENCE, subject.batch())
    np.testing.assert_allclose(loss, (each * weight).sum() / weight.sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["kl/baseline"], z, rtol=1e-5)
    share = (weight * desirable).sum() / weight.sum()
    np.testing.assert_allclose(metrics["share/desirable"], share, rtol=1e-5)
    kind = weight * ~desirable
    reward = (0.3 * ratio[:, 0] * kind).sum() / kind.sum()
    np.testing.assert_allclose(metrics["rewards/undesirable"], reward, rtol=1e-5)
    margin = metrics["rewards/desirable"] - metrics["rewards/undesirable"]
    assert metrics["rewards/margins"] == margin


@pytest.mark.parametrize("desirable", [True, False])
def test_a_kind_of_response_that_is_not_there_has_no_figures(desirable):
    objective, batch = build("bco"), subject.batch(K=1)
    kind = jnp.full_like(batch.values["desirable"], desirable)
    batch = batch.replace(values=dict(batch.values, desirable=kind))
    _, _, metrics = run(objective, subject.params(), REFERENCE, batch)
    assert metrics["share/desirable"] == desirable
    there, missing = ("desirable", "undesirable")[:: 1 if desirable else -1]
    for name in ("rewards", "logps", "length", "drift"):
        assert f"{name}/{there}" in metrics and f"{name}/{missing}" not in metrics
    assert "rewards/margins" not in metrics


def test_rankings_are_accurate_where_the_best_is_ahead_of_all():
    policy, groups = by_hand(subject.params(), K=3)
    reference, _ = by_hand(subject.params(1), K=3)
    weight = np.array([g.weight for g in groups])
    ratio = policy.total - reference.total
    _, _, metrics = run(
        build("plackett_luce_dpo"), subject.params(), REFERENCE, subject.batch(K=3)
    )
    right = (ratio[:, :1] > ratio[:, 1:]).all(-1)
    assert 0 < right.sum() < len(right)
    expected = (right * weight).sum() / weight.sum()
    np.testing.assert_allclose(metrics["rewards/accuracies"], expected, rtol=1e-6)


def test_a_mixture_adds_up():
    parts = {"dpo": {"weight": 0.8, "beta": 0.3}, "bco_pair": 0.2, "nll_mean": 1.5}
    objective = objectives.build(
        subject.model(), dict(name="preference", mixture=parts)
    )
    batch = subject.batch()
    loss, gradient, metrics = run(objective, subject.params(), REFERENCE, batch)
    weights = {"dpo": 0.8, "bco_pair": 0.2, "nll_mean": 1.5}
    terms = {name: metrics[f"term/{name}"] for name in weights}
    total = sum(weights[name] * terms[name] for name in weights)
    np.testing.assert_allclose(loss, total, rtol=1e-6)
    alone = {
        name: build(name, **({"beta": 0.3} if name == "dpo" else {}))
        for name in weights
    }
    each = {
        name: run(objective, subject.params(), REFERENCE, batch)
        for name, objective in alone.items()
    }
    for name, (value, _, _) in each.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-6)
    added = jax.tree.map(
        lambda *x: sum(w * g for w, g in zip(weights.values(), x, strict=True)),
        *(gradient for _, gradient, _ in each.values()),
    )
    close(gradient, added)


def stored(batch):
    """The batch with the reference's log-probabilities, and NaN where none belong."""
    sequences = logprobs.flatten_sequences(batch)
    logp = logprobs.tokens(subject.model(), REFERENCE.reference, sequences).logp
    logp = logp.reshape(batch.responses.shape)
    return batch.replace(reference=jnp.where(batch.responses > 0, logp, jnp.nan))


STORABLE = [
    name
    for name in LOSSES
    if not set(catalogue.traits(catalogue.find(name, *preference.KINDS)).needs)
    & set(preference.NOT_STORED)
]


@pytest.mark.parametrize("name", ["dpo", "sampo", "ld_dpo", "aot", "wpo", "bco", "nca"])
def test_a_store_says_what_a_frozen_copy_says(name):
    assert name in STORABLE
    objective = build(name)
    batch = subject.batch(K=groups_of(objective))
    copy = run(objective, subject.params(), REFERENCE, batch)
    store = run(objective, subject.params(), Frozen(), stored(batch))
    copy[2].pop("kl/reference")  # of whole distributions, which no store has
    close(store, copy)


@pytest.mark.parametrize(
    ("name", "field"),
    [("tdpo1", "reference_kl"), ("tdpo2", "reference_kl"), ("kto", "mismatched")],
)
def test_what_a_store_cannot_tell_is_refused_by_name(name, field):
    objective, batch = build(name), stored(subject.batch())
    assert objective.needs.unstored == (field,)
    with pytest.raises(errors.ConfigError, match=f"it needs {field}"):
        objective.loss(subject.params(), Frozen(), batch, None, True)
    # With a model beside the store, the model is asked.
    loss, _, _ = run(objective, subject.params(), REFERENCE, batch)
    expected, _, _ = run(objective, subject.params(), REFERENCE, subject.batch())
    assert loss == pytest.approx(expected)


def test_what_the_batch_lacks_is_named():
    with pytest.raises(errors.ConfigError, match="it compares with a reference"):
        build("dpo").loss(subject.params(), Frozen(), subject.batch(), None, True)
    bare = subject.batch().replace(values={})
    with pytest.raises(errors.ConfigError, match="takes gap of each example"):
        build("odpo").loss(subject.params(), REFERENCE, bare, None, True)
    with pytest.raises(errors.ConfigError, match="groups of 3"):
        build("dpo").loss(subject.params(), REFERENCE, subject.batch(K=3), None, True)
    assert build("odpo").needs.values == ("gap",)
    assert build("dpo").needs.values == ()
    assert build("kto").needs.values == ("desirable",)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            dict(loss="dpo", betta=0.1),
            ["objective.betta", "did you mean 'beta'", "dpo"],
        ),
        (dict(loss="dpp"), ["objective.loss", "'dpp'", "dpop"]),
        (dict(loss=""), ["objective.loss: unknown loss ''"]),
        (dict(loss="f_dpo", divergence="x"), ["objective.divergence: unknown", "x"]),
        (dict(loss=f"{__name__}:reduced"), ["objective.loss: reduced returns"]),
        (dict(loss=f"{__name__}:rated"), ["objective.loss", "is of ratings", "labels"]),
        (
            dict(mixture={"f_dpo": {"weight": 1.0, "link": "x"}}),
            ["objective.mixture.f_dpo.link: unknown link 'x'"],
        ),
        (
            dict(mixture={f"{__name__}:reduced": 1.0, f"{__name__}:outside": 1.0}),
            ["reduced.loss: reduced returns", "outside is of labels"],
        ),
        (dict(beta=-1.0), ["objective.beta", "-1.0 is not above 0"]),
        (dict(beta="x"), ["objective.beta", "'x' is str"]),
        (dict(loss="rso", beta=0.1), ["objective.beta", "gamma, link", "rso"]),
        (dict(chunk=0), ["objective.chunk: 0"]),
        (dict(loss="dpo", mixture={"nll": 1.0}), ["objective.loss", "mixture"]),
        (dict(mixture={"nll": 1.0}, beta=0.1), ["objective.beta", "terms"]),
        (
            dict(mixture={"dpo": {"weight": 1.0, "alpha": 2.0}}),
            ["objective.mixture.dpo.alpha", "beta"],
        ),
        (dict(loss="tests.objectives.subject:none"), ["objective.loss", "none"]),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_is_refused(section, words):
    with pytest.raises(errors.ConfigError) as error:
        objectives.build(subject.model(), dict(name="preference", **section))
    for word in words:
        assert word in str(error.value)


@catalogue.declare(data="labels", inputs=("desirable_B",))
def outside(policy, reference, *, desirable_B, beta: float):
    """For `module:function`: a loss of labels from outside the package."""
    return jnp.where(desirable_B, 1.0, -1.0) * beta * (reference.total - policy.total)


def reduced(policy, reference):
    return policy.total.mean()


@catalogue.declare(data="ratings", inputs=("target_BA",))
def rated(policy, reference, *, target_BA):
    return policy.total


def test_a_loss_from_outside_the_package():
    objective = build(f"{__name__}:outside", beta=2.0)
    assert objective.needs.data == "labels" and objective.needs.reference
    _, _, metrics = run(objective, subject.params(), REFERENCE, subject.batch())
    assert metrics["rewards/desirable"] != 0
    with pytest.raises(errors.ConfigError, match="beta: required"):
        build(f"{__name__}:outside")


def test_every_coupled_loss_says_so_to_the_step():
    for name in LOSSES:
        coupled = catalogue.traits(catalogue.find(name, *preference.KINDS)).coupled
        assert (build(name).statistic is not None) == coupled
    terms = catalogue.bind_mixture({"dpo": 1.0, "aot": 1.0}, "mixture")
    assert catalogue.traits(catalogue.combine(terms)).coupled

# SPDX-License-Identifier: Apache-2.0
"""Finding losses, binding them to a config, mixing them, and printing them."""

import functools
import inspect
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import bounds, errors
from alignjax.losses import __main__ as symbols
from alignjax.losses import catalogue, coupled, links, preference
from alignjax.types import LogProbs
from tests.losses import batches


def messages(call, *arguments):
    with pytest.raises(errors.ConfigError) as raised:
        call(*arguments)
    return "\n".join(raised.value.problems)


def test_bind_fills_in_what_a_config_says():
    policy, reference, _ = batches.batch("preference")
    bound = catalogue.bind(preference.dpo, dict(beta=1), "objective.loss")
    expected = preference.dpo(policy, reference, beta=1.0)
    np.testing.assert_array_equal(bound(policy, reference), expected)
    assert catalogue.traits(bound) == catalogue.traits(preference.dpo)
    assert bound.keywords == dict(beta=1.0, label_smoothing=0.0)


@pytest.mark.parametrize(
    ("name", "section", "message"),
    [
        ("dpo", dict(beta=0.0), "loss.beta: 0.0 is not above 0"),
        ("dpo", dict(beta=-1), "loss.beta: -1.0 is not above 0"),
        ("dpo", dict(bta=1), "loss.bta: unknown field; did you mean 'beta'?"),
        ("dpo", dict(beta="hot"), "loss.beta: 'hot' is str, not float"),
        ("dpo", dict(beta=float("nan")), "loss.beta: nan is not a finite number"),
        ("dpo", dict(label_smoothing=0.5), "label_smoothing: 0.5 is not in [0, 0.5)"),
        ("exo_pair", dict(label_smoothing=0.0), "0.0 is not in (0, 0.5)"),
        ("ld_dpo", dict(alpha=1.5), "loss.alpha: 1.5 is not in [0, 1]"),
        ("f_dpo", dict(alpha=-1.0), "loss.alpha: -1.0 is not above 0"),
        ("rso", dict(link="square"), "'square' is not one of 'hinge', 'logistic'"),
        ("odpo", dict(gap_B=1.0), "loss.gap_B: unknown field"),
        ("aot", dict(statistic=1.0), "loss.statistic: unknown field"),
    ],
)
def test_bind_refuses(name, section, message):
    function = catalogue.PREFERENCE[name]
    assert message in messages(catalogue.bind, function, section, "loss")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(divergence="hellinger"), "divergence: unknown divergence 'hellinger'"),
        (dict(divergence="alpha"), "alpha: divergence 'alpha' needs alpha"),
        (dict(alpha=0.5), "alpha: divergence 'forward_kl' has no alpha"),
        (dict(link="tanh"), "link: unknown link 'tanh'"),
        (dict(link_options=dict(slope=1)), "link_options.slope: unknown field"),
        (
            dict(link="exo", link_options=dict(label_smoothing=0.0)),
            "link_options.label_smoothing: 0.0 is not in (0, 0.5)",
        ),
    ],
)
def test_score_and_link_are_checked_when_a_loss_is_bound(section, message):
    assert f"loss.{message}" in messages(
        catalogue.bind, preference.f_dpo, section, "loss"
    )


@pytest.mark.parametrize(("kind", "name", "options"), list(batches.cases()))
def test_every_loss_passes_its_dry_run(kind, name, options):
    assert callable(batches.bound(kind, name, options))


def test_losses_are_bare():
    """Nothing stands between a caller and the function of a loss or a link."""
    for losses in (*catalogue.CATALOGUE.values(), links.LINKS):
        for name, function in losses.items():
            assert inspect.isfunction(function), name
            assert not hasattr(function, "__wrapped__"), name


def reduces(policy, reference):
    return policy.total.mean()


def keeps_sides(policy, reference):
    return policy.total - reference.total


@catalogue.declare(reference=False)
def reads_the_reference(policy, reference):
    return policy.total[:, 0] - reference.total[:, 0]


def reads_the_head(policy, reference):
    return (policy.head - reference.head)[:, 0]


def mistypes(policy, reference, *, beta: "flaot" = 1.0):  # noqa: F821
    return policy.total[:, 0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (reduces, r"reduces returns shape \(\) for 5 pairs; it must return one value"),
        (keeps_sides, r"keeps_sides returns shape \(5, 2\)"),
        (reads_the_reference, "AttributeError: .* length .*, and no reference"),
        (reads_the_head, "TypeError: .* it total, length of each response, and a "),
        (mistypes, "mistypes: in its annotations, name 'flaot' is not defined"),
    ],
)
def test_a_function_that_is_no_loss(function, message):
    with pytest.raises(errors.ConfigError, match=f"objective.loss: .*{message}"):
        catalogue.bind(function, {}, "objective")
    if function is not mistypes:
        with pytest.raises(errors.ConfigError, match=r"missing 1 .* promise it scores"):
            catalogue.bind(function, {}, "objective", scores=True)


def test_an_option_may_be_swept():
    policy, reference, _ = batches.cast(batches.batch("preference"), np.float32)
    betas = jnp.array([0.1, 0.5])
    sweep = jax.vmap(lambda beta: preference.dpo(policy, reference, beta=beta))(betas)
    for loss_B, beta in zip(sweep, (0.1, 0.5), strict=True):
        np.testing.assert_allclose(
            loss_B, preference.dpo(policy, reference, beta=beta), rtol=1e-6
        )


def test_a_loss_from_outside():
    """Undeclared it needs a reference and nothing more; declared, what it says."""
    plain = lambda policy, reference: policy.total[..., 0]
    assert catalogue.traits(plain) == catalogue.Traits()

    @catalogue.declare(reference=False, needs=("head",))
    def mine(policy, reference, *, beta: bounds.Positive):
        return beta * policy.head[..., 0]

    bound = functools.partial(mine, beta=2.0)
    assert catalogue.traits(bound).needs == ("head",)
    assert not catalogue.traits(bound).coupled
    assert "loss.beta: required" in messages(catalogue.bind, mine, {}, "loss")
    found = catalogue.PREFERENCE.find("alignjax.losses.preference:dpo")
    assert found is preference.dpo


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(needs=("heads",)), "mine: needs: unknown 'heads'; did you mean 'head'"),
        (dict(needs=("total",)), "mine: needs: unknown 'total'; known: collision, "),
        (dict(data="label"), "mine: data: unknown 'label'; did you mean 'labels'"),
        (dict(inputs=("gapp_B",)), "inputs: unknown 'gapp_B'; did you mean 'gap_B'"),
    ],
)
def test_what_cannot_be_declared(fields, message):
    with pytest.raises(ValueError, match=message):

        @catalogue.declare(**fields)
        def mine(policy, reference, *, gap_B):
            return policy.total[..., 0]


def test_names_are_taken_once():
    with pytest.raises(ValueError, match="'dpo' is already registered"):
        catalogue.register(catalogue.PREFERENCE)(preference.dpo)
    with pytest.raises(ValueError, match="did you mean 'simpo'"):
        catalogue.PREFERENCE.find("simp0")


def test_no_option_is_called_as_the_weight_of_a_term():
    """In a mixture it could not be set."""
    options = {
        f"{name}.{option}"
        for name, loss in catalogue.PREFERENCE.items()
        for option in inspect.signature(loss).parameters
    }
    assert "orpo.odds_weight" in options
    assert not [name for name in options if name.endswith(".weight")]


def test_a_mixture_says_all_that_is_wrong():
    section = {
        "dpo": {"beta": 0.1},
        "robusst": 1.0,
        "simpo": {"weight": 1.0, "gama": 2.0},
        "hinge": "much",
        "cpo": -1.0,
        "nll_mean": 0.0,
    }
    said = messages(catalogue.bind_mixture, section, "terms")
    assert "terms.dpo.weight: required" in said
    assert "terms: unknown preference loss 'robusst'; did you mean 'robust'?" in said
    assert "terms.simpo.gama: unknown field; did you mean 'gamma'?" in said
    assert "terms.hinge.weight: 'much' is str" in said
    assert "terms.cpo.weight: -1.0 is not above 0" in said
    assert "terms.nll_mean.weight: 0.0 is not above 0" in said
    assert "a mixture of nothing" in messages(catalogue.bind_mixture, {}, "terms")


def test_a_mixture_asks_for_what_its_terms_ask_for():
    build = lambda *names: catalogue.traits(
        catalogue.combine(catalogue.bind_mixture(dict.fromkeys(names, 1.0), "terms"))
    )
    alone = catalogue.Traits(reference=False, normalised=True)
    assert build("simpo", "nll") == alone
    both = build("ld_dpo", "wpo", "odpo")
    assert (both.needs, both.inputs) == (("collision", "head"), ("gap_B",))
    assert both.reference and not both.coupled and not both.margin
    assert build("dpo", "ipo").margin
    assert build("dpo", "aot").coupled


def test_a_mixture_is_the_sum_of_its_terms():
    policy, reference, inputs = batches.batch("preference")
    given = {"odpo": 0.5, "aot": {"weight": 2.0, "beta": 0.3}, "nll_mean": 1.5}
    combined = catalogue.combine(catalogue.bind_mixture(given, "terms"))
    statistic = catalogue.measure(combined, policy, reference, **inputs)
    assert set(statistic) == {"aot"}
    loss_B, each = combined(
        policy, reference, statistic=statistic, gap_B=inputs["gap_B"]
    )
    expected = {
        "odpo": batches.call("preference", "odpo", {}),
        "aot": batches.call("preference", "aot", dict(beta=0.3)),
        "nll_mean": batches.call("preference", "nll_mean", {}),
    }
    total = 0.0
    for (name, loss), weight in zip(expected.items(), (0.5, 2.0, 1.5), strict=True):
        term_B = loss(policy, reference, inputs)
        np.testing.assert_allclose(each[name], term_B, rtol=1e-6)
        total += weight * term_B
    np.testing.assert_allclose(loss_B, total, rtol=1e-6)


def test_mpo_is_the_mixture_of_its_paper():
    policy, reference, _ = batches.batch("preference")
    given = {
        "dpo": {"weight": 0.8, "beta": 0.1},
        "bco_pair": {"weight": 0.2, "beta": 0.1},
        "nll_mean": 1.0,
    }
    combined = catalogue.combine(catalogue.bind_mixture(given, "terms"))
    statistic = catalogue.measure(combined, policy, reference)
    loss_B, _ = combined(policy, reference, statistic=statistic)
    mpo_B = batches.call("preference", "mpo", {})(policy, reference, {})
    np.testing.assert_allclose(mpo_B, loss_B, rtol=1e-6)


def test_beta_dpo_leaves_out_unusual_pairs():
    """Drawn without replacement: each key keeps as many, likeliest the usual ones."""
    margin_B = np.array([0.0, 0.2, -0.2, 0.1, -0.1, 0.0, 0.1, 12.0, -9.0, 0.0])
    policy = LogProbs(np.stack([margin_B, 0 * margin_B], -1), np.ones((10, 2)))
    reference = LogProbs(np.zeros((10, 2)), np.ones((10, 2)))
    draw = lambda key: coupled.beta_statistic(policy, reference, drop=0.3, key=key)
    keys = jax.random.split(jax.random.key(0), 500)
    weight_NB = np.asarray(jax.vmap(draw)(keys).weight_B)
    np.testing.assert_array_equal((weight_NB > 0).sum(-1), 7)
    np.testing.assert_allclose(weight_NB.sum(-1), 10, rtol=1e-5)
    kept = (weight_NB > 0).mean(0)
    assert kept[7] < 0.5 and kept[8] < 0.5 and kept[:7].min() > 0.6


def test_the_kto_baseline_is_never_negative():
    policy, reference, _ = batches.batch("unpaired")
    kto = catalogue.UNPAIRED["kto"]
    assert catalogue.measure(kto, reference, policy) >= 0
    assert catalogue.measure(kto, policy, reference) >= 0
    far = policy.replace(mismatched=reference.mismatched - 50.0)
    assert catalogue.measure(kto, far, reference) == 0
    near = policy.replace(mismatched=reference.mismatched + 2.0)
    np.testing.assert_allclose(catalogue.measure(kto, near, reference), 2.0)


def test_every_loss_names_its_source():
    for known in catalogue.CATALOGUE.values():
        for name, function in known.items():
            first = function.__doc__.splitlines()[0]
            assert re.search(r"arXiv:\d{4}\.\d{5}\b|, 19\d\d:", first), name


def test_the_table():
    result = subprocess.run(
        [sys.executable, "-m", "alignjax", "losses"],
        capture_output=True,
        text=True,
        check=True,
    )
    for known in catalogue.CATALOGUE.values():
        for name in known:
            assert f"\n  {name}\n" in result.stdout
    dpo = "DPO, arXiv:2305.18290 Eq. 7: -log s(beta D).\n"
    assert dpo + "      options: beta=0.1, label_smoothing=0.0\n" in result.stdout
    assert "batch-coupled" in result.stdout and not result.stderr
    assert "TR-DPO, arXiv:2404.09656" in result.stdout


def test_the_legend_has_every_symbol():
    legend = set(re.findall(r"[A-Za-z]+(?:_[a-z])?'?", symbols.SYMBOLS))
    functions = [f for kind in catalogue.CATALOGUE.values() for f in kind.values()]
    for function in (*functions, *links.LINKS.values()):
        _, _, equation = symbols.first_line(function).rpartition("arXiv:")
        found = re.findall(
            r"(?<![\w`])(?:[A-Za-z]|[lmKny][wl]?)(?:_[a-z])?(?![\w'`])", equation
        )
        letters = {re.sub("_[ij]$", "", symbol) for symbol in found}
        missing = letters - legend - {"a", "i", "j"}  # indices, and English
        assert not missing, (function.__name__, missing)


def test_a_statistic_of_a_loss_that_is_not_bound_has_its_defaults():
    policy, reference, inputs = batches.batch("unpaired")
    bco = catalogue.UNPAIRED["bco"]
    inputs = {"desirable_B": inputs["desirable_B"]}
    plain = catalogue.measure(bco, policy, reference, **inputs)
    bound = catalogue.bind(bco, {}, "")
    assert plain == catalogue.measure(bound, policy, reference, **inputs) != 0


def test_log_probabilities_per_token():
    policy = LogProbs(jnp.array([-6.0, 0.0]), jnp.array([3, 0]))
    np.testing.assert_array_equal(policy.mean, [-2.0, 0.0])

# SPDX-License-Identifier: Apache-2.0
"""Settings of arms: how many there are, which they are, and what is refused."""

import pytest

from alignjax import errors
from alignjax.ablation import settings


def test_a_grid_has_all_combinations_and_a_zip_has_rows():
    fields = {"objective.loss": ["dpo", "ipo"], "objective.beta": [0.1, 0.3]}
    pairs = [tuple(setting.values()) for setting in settings.grid(fields)]
    assert pairs == [("dpo", 0.1), ("dpo", 0.3), ("ipo", 0.1), ("ipo", 0.3)]
    pairs = [tuple(setting.values()) for setting in settings.zipped(fields)]
    assert pairs == [("dpo", 0.1), ("ipo", 0.3)]
    rates = settings.grid({"optimizer.learning_rate": [1e-4, 2e-4, 4e-4]})
    assert len(settings.product(settings.zipped(fields), rates)) == 6


def test_draws_are_seeded_and_the_first_are_the_same_for_any_count():
    fields = {
        "optimizer.learning_rate": settings.log_uniform(1e-5, 1e-3),
        "objective.beta": [0.1, 0.3],
        "objective.label_smoothing": settings.uniform(0.0, 0.2),
    }
    few, many = (settings.drawn(n, fields, seed=3) for n in (4, 40))
    assert few == many[:4] != settings.drawn(4, fields, seed=4)
    rates = [setting["optimizer.learning_rate"] for setting in many]
    assert len(set(rates)) > 30 and all(1e-5 <= rate <= 1e-3 for rate in rates)
    assert 10 < sum(rate < 1e-4 for rate in rates) < 30  # half of the ratios
    assert {setting["objective.beta"] for setting in many} == {0.1, 0.3}


@pytest.mark.parametrize(
    "make",
    [
        lambda: settings.grid({}),
        lambda: settings.grid({"objective.beta": []}),
        lambda: settings.grid({"objective.loss": "dpo"}),
        lambda: settings.zipped({"a": [1, 2], "b": [1]}),
        lambda: settings.drawn(0, {"a": [1]}),
        lambda: settings.drawn(2, {}),
        lambda: settings.log_uniform(0.0, 1.0),
        lambda: settings.product([{"a": 1}], []),
        lambda: settings.product([{"a": 1}], [{"a": 2}]),
    ],
)
def test_settings_of_nothing_are_refused(make):
    with pytest.raises(errors.ConfigError) as caught:
        make()
    assert str(caught.value).startswith("arms: ")

# SPDX-License-Identifier: Apache-2.0
"""Config sections: everything wrong is said at once, by field, value and remedy."""

import dataclasses
import math
import sys
from typing import Literal

import pytest
from ml_collections import ConfigDict

from alignjax import bounds, config, errors, registry


@dataclasses.dataclass(frozen=True)
class Section:
    rate: float
    steps: int = 3
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    limit: int | None = None
    options: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.steps < 0:
            raise errors.ConfigError(f"steps: {self.steps} must not be negative")


def test_fills_and_casts():
    given = dict(rate=1, names=["x"], limit=None, kind=None, options={"a": {"b": 1}})
    built = config.build(Section, ConfigDict(given), "c")
    assert built.rate == 1.0 and isinstance(built.rate, float)
    assert built.names == ("x",) and built.limit is None and built.kind == "a"
    assert built.options["a"]["b"] == 1


@pytest.mark.parametrize(
    "given,message",
    [
        ({"rate": True}, "c.rate: True is bool, not float"),
        ({"rate": "1"}, "c.rate: '1' is str, not float"),
        ({"rate": math.nan}, "c.rate: nan is not a finite number"),
        ({"rate": math.inf}, "c.rate: inf is not a finite number"),
        ({"rate": 1.0, "steps": 2.0}, "c.steps: 2.0 is float, not int"),
        ({"rate": 1.0, "steps": False}, "c.steps: False is bool, not int"),
        ({"rate": 1.0, "kind": "c"}, "c.kind: 'c' is not one of 'a', 'b'"),
        ({"rate": 1.0, "names": "xy"}, "c.names: 'xy' is str, not tuple"),
        ({"rate": 1.0, "names": [1]}, "c.names: 1 is int, not str"),
        ({"rate": 1.0, "limit": "3"}, "c.limit: '3' is str, not int"),
        ({"rate": 1.0, "stesp": 3}, "c.stesp: unknown field; did you mean 'steps'?"),
        ({}, "c.rate: required, of type float"),
        ({"rate": None}, "c.rate: required"),
        ({"rate": 1.0, "steps": -1}, "c.steps: -1 must not be negative"),
    ],
)
def test_refuses(given, message):
    with pytest.raises(errors.ConfigError) as error:
        config.build(Section, given, "c")
    assert message in str(error.value)


def test_none_is_the_default_or_a_value_of_its_own():
    @dataclasses.dataclass
    class Limits:
        patience: bounds.Positive | None = 3.0
        steps: bounds.Count = 5

    assert config.build(Limits, {"patience": None, "steps": None}, "") == Limits(None)
    for value in (0, -1.0, math.nan):
        with pytest.raises(errors.ConfigError, match=r"^c.patience: "):
            config.build(Limits, {"patience": value}, "c")


def test_fields_have_the_meaning_that_their_docstring_gives():
    def function(*, rate: bounds.Positive, kind: Literal["a", "b"] = "a"):
        """A function.

        Args:
          rate: of change,
            which is long.
          kind: one of two.

        Returns:
          none: of this.
        """

    rate, kind = config.fields(function).values()
    assert rate.required and rate.meaning == "of change, which is long."
    assert kind.default == "a" and kind.meaning == "one of two."
    assert config.limits(rate.type) == "above 0"
    assert config.limits(kind.type) == "'a', 'b'"


def test_says_all_problems_at_once():
    with pytest.raises(errors.ConfigError) as error:
        config.build(Section, {"rate": "x", "steps": 1.5, "nope": 1}, "c")
    assert [line.split(":")[0] for line in error.value.problems] == [
        "c.rate",
        "c.steps",
        "c.nope",
    ]


def test_call_refuses_what_a_function_does_not_take():
    def function(model, *, beta: float, smooth: float = 0.0):
        if smooth > 1:
            raise errors.ConfigError(f"smooth: {smooth} is above 1")
        return model, beta, smooth

    assert config.call(function, {"beta": 1}, "c", "m") == ("m", 1.0, 0.0)
    for given, message in [
        ({"beta": 1.0, "gamma": 2.0}, "c.gamma: unknown field; known: beta, smooth"),
        ({}, "c.beta: required"),
        ({"beta": "x"}, "c.beta: 'x' is str"),
        ({"beta": 1.0, "smooth": 2.0}, "c.smooth: 2.0 is above 1"),
    ]:
        with pytest.raises(errors.ConfigError) as error:
            config.call(function, given, "c", "m")
        assert message in str(error.value)


def test_json_is_plain_and_diffs_name_leaves():
    old = config.to_json(ConfigDict(dict(a=dict(b=(1, 2)), c=None)))
    assert old == {"a": {"b": [1, 2]}, "c": None}
    new = {"a": {"b": [1, 3]}, "c": None, "d": 1}
    assert config.differences(old, new) == ["a.b: [1, 2] -> [1, 3]", "d: None -> 1"]
    assert config.differences(old, old) == []
    assert config.differences(old, old | {"e": {"f": None}}) == []
    assert config.differences({"e": {"f": 1}}, {}) == ["e.f: 1 -> None"]


@pytest.mark.parametrize(
    "name, known, remedy",
    [
        ("bta", ["beta", "gamma"], "did you mean 'beta'? known: beta, gamma"),
        ("DPO", ["dpo", "ipo"], "did you mean 'dpo'? known: dpo, ipo"),
        ("train-on", ["train_on"], "did you mean 'train_on'? known: train_on"),
        ("kpo", ["dpo", "ipo"], "known: dpo, ipo"),  # no more like one than the other
        ("prompt", ["response", "proof"], "known: proof, response"),
        ("gemma4", ["gemma3", "qwen3"], "known: gemma3, qwen3"),
        ("text", [], "there are none"),
    ],
)
def test_only_names_that_are_nearly_the_same_are_suggested(name, known, remedy):
    assert registry.closest(name, known) == remedy


def test_a_remedy_is_of_bounded_length():
    assert len(registry.closest("x", [f"{i}" + "y" * 10**5 for i in range(500)])) < 6000


def test_registry_finds_in_itself_and_in_modules():
    functions = registry.Registry("loss")
    functions.register(math.sin)
    assert functions.find("sin") is math.sin
    assert functions.find("math:cos") is math.cos
    with pytest.raises(ValueError, match="'sin' is already registered"):
        functions.register(math.sin)
    with pytest.raises(ValueError, match="unknown loss 'sinn'; did you mean 'sin'"):
        functions.find("sinn")
    for missing in ("math:nope", "no_such_module:f"):
        with pytest.raises(ValueError, match=f"loss '{missing}'"):
            functions.find(missing)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("def bad(:", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import math as thing", "a module, not a function"),
        ("", "AttributeError: module 'outside' has no attribute 'thing'$"),
        ("def things(): pass", "AttributeError: .*'thing'; did you mean 'things'"),
    ],
)
def test_registry_says_why_a_module_gives_no_function(
    text, cause, tmp_path, monkeypatch
):
    (tmp_path / "outside.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "outside", raising=False)
    with pytest.raises(ValueError, match=f"loss 'outside:thing': {cause}"):
        registry.Registry("loss").find("outside:thing")

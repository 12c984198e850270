# SPDX-License-Identifier: Apache-2.0
"""The figures of a run in two to four lines of text.

Every word that judges is chosen by the numbers: a change whose interval contains zero
is reported as no change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]
VIEWS = {"seen": "familiar", "unfamiliar": "unfamiliar"}
_RATES = {
    "unsafe_refusal": "unsafe requests refused",
    "border_refusal": "harmless look-alikes refused",
    "unknown_abstention": "admits that it does not know",
    "malformed": "responses that answer no question",
    "fact_recall": "facts recalled",
    "arithmetic": "sums right",
}
# The rates of a stage's lines, by topic.
_IMITATION_RATES = {
    "behaviour": ("unsafe_refusal", "border_refusal", "unknown_abstention"),
    "knowledge": ("malformed", "fact_recall", "arithmetic"),
}
_PREFERENCE_RATES = {
    "safety": ("unsafe_refusal", "border_refusal"),
    "other": ("malformed", "unknown_abstention", "fact_recall"),
}
# (figure, direction): lesson. The first one that holds beyond its interval is printed.
_IMITATION = {
    ("border_refusal", +1): (
        "it refuses by the look of a question, for no demonstration shows a harmless "
        "one that looks unsafe; preferences can mend that"
    ),
    ("nine", +1): "a few demonstrations taught it how to use what it knew",
    ("malformed", +1): (
        "it no longer writes proper sentences; mend that first (more demonstrations or "
        "steps, or a lower learning rate)"
    ),
    ("nine", -1): "imitation made it worse; the samples show how",
}
_PREFERENCE = {
    ("malformed", +1): (
        "it went too far from its reference to make sense; a lower learning rate, "
        "fewer steps or a larger beta keep it nearer"
    ),
    ("unsafe_refusal", -1): (
        "it unlearned refusals; fewer steps or a larger beta keep them"
    ),
    ("border_refusal", -1): (
        "comparisons teach what no demonstration showed: it answers more harmless "
        "questions, and refuses no fewer unsafe ones"
    ),
    ("nine", +1): "comparisons alone, without better examples, improved its responses",
    ("nine", -1): "it learned from comparisons, but not the true reward behind them",
}


def lines(results: Figures, name: str) -> list[str]:
    """The lines on the run `name` of `results`, without the figures that it lacks."""
    if name in results["rewards"]:
        return _reward(name, results["rewards"][name])
    model = results["models"][name]
    change = next((c for c in results["changes"] if c["to"] == name), None)
    if change is None:
        return _first(name, model)
    both = results["models"][change["from"]], model
    prefers = model["stage"] == "preference"
    out = [_gold(change, *both)]
    if prefers and "kl" in model:
        out[0] += f", at {interval(model['kl']['kl'])} nats from {model['kl']['to']}"
    for topic, rates in (_PREFERENCE_RATES if prefers else _IMITATION_RATES).items():
        text = _rates(change, both, *rates)
        if topic == "safety":
            text = text.replace(
                "look-alikes refused", "look-alikes refused (over-refusal)"
            )
        if topic == "knowledge" and text:
            before, after = (m["documents"]["mean"] for m in both)
            text += f"; unread text {before:.3f} -> {after:.3f} nats per token"
        if text:
            out.append(f"{topic}: {text}")
    lesson = _lesson(change, _PREFERENCE if prefers else _IMITATION)
    return [*out, f"why it matters: {lesson}"]


def _first(name: str, model: Figures) -> list[str]:
    rates = model["sampled"]["rates"]
    share = lambda rate: percent(rates[rate]["mean"])
    text, nine = interval(model["documents"]), model["sampled"]["gold"].get("nine")
    out = [f"{name}: {text} nats per token on text that no run has read"]
    if "fact_recall" in rates and "arithmetic" in rates:
        out[0] += (
            f"; it recalls {share('fact_recall')} of the facts and gets "
            f"{share('arithmetic')} of the sums right"
        )
    if nine:
        out.append(
            f"its responses have a true reward of {interval(nine)}; "
            f"{share('malformed')} of them answer no question"
        )
    if "unsafe_help" in rates and "unknown_abstention" in rates:
        out.append(
            "why it matters: it imitates everybody who wrote the text, good or bad. It "
            f"helps with {share('unsafe_help')} of unsafe requests and admits that it "
            f"does not know in {share('unknown_abstention')} of questions without an "
            "answer"
        )
    return out


def _lesson(change: Figures, lessons: Mapping[tuple[str, int], str]) -> str:
    figures = {**change["gold"], **change["rates"]}
    for (name, sign), text in lessons.items():
        figure = figures.get(name)
        if figure and excludes_zero(figure) and figure["mean"] * sign > 0:
            return text
    return "no change stands out from the noise"


def _gold(change: Figures, before: Figures, after: Figures) -> str:
    parts = []
    for view, label in VIEWS.items():
        if view in change["gold"]:
            was, now = (m["sampled"]["gold"][view]["mean"] for m in (before, after))
            step = delta(change["gold"][view])
            parts.append(f"{was:.2f} -> {now:.2f} on {label} prompts ({step})")
    verb = verdict(change["gold"]["nine"], "rose", "fell", "did not move")
    names = f"{change['from']} -> {change['to']}"
    return f"{names}: true reward {verb} over all kinds: {', '.join(parts)}"


def _rates(change: Figures, both: tuple[Figures, Figures], *names: str) -> str:
    parts = []
    for name in names:
        if name in change["rates"]:
            was, now = (percent(m["sampled"]["rates"][name]["mean"]) for m in both)
            note = "" if excludes_zero(change["rates"][name]) else ", within the noise"
            parts.append(f"{_RATES[name]} {was} -> {now}{note}")
    return "; ".join(parts)


def _reward(name: str, model: Figures) -> list[str]:
    pairs = model["splits"]["preferences"]
    agreement = (
        f"{name}: agrees with its labeler on {percent(pairs['accuracy']['mean'])} of "
        f"held-out pairs (at best {percent(pairs['ceiling'])}), with the true reward "
        f"on {percent(pairs['gold_accuracy']['mean'])}"
    )
    calibration = (
        f"calibration error {pairs['ece']:.3f}; correlation of scores with true "
        f"rewards {pairs['correlation']:.2f}"
    )
    lesson = (
        f"why it matters: {padding(model['padding'])}, where the true reward never "
        "prefers them; a policy learns whatever the reward model wrongly prefers"
    )
    return [agreement, calibration, lesson]


def padding(figures: Figures) -> str:
    """`2 empty sentences raise a score (+0.27) and win in 64 % of pairs`."""
    shift, share = figures["shift"], percent(figures["preferred"])
    verb = verdict(shift, "raise", "lower", "do not clearly move")
    moved = f"{figures['sentences']} empty sentences {verb} a score"
    return f"{moved} ({shift['mean']:+.2f}) and win in {share} of pairs"


def excludes_zero(figure: Figures) -> bool:
    """Whether zero lies outside an interval."""
    return figure["low"] > 0 or figure["high"] < 0


def verdict(figure: Figures, up: str, down: str, level: str) -> str:
    """A verb for a change, `level` where its interval contains zero."""
    if not excludes_zero(figure):
        return level
    return up if figure["mean"] > 0 else down


def moved(change: Figures, was: float, now: float, where: str = "") -> str:
    """`rose from 1.07 to 1.43 on familiar prompts`, or that it did not change."""
    ends = f"from {was:.2f} to {now:.2f}{where}"
    level = f"did not change beyond the interval{where} ({was:.2f}, then {now:.2f})"
    return verdict(change, f"rose {ends}", f"fell {ends}", level)


def percent(share: float) -> str:
    """Whole percents."""
    return f"{100 * share:.0f} %"


def interval(figure: Figures, digits: int = 2, sign: str = "") -> str:
    """`1.07 [0.98, 1.16]`."""
    ends = (f"{figure[key]:{sign}.{digits}f}" for key in ("mean", "low", "high"))
    return "{} [{}, {}]".format(*ends)


def delta(figure: Figures) -> str:
    """`+0.22 [+0.11, +0.32]`."""
    return interval(figure, sign="+")

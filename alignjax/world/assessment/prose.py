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


def lines(results: Figures, name: str) -> list[str]:
    """The lines on the run `name` of `results`, without the figures that it lacks."""
    if name in results["rewards"]:
        return _reward(name, results["rewards"][name])
    model = results["models"][name]
    change = next((c for c in results["changes"] if c["to"] == name), None)
    if change is None:
        return _first(name, model)
    before = results["models"][change["from"]]
    later = _preference if model["stage"] == "preference" else _imitation
    return later(change, before, model)


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


def _imitation(change: Figures, before: Figures, after: Figures) -> list[str]:
    out = [_gold(change, before, after)]
    out += _listed("behaviour: ", change, before, after, _BEHAVIOUR)
    knowledge = _listed("knowledge: ", change, before, after, _KNOWLEDGE)
    if knowledge:
        losses = (before["documents"]["mean"], after["documents"]["mean"])
        knowledge[0] += "; unread text {:.3f} -> {:.3f} nats per token".format(*losses)
    return [*out, *knowledge, _lesson(change, _IMITATION)]


def _preference(change: Figures, before: Figures, after: Figures) -> list[str]:
    out = [_gold(change, before, after)]
    if "kl" in after:
        out[0] += f", at {interval(after['kl']['kl'])} nats from {after['kl']['to']}"
    out += _listed("safety: ", change, before, after, _SAFETY)
    out += _listed("other: ", change, before, after, _OTHER)
    return [*out, _lesson(change, _PREFERENCE)]


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


def _lesson(change: Figures, lessons: Mapping[tuple[str, int], str]) -> str:
    figures = {**change["gold"], **change["rates"]}
    for (name, sign), text in lessons.items():
        figure = figures.get(name)
        if figure and excludes_zero(figure) and figure["mean"] * sign > 0:
            return f"why it matters: {text}"
    return "why it matters: no change stands out from the noise"


_BEHAVIOUR = {
    "unsafe_refusal": "unsafe requests refused",
    "border_refusal": "harmless look-alikes refused",
    "unknown_abstention": "admits that it does not know",
}
_KNOWLEDGE = {
    "malformed": "responses that answer no question",
    "fact_recall": "facts recalled",
    "arithmetic": "sums right",
}
_SAFETY = {
    "unsafe_refusal": "unsafe requests refused",
    "border_refusal": "harmless look-alikes refused (over-refusal)",
}
_OTHER = {
    "malformed": "responses that answer no question",
    "unknown_abstention": "admits that it does not know",
    "fact_recall": "facts recalled",
}


def _gold(change: Figures, before: Figures, after: Figures) -> str:
    parts = []
    for view, label in VIEWS.items():
        if view in change["gold"]:
            was = before["sampled"]["gold"][view]["mean"]
            now = after["sampled"]["gold"][view]["mean"]
            step = delta(change["gold"][view])
            parts.append(f"{was:.2f} -> {now:.2f} on {label} prompts ({step})")
    verb = verdict(change["gold"]["nine"], up="rose", down="fell", level="did not move")
    names = f"{change['from']} -> {change['to']}"
    return f"{names}: true reward {verb} over all kinds: {', '.join(parts)}"


def _listed(start: str, change, before, after, labels: Mapping[str, str]) -> list[str]:
    parts = []
    for name, label in labels.items():
        if name not in change["rates"]:
            continue
        was = before["sampled"]["rates"][name]["mean"]
        now = after["sampled"]["rates"][name]["mean"]
        note = "" if excludes_zero(change["rates"][name]) else ", within the noise"
        parts.append(f"{label} {percent(was)} -> {percent(now)}{note}")
    return [start + "; ".join(parts)] if parts else []


def _reward(name: str, model: Figures) -> list[str]:
    pairs = model["splits"]["preferences"]
    padding = model["padding"]
    verb = verdict(
        padding["shift"], up="raise", down="lower", level="do not clearly move"
    )
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
        f"why it matters: {padding['sentences']} empty sentences {verb} a score "
        f"({padding['shift']['mean']:+.2f}) and win in "
        f"{percent(padding['preferred'])} of pairs, where the true reward never "
        "prefers them; a policy learns whatever the reward model wrongly prefers"
    )
    return [agreement, calibration, lesson]


def excludes_zero(figure: Figures) -> bool:
    """Whether zero lies outside an interval."""
    return figure["low"] > 0 or figure["high"] < 0


def verdict(figure: Figures, *, up: str, down: str, level: str) -> str:
    """A verb for a change, `level` where its interval contains zero."""
    if not excludes_zero(figure):
        return level
    return up if figure["mean"] > 0 else down


def percent(share: float) -> str:
    """Whole percents."""
    return f"{100 * share:.0f} %"


def interval(figure: Figures, digits: int = 2) -> str:
    """`1.07 [0.98, 1.16]`."""
    mean, low, high = (f"{figure[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def delta(figure: Figures, digits: int = 2) -> str:
    """`+0.22 [+0.11, +0.32]`."""
    mean, low, high = (f"{figure[key]:+.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"

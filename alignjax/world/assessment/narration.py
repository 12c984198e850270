# SPDX-License-Identifier: Apache-2.0
"""What a stage changed and why that matters, in up to four lines with numbers.

Every word that judges is chosen by the numbers: a change whose interval has zero in it
is called none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]


def tell(results: Figures, name: str) -> list[str]:
    """The lines on the run `name`, which `results` has; none for what it has not."""
    if name in results["rewards"]:
        return _reward(name, results["rewards"][name])
    model = results["models"][name]
    found = [change for change in results["changes"] if change["to"] == name]
    if not found:
        return _first(name, model)
    before = results["models"][found[0]["from"]]
    later = _preference if model["stage"] == "preference" else _imitation
    return later(found[0], before, model)


def _first(name: str, model: Figures) -> list[str]:
    rates = model["sampled"]["rates"]
    share = lambda rate: percent(rates[rate]["mean"])
    text, nine = interval(model["documents"]), model["sampled"]["gold"].get("nine")
    lines = [f"{name}: {text} nats a token on text that no run has read"]
    if "fact_recall" in rates and "arithmetic" in rates:
        lines[0] += (
            f"; recalls {share('fact_recall')} of the facts in it, adds up "
            f"{share('arithmetic')} of sums"
        )
    if nine:
        lines.append(
            f"its answers are worth {interval(nine)}; {share('malformed')} of them "
            "answer nothing that was asked"
        )
    if "unsafe_help" in rates and "unknown_abstention" in rates:
        lines.append(
            "why it matters: it talks like all who wrote the text, good or bad. It "
            f"helps with {share('unsafe_help')} of unsafe asks and owns up to "
            f"{share('unknown_abstention')} of what nobody knows"
        )
    return lines


def _imitation(change: Figures, before: Figures, after: Figures) -> list[str]:
    lines = [_gold(change, before, after)]
    lines += _listed("manners: ", change, before, after, _MANNERS)
    known = _listed("knowledge: ", change, before, after, _KNOWLEDGE)
    if known:
        moved = (before["documents"]["mean"], after["documents"]["mean"])
        known[0] += "; text it never read {:.3f} -> {:.3f} nats a token".format(*moved)
    return [*lines, *known, _lesson(change, _IMITATION)]


def _preference(change: Figures, before: Figures, after: Figures) -> list[str]:
    lines = [_gold(change, before, after)]
    if "kl" in after:
        lines[0] += f", at {interval(after['kl']['kl'])} nats from {after['kl']['to']}"
    lines += _listed("safety: ", change, before, after, _SAFETY)
    lines += _listed("the rest: ", change, before, after, _REST)
    return [*lines, _lesson(change, _PREFERENCE)]


# (figure, direction): lesson. The first that holds beyond its interval is told.
_IMITATION = {
    ("border_refusal", +1): (
        "it refuses by the look of a question, for no demonstration shows a harmless "
        "one that looks unsafe; preferences can mend that"
    ),
    ("nine", +1): "a few demonstrations turned what it knew into manners",
    ("malformed", +1): (
        "it lost its language; mend that before anything is built on it (more "
        "demonstrations or steps, or a lower rate)"
    ),
    ("nine", -1): "imitation made it worse; look at the samples for how",
}
_PREFERENCE = {
    ("malformed", +1): (
        "it went too far from its reference to make sense; a lower rate, fewer steps "
        "or a larger beta keep it nearer"
    ),
    ("unsafe_refusal", -1): (
        "refusals were unlearned; fewer steps or a larger beta keep them"
    ),
    ("border_refusal", -1): (
        "comparisons reach what no demonstration showed: more harmless questions are "
        "answered, and no fewer unsafe ones refused"
    ),
    ("nine", +1): "comparisons alone, no better examples, made its answers better",
    ("nine", -1): "it learned from comparisons, but not what they are worth",
}


def _lesson(change: Figures, lessons: Mapping[tuple[str, int], str]) -> str:
    """The first of the lessons that the numbers teach."""
    figures = {**change["gold"], **change["rates"]}
    for (name, sign), text in lessons.items():
        figure = figures.get(name)
        if figure and excludes_zero(figure) and figure["mean"] * sign > 0:
            return f"why it matters: {text}"
    return "why it matters: what it learned does not show beyond the noise"


_MANNERS = {
    "unsafe_refusal": "unsafe asks refused",
    "border_refusal": "harmless look-alikes refused",
    "unknown_abstention": "owns up to what nobody knows",
}
_KNOWLEDGE = {
    "malformed": "answers nothing that was asked",
    "fact_recall": "facts recalled",
    "arithmetic": "sums right",
}
_SAFETY = {
    "unsafe_refusal": "unsafe asks refused",
    "border_refusal": "harmless look-alikes refused (over-refusal)",
}
_REST = {
    "malformed": "answers nothing that was asked",
    "unknown_abstention": "owns up to what nobody knows",
    "fact_recall": "facts recalled",
}


def _gold(change: Figures, before: Figures, after: Figures) -> str:
    parts = []
    for view, words in (("seen", "seen"), ("unfamiliar", "unfamiliar")):
        if view in change["gold"]:
            was = before["sampled"]["gold"][view]["mean"]
            now = after["sampled"]["gold"][view]["mean"]
            step = change["gold"][view]
            parts.append(f"{was:.2f} -> {now:.2f} on {words} prompts ({delta(step)})")
    verb = verdict(change["gold"]["nine"], up="rose", down="fell", level="did not move")
    names = f"{change['from']} -> {change['to']}"
    return f"{names}: true reward {verb} over all kinds: {', '.join(parts)}"


def _listed(start: str, change, before, after, names: Mapping[str, str]) -> list[str]:
    parts = []
    for name, words in names.items():
        if name not in change["rates"]:
            continue
        was = before["sampled"]["rates"][name]["mean"]
        now = after["sampled"]["rates"][name]["mean"]
        note = "" if excludes_zero(change["rates"][name]) else ", within the noise"
        parts.append(f"{words} {percent(was)} -> {percent(now)}{note}")
    return [start + "; ".join(parts)] if parts else []


def _reward(name: str, model: Figures) -> list[str]:
    judged = model["splits"]["preferences"]
    padded = model["padding"]
    verb = verdict(
        padded["shift"], up="raise", down="lower", level="do not clearly move"
    )
    agreed = (
        f"{name}: agrees with its labeler on {percent(judged['accuracy']['mean'])} of "
        f"held-out pairs (at best {percent(judged['ceiling'])}), with the truth on "
        f"{percent(judged['gold_accuracy']['mean'])}"
    )
    calibrated = (
        f"calibration error {judged['ece']:.3f}; correlation of scores with true "
        f"rewards {judged['correlation']:.2f}"
    )
    matters = (
        f"why it matters: {padded['sentences']} empty sentences {verb} a score "
        f"({padded['shift']['mean']:+.2f}) and win in {percent(padded['preferred'])} "
        "of pairs, where the truth never prefers them; a policy learns to give what "
        "is wrongly liked"
    )
    return [agreed, calibrated, matters]


def excludes_zero(figure: Figures) -> bool:
    """Whether an interval leaves out zero."""
    return figure["low"] > 0 or figure["high"] < 0


def verdict(figure: Figures, *, up: str, down: str, level: str) -> str:
    """A verb for a change, `level` where its interval has zero in it."""
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
    """The same with signs."""
    mean, low, high = (f"{figure[key]:+.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"

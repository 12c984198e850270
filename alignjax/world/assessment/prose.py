# SPDX-License-Identifier: Apache-2.0
"""The figures of a run in two to four lines of text.

Every word that judges is chosen by the numbers: a change whose interval contains zero
is reported as no change, and only one from the model that a run started from as what
its training did.
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
# (figure, direction): lesson, by stage. The first one that holds beyond its interval is
# printed, of a model whose change is from the one that it started from.
_LESSONS = {
    "sft": {
        ("border_refusal", +1): (
            "it refuses more harmless questions that look unsafe; preferences can mend "
            "that"
        ),
        ("nine", +1): "demonstrations improved its responses",
        ("malformed", +1): (
            "more of its responses answer no question; mend that first (more "
            "demonstrations or steps, or a lower learning rate)"
        ),
        ("nine", -1): "imitation made it worse; the samples show how",
    },
    "preference": {
        ("malformed", +1): (
            "more of its responses answer no question; a lower learning rate or fewer "
            "steps keep it nearer to where it started"
        ),
        ("unsafe_refusal", -1): (
            "it refuses fewer unsafe requests; a lower learning rate or fewer steps "
            "keep refusals"
        ),
        ("border_refusal", -1): (
            "comparisons taught it to answer more of the harmless questions that look "
            "unsafe"
        ),
        ("nine", +1): "comparisons improved its responses",
        ("nine", -1): "its comparisons did not teach it the true reward behind them",
    },
}


def lines(results: Figures, name: str) -> list[str]:
    """The lines on the run `name` of `results`, without the figures that it lacks."""
    if name in results["rewards"]:
        return reward_lines(name, results["rewards"][name])
    model = results["models"][name]
    change = next((c for c in results["changes"] if c["to"] == name), None)
    if change is None:
        return first_lines(name, model)
    both, started = (
        (results["models"][change["from"]], model),
        descends(results, change),
    )
    prefers = model["stage"] == "preference"
    out = [true_reward(change, *both, started=started)]
    if prefers and "kl" in model:
        out[0] += f"; at {interval(model['kl']['kl'])} nats from {model['kl']['to']}"
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
    text = lesson(change, model["stage"]) if started else ""
    return [*out, f"why it matters: {text}"] if text else out


def descends(results: Figures, change: Figures) -> bool:
    """Whether a change is from the very model that the changed one started from.

    Only then did training make it; others only compare two models.
    """
    before, after = (results["models"][change[end]] for end in ("from", "to"))
    if after.get("start"):
        return after["start"] == before.get("digest")
    return after.get("started_from") == before["path"]


def first_lines(name: str, model: Figures) -> list[str]:
    """Of a model with none to compare it with."""
    rates = model["sampled"]["rates"]
    share = lambda rate: percent(rates[rate]["mean"])
    text, nine = interval(model["documents"]), model["sampled"]["gold"].get("nine")
    out = [f"{name}: {text} nats per token on fresh text"]
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
        text = (
            f"it helps with {share('unsafe_help')} of unsafe requests and admits that "
            f"it does not know in {share('unknown_abstention')} of questions without "
            "an answer"
        )
        if model["stage"] == "pretraining":
            imitates = "it imitates everybody who wrote the text, good or bad"
            text = f"why it matters: {imitates}; {text}"
        out.append(text)
    return out


def lesson(change: Figures, stage: str) -> str:
    """The lesson of a change that training made; empty where the figures have none."""
    figures = {**change["gold"], **change["rates"]}
    clear = {n: f["mean"] for n, f in figures.items() if excludes_zero(f)}
    for (name, sign), text in _LESSONS.get(stage, {}).items():
        if clear.get(name, 0) * sign > 0:
            return text
    return "" if clear else "no change stands out from the noise"


def true_reward(
    change: Figures, before: Figures, after: Figures, *, started: bool
) -> str:
    """Over all kinds and by familiarity, each with a verdict of its own."""
    gold = change["gold"]
    verbs = ("is higher", "is lower", "is not clearly different")
    if started:
        verbs = ("rose", "fell", "did not clearly move")
    whole = f"{verdict(gold['nine'], *verbs)} over all kinds ({delta(gold['nine'])})"
    parts = [f"{change['from']} -> {change['to']}: true reward {whole}"]
    for view, label in VIEWS.items():
        if view in gold:
            was, now = (m["sampled"]["gold"][view]["mean"] for m in (before, after))
            step = f"{delta(gold[view])}{_noise(gold[view])}"
            parts.append(f"{was:.2f} -> {now:.2f} on {label} prompts ({step})")
    return "; ".join(parts)


def _rates(change: Figures, both: tuple[Figures, Figures], *names: str) -> str:
    parts = []
    for name in names:
        if name in change["rates"]:
            was, now = (percent(m["sampled"]["rates"][name]["mean"]) for m in both)
            parts.append(
                f"{_RATES[name]} {was} -> {now}{_noise(change['rates'][name])}"
            )
    return "; ".join(parts)


def _noise(figure: Figures) -> str:
    return "" if excludes_zero(figure) else ", within the noise"


def reward_lines(name: str, model: Figures) -> list[str]:
    """Of a reward model."""
    pairs, bias = model["splits"]["preferences"], model["padding"]
    agrees, truly = (percent(pairs[k]["mean"]) for k in ("accuracy", "gold_accuracy"))
    agreement = (
        f"{name}: agrees with the {model['labeler']} labeler on {agrees} of held-out "
        f"pairs ({percent(pairs['ceiling'])} is expected of one that knows the "
        f"labeler's odds), with the true reward on {truly}"
    )
    calibration = (
        f"calibration error {pairs['ece']:.3f}; correlation of scores with true "
        f"rewards {pairs['correlation']:.2f}"
    )
    text = f"padding: {padding(bias)}"
    if bias["shift"]["low"] > 0 > bias["gold"]:
        learns = "a policy learns whatever the reward model wrongly prefers"
        text = f"why it matters: {padding(bias)}; {learns}"
    return [agreement, calibration, text]


def padding(figures: Figures) -> str:
    """`2 empty sentences raise a score (+0.27) and win in 64 % of pairs ...`."""
    shift, share = figures["shift"], percent(figures["preferred"])
    verb = verdict(shift, "raise", "lower", "do not clearly move")
    return (
        f"{figures['sentences']} empty sentences {verb} a score ({shift['mean']:+.2f}) "
        f"and win in {share} of pairs, with {figures['gold']:+.2f} of true reward"
    )


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

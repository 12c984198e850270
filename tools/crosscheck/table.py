# SPDX-License-Identifier: Apache-2.0
"""The rows of a comparison as text for a terminal, and as a page of the docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tools.crosscheck import cases, comparison

TITLES = {
    "dpo": "Pairs with a reference: DPOTrainer",
    "kto": "Labelled responses: KTOTrainer",
    "orpo": "Pairs without a reference: ORPOTrainer",
    "cpo": "Pairs without a reference: CPOTrainer",
    "reward": "Reward models: RewardTrainer",
    "sft": "Fine-tuning: SFTTrainer",
    "grpo": "Responses that were drawn: GRPOTrainer",
    "rloo": "Responses that were drawn: RLOOTrainer",
}

# Options of TRL without a counterpart here, and why.
WITHOUT = {
    "DPOTrainer, `f_divergence_type` with `ipo` or `sigmoid_norm`": "f-DPO's equation "
    "has no lengths to divide by",
    "DPOTrainer, `ld_alpha` with a loss other than `sigmoid`": "LD-DPO is a loss of "
    "its own here",
    "CPOTrainer, `ipo`": "IPO without a reference is of no paper",
    "GRPOTrainer, `sapo` and `vespo`": "a loss from outside can",
    "GRPOTrainer, corrections of vLLM's log-probabilities": "the same function of two "
    "arrays, `policy_gradient.CORRECTIONS`",
    "TPOTrainer": "a third response, for its likelihood; a loss from outside can",
}

INTRODUCTION = """\
# The same numbers as TRL, and where not

alignjax and [TRL](https://github.com/huggingface/trl) are given one tiny Llama with the
same random weights and the same ragged batch: six prompts of 2 to 7 tokens and
responses of 1 to 12, one of them empty but for its end. TRL's own trainers tokenise
them, collate them and compute the loss. GRPO's and RLOO's are given four prompts with
four responses each, and rewards; a policy nearby has drawn them, so that ratios are not
1. Compared are the loss, the gradient of every parameter, and the metrics that both
report.

A row **agrees** where the losses and all gradients are the same to {tolerance:g},
relative to the larger of 1 and the value (for gradients, the largest of them), in
float32, and so are the metrics, but for those named below its table. Where a row
**differs**, that is meant: the plain name of a loss is its paper's equation, and where
TRL computes something else, that has a row of its own, which agrees; or TRL has no
number at all. The command fails where anything differs that is not listed here, and
where anything listed does not differ."""


def line(row: comparison.Row) -> str:
    """A row for a terminal."""
    mark = "FAULT" if row.faults else "agrees" if row.case.why is None else "differs"
    text = (
        f"{mark:8}{row.case.trainer:7}{theirs(row.case):58} {ours(row.case):64} "
        f"loss {abs(row.ours - row.theirs):8.1e}  gradient {row.gradient:8.1e}  "
        f"metrics {row.compared - len(row.differing)}/{row.compared}"
    )
    return "\n".join([text, *(f"        {fault}" for fault in row.faults)])


def markdown(
    rows: Sequence[comparison.Row], facts: Mapping[str, str], without: Sequence[str]
) -> str:
    """The page.

    Args:
      facts: the command, versions and date, by what they are.
      without: names of alignjax's losses that TRL has nothing to compare with.
    """
    parts = [INTRODUCTION.format(tolerance=comparison.TOLERANCE)]
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    agreeing = sum(row.case.why is None and not row.faults for row in rows)
    parts.append(
        f"{len(rows)} rows: {agreeing} agree, "
        f"{sum(row.case.why is not None for row in rows)} differ as they are meant to, "
        f"{sum(bool(row.faults) for row in rows)} otherwise."
    )
    for trainer, title in TITLES.items():
        section = [row for row in rows if row.case.trainer == trainer]
        if section:
            parts += [f"## {title}", _table(section)]
            if reasons := _metrics(section):
                parts.append(reasons)
    parts.append("## What only one of them has")
    parts.append(
        "Of TRL: "
        + "; ".join(f"{name} ({reason})" for name, reason in WITHOUT.items())
        + ". Its BCOTrainer, which kept a running reward shift, is gone."
    )
    names = ", ".join(f"`{name}`" for name in without)
    parts.append(f"Of alignjax: {names}. Their tests are against their equations.")
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[comparison.Row]) -> str:
    head = "| TRL | alignjax | loss | Δ loss | gradient | max Δ gradient | metrics | |"
    lines = [head, "|---|---|---:|---:|---:|---:|---|---|"]
    for row in rows:
        same = row.compared - len(row.differing)
        failed = "raises" if row.failure else "not a number"
        finite = row.theirs == row.theirs
        cells = [
            f"`{theirs(row.case)}`",
            f"`{ours(row.case)}`",
            f"{row.ours:.6g}",
            f"{abs(row.ours - row.theirs):.1e}" if finite else failed,
            f"{row.norms[0]:.4g}",
            f"{row.gradient:.1e}" if finite else failed,
            f"{same} of {row.compared}" if not row.failure else "",
            _verdict(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _verdict(row: comparison.Row) -> str:
    if row.faults:
        return "**fault**: " + "; ".join(row.faults)
    if row.case.why is not None:
        return f"**differs**: {row.case.why}"
    return f"agrees; {row.case.note}" if row.case.note else "agrees"


def _metrics(rows: Sequence[comparison.Row]) -> str:
    """Why metrics differ, each reason once."""
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.case.why is None:
            for name in row.differing:
                key = row.case.metrics.get(name, "not meant")
                reasons.setdefault(key, {})[name] = None
    lines = [
        f"- {', '.join(f'`{name}`' for name in names)}: {reason}."
        for reason, names in reasons.items()
    ]
    return "Metrics that differ:\n\n" + "\n".join(lines) if lines else ""


def theirs(case: cases.Case) -> str:
    """TRL's options, the kind of loss first."""
    options = dict(case.trl)
    kind = options.pop("loss_type", None)
    kind = "+".join(kind) if isinstance(kind, list) else kind
    if case.less:
        options |= {k: f"{options[k]} less {v}" for k, v in case.less[0].items()}
    return _words(kind, options) or "defaults"


def ours(case: cases.Case) -> str:
    """The options of alignjax's objective, the loss first."""
    options = dict(case.ours)
    name = options.pop("name")
    kind = options.pop("loss", None if "mixture" in options else name)
    if case.less:
        options |= {k: f"{options[k]} less {v}" for k, v in case.less[1].items()}
    return _words(kind, options | dict(case.rollout))


def _words(kind: str | None, options: Mapping) -> str:
    """`kind option=value ...`, with sections spelt out."""
    words = [kind] if kind else []
    for name, value in options.items():
        if name == "mixture":
            weight = lambda part: part["weight"] if isinstance(part, dict) else part
            words.append(" + ".join(f"{weight(v)} {k}" for k, v in value.items()))
        elif isinstance(value, Mapping):
            words += [f"{k}={v}" for k, v in value.items()]
        elif isinstance(value, list):
            words.append(f"{name}={','.join(map(str, value))}")
        else:
            words.append(f"{name}={value}")
    return " ".join(map(str, words))

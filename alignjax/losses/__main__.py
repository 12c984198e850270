# SPDX-License-Identifier: Apache-2.0
"""Prints every loss by kind: paper, equation, options with their defaults."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence

from alignjax import errors
from alignjax.losses import (
    advantages,
    catalogue,
    denominators,
    kl,
    links,
    normalizers,
    policy_gradient,
    scores,
)

SYMBOLS = """\
symbols
  w, l (or r)    the chosen and the rejected response; n_w, n_l their lengths in tokens
  lw, ll         their log-probabilities under the policy; mw, ml the same per token;
                 ref is lw - ll under the reference, odds(m) is e^m/(1 - e^m)
  c, r           log(policy/reference) of the chosen and the rejected response
  D              c - r, the margin
  x, x_i         log(policy/reference) of a response, of single ones and of lists
  y_w, y_l       the responses themselves, and p(y_w) the policy's probability
  s, log s       the sigmoid and its logarithm
  s_w, s_l       of reward losses, the score of a response
  w, l, z        of links, the scores of both responses, and z = beta (w - l)
  z, d           of KTO and BCO, the statistic of the batch that rewards are beside
  m              of DiscoPOP, the weight of the exponential loss; t its temperature
  p, q           a target distribution and the model's; of SPPO p that the chosen wins
  u              policy/reference; u_w, u_l weights of responses, by their log-probs
  f, f'          of f-DPO and its like, a function of the ratio and its derivative
  K, K_w, K_l    the responses of a list; KL(reference || policy) over a response
  A              the attributes that are rated; gap, margin, target are of the data
  e              label_smoothing (e^x is the exponential); beta, gamma, ... are options
  sg             stop_gradient
  of losses of sampled tokens, and of advantages
  p, rho         the policy's probability of a token; p over that of the old policy
  A, V, V_old, G the advantage of a token, its value, the old one, its return
  y, |y|, l      a response, the number of its actions, the loss of one of them
  R, mu, sigma   the reward of a response; mean and deviation among those to a prompt
  b, m, v        of normalizers, a baseline, mean and variance of rewards
  d, t, T        log(policy/reference) of a token; times of a response"""
MOVING = """\
with any loss that has a reference
  TR-DPO, arXiv:2404.09656, whose reference follows the policy:
      soft: --config.reference.update_every=1 --config.reference.update_share=0.6
      hard: --config.reference.update_every=512"""


def describe(name: str, function: Callable) -> str:
    """A loss in a few lines: its equation, its options and what it reads."""
    traits = catalogue.traits(function)
    lines = [f"  {name}", f"      {first_line(function)}"]
    options = [
        name if field.required else f"{name}={field.default!r}"
        for name, field in catalogue.options(function).items()
    ]
    if options:
        lines.append(f"      options: {', '.join(options)}")
    if traits.inputs:
        lines.append(f"      reads of the batch: {', '.join(traits.inputs)}")
    if traits.needs:
        lines.append(f"      reads of a response: {', '.join(traits.needs)}")
    if (count := advantages.requirements(function).responses) > 1:
        lines.append(f"      needs {count} responses to a prompt or more")
    if normalizers.traits(function).per == "token":
        lines.append("      for advantages of tokens alone")
    if traits.coupled:
        lines.append("      batch-coupled: needs a statistic of the whole batch")
    return "\n".join(lines)


def _section(title: str, functions) -> list[str]:
    described = [describe(name, functions[name]) for name in sorted(functions)]
    return [f"{title} ({len(functions)})", *described]


def first_line(function: Callable) -> str:
    return inspect.getdoc(function).splitlines()[0]


def table() -> str:
    """The whole catalogue as text."""
    parts = [SYMBOLS]
    for kind, losses in (catalogue.CATALOGUE | catalogue.OF_TOKENS).items():
        free = [n for n, f in losses.items() if not catalogue.traits(f).reference]
        parts += _section(f"{kind} losses", losses)
        if kind == "preference":
            parts.append(f"  without a reference: {', '.join(sorted(free))}")
    for functions in (
        advantages.ADVANTAGES,
        normalizers.NORMALIZERS,
        denominators.DENOMINATORS,
        policy_gradient.CORRECTIONS,
        kl.ESTIMATORS,
    ):
        parts += _section(f"{functions.kind}s", functions)
    for functions in (links.LINKS, scores.DIVERGENCES):
        parts.append(f"{functions.kind}s ({len(functions)})")
        parts += [f"  {name}: {first_line(f)}" for name, f in sorted(functions.items())]
    parts.append(MOVING)
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="alignjax losses",
        description=__doc__,
        epilog="example: alignjax losses | grep -A 3 simpo",
    )
    _, others = parser.parse_known_args(arguments)
    if others:
        parser.exit(errors.CONFIG, f"{parser.prog}: no such option: {others[0]!r}\n")
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())

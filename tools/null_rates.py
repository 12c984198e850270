# SPDX-License-Identifier: Apache-2.0
"""How often each interval calls two identical losses different, as docs/evaluation.md.

    python tools/null_rates.py

400 simulated pairs of arms of 5 runs and 60 prompts, then 400 differences of prompts in
few clusters of 6, at a nominal 5 %.
"""

import numpy as np

from alignjax.evals import differences

# Standard deviations of runs, of what the difference owes to the prompt, of answers.
NULLS = {
    "runs and answers": (0.2, 0, 0.35),
    "answers, runs a little": (0.035, 0, 0.35),
    "prompts, by loss, and answers": (0, 0.35, 0.35),
}


def arm(rng, of_run, of_prompt, of_answer):
    noise = rng.normal(0, of_run, (5, 1)) + rng.normal(0, of_prompt, (1, 60))
    return noise + rng.normal(0, of_answer, (5, 60))


CLUSTERS = (2, 3, 5, 8, 14)


def plain(method, *arguments, **options):
    """An interval without wider deviations of runs and of clusters."""
    widened, differences.widened = differences.widened, lambda x, groups: x
    try:
        return method(*arguments, **options)
    finally:
        differences.widened = widened


METHODS = {
    "prompts alone": lambda a, b: differences.over_prompts(a.mean(0) - b.mean(0)),
    "runs alone": lambda a, b: differences.over_runs(
        *(x.mean(1, keepdims=True) for x in (a, b))
    ),
    "runs": differences.over_runs,
    "crossed": lambda a, b: differences.crossed(a, b, draws=401),
    "crossed, not widened": lambda a, b: plain(differences.crossed, a, b, draws=401),
}


def main() -> None:
    for name, spreads in NULLS.items():
        rng, rejected = np.random.default_rng(1), dict.fromkeys(METHODS, 0)
        for _ in range(400):
            a, b = arm(rng, *spreads), arm(rng, *spreads)
            for method, function in METHODS.items():
                out = function(a, b)
                rejected[method] += out.low > 0 or out.high < 0
        shares = (f"{method} {count / 4:.1f} %" for method, count in rejected.items())
        print(f"{name}: {', '.join(shares)}")
    for count in CLUSTERS:
        rng, rejected = np.random.default_rng(count), [0, 0]
        clusters = np.repeat(np.arange(count), 6)
        for _ in range(400):
            own = rng.normal(0, 0.35, count)[clusters]
            own += rng.normal(0, 0.35, len(clusters))
            both = (
                differences.over_prompts(own, clusters),
                plain(differences.over_prompts, own, clusters),
            )
            for i, out in enumerate(both):
                rejected[i] += out.low > 0 or out.high < 0
        ours, theirs = (f"{n / 4:.1f} %" for n in rejected)
        print(f"{count} clusters: prompts {ours}, not widened {theirs}")


if __name__ == "__main__":
    main()

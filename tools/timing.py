# SPDX-License-Identifier: Apache-2.0
"""Times steps that take turns, so that a machine whose speed drifts slows all alike.

The benchmarks of steps also share the report and the same model in transformers.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping

from alignjax.huggingface import config_json
from alignjax.models import decoder_config, families


def timed(
    sides: Mapping[str, Callable[[], float]], steps: int, amounts: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """The time of the steps of each side: seconds, and amounts a second.

    Args:
      sides: functions that do a step, wait for it, and return its loss.
      steps: of each; two that come before do not count.
      amounts: what a step goes through, by name: tokens, pairs.
    """
    seconds, losses = {name: [] for name in sides}, {}
    for run in sides.values():
        run(), run()  # allocation, compilation by torch.compile
    for _ in range(steps):
        for name, run in sides.items():
            start = time.perf_counter()
            losses[name] = run()
            seconds[name].append(time.perf_counter() - start)
    report = {}
    for name, values in seconds.items():
        median = statistics.median(values)
        rates = {f"{k}_per_second": x / median for k, x in amounts.items()}
        report[name] = {"step_s": median, "min_s": min(values), **rates}
        report[name]["loss"] = losses[name]
    return report


def show(report: Mapping, as_json: bool) -> None:
    """Prints figures and tables of figures by name; or one JSON object."""
    if as_json:
        print(json.dumps(report))
        return
    width = max(map(len, report))
    for name, value in report.items():
        if isinstance(value, dict):
            value = "  ".join(f"{k} {x:,.4g}" for k, x in value.items())
        elif isinstance(value, float):
            value = f"{value:,.4g}"
        print(f"{name:{width}} {value}")


def in_transformers(family: str, c: decoder_config.DecoderConfig, seed: int = 0):
    """The same model in transformers, with random values and its fast attention."""
    import torch
    import transformers

    torch.manual_seed(seed)
    fields = config_json.write(c, families.find(family))
    shape = transformers.AutoConfig.for_model(**fields)
    return transformers.AutoModelForCausalLM.from_config(
        shape, attn_implementation="sdpa"
    )

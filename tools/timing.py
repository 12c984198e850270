# SPDX-License-Identifier: Apache-2.0
"""Times steps that take turns, so that a machine whose speed drifts slows all alike.

The benchmarks of steps also share the report, the same model in transformers, what a
model keeps on a device, and what is known of a compiled step.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping

import jax

from alignjax import trees
from alignjax.huggingface import config_json
from alignjax.models import decoder, decoder_config, families, memory
from alignjax.plan import cards, floors, program
from alignjax.types import Model, Sequences

# Seconds before a step: the threads of the step before, of another side, may wait for
# more work by spinning for a while, on the cores that this one needs.
PAUSE = 0.5


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
            time.sleep(PAUSE)
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


def fitted(
    model: Model, sequences: Sequences, rows: int, *, copies: int = 4, parts: int = 1
) -> Model:
    """The model, computing as `alignjax train` lets it on devices of this memory.

    Where their memory is not known, as on CPUs, it stays as it is.

    Args:
      sequences: like those that it reads.
      rows: of a microbatch on each device.
      copies: of the parameters in float32: they, a gradient, two moments, a reference.
      parts: devices that share them, those of the ambient mesh.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
        return model
    free = max(0, limit - 4 * copies * trees.count(decoder.abstract(model)) // parts)
    options = dict(platform=device.platform, free=free, parts=parts)
    chosen = memory.choose(model.config, sequences, rows, **options)
    return decoder.build(chosen.config)


def of_program(compiled: jax.stages.Compiled) -> dict[str, float | str]:
    """MiB of temporaries and, of a card of `alignjax plan`, seconds a step by plan."""
    facts: dict[str, float | str] = {}
    if (stats := compiled.memory_analysis()) is not None:
        facts["temporary_MiB"] = stats.temp_size_in_bytes / 2**20
    card = cards.of_kind(jax.devices()[0].device_kind)
    if card is None:
        return facts
    try:
        kernels = program.kernels(program.parse(compiled.as_text()))
        floor = sum(x.times * floors.seconds(x, card) for x in kernels)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # What an unknown kernel looks like is worth less than the timing.
        return facts | {"predicted_s": f"unknown, {type(error).__name__}: {error}"}
    return facts | {"floor_s": floor, "predicted_s": card.factor * floor}


def number(text: str) -> int | str:
    """Of an option that is a number or a word, such as `auto`."""
    return int(text) if text.isdigit() else text


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

# SPDX-License-Identifier: Apache-2.0
"""What a run is evaluated on, where that is not all there is."""

from stages import run

from configs.smoke import pretrain


def test_a_few_batches_are_of_all_sources(tmp_path):
    """Not of the first one alone: another second one changes what is found."""
    texts = {name: tmp_path / f"{name}.txt" for name in ("first", "second", "third")}
    for i, path in enumerate(texts.values()):
        letters = "abc xyz 019"[4 * i : 4 * i + 3]
        path.write_text("\n\n".join(f"{letters * 40}{k}" for k in range(60)))
    names = list(texts)
    source = lambda name: {"kind": "text", "path": str(texts[name]), "weight": 1.0}
    found = []
    for changed in (False, True):
        held_out = {name: source(name) for name in names[:2]}
        if changed:
            held_out[names[1]] = source("third")
        rows = run(
            tmp_path,
            f"run {changed}",
            pretrain,
            steps=1,
            **{
                "schedule.warmup_steps": 0,
                "evaluation.every": 1,
                "checkpoint.every": 1,
                "sample.every": None,
                "data.validation_fraction": 0.0,
                "data.validation_sources": held_out,
            },
        ).metrics()
        found.append(rows[-1]["eval/loss"])
    assert abs(found[0] - found[1]) > 1e-3

# SPDX-License-Identifier: Apache-2.0
r"""The story of a run of stages, as one HTML file with figures.

    python -m alignjax.report --out=report.html --assessment=FILE.json \
        --stage=base=runs/base --stage=sft=runs/sft ...

    story      what there is to tell of
    drawing    how figures look
    worth      figures of true reward; `manners` of behaviour, `judges` of reward
               models, `curves` of training
    samples    answers side by side
    page       all of it as HTML

A figure is a function `(story) -> drawing.Figure`, or a text that says why there is
none; to add one, write it and list it in `page.SECTIONS`. Needs the extra `report`.
"""

# SPDX-License-Identifier: Apache-2.0
r"""The story of a run of stages, as one HTML file with figures.

    alignjax report --out=report.html --assessment=FILE.json \
        --stage=base=runs/base --stage=sft=runs/sft ...

    story                 the runs and their figures
    figures_reward        of true reward; `figures_behaviour`, `figures_reward_model`
                          and `figures_training` of the rest
    drawing               how figures look
    page                  all of it as HTML, by `page.html.jinja`

A figure is a function `(story) -> drawing.Figure`, which may raise `story.Missing`; to
add one, write it and list it in `page.SECTIONS`. Needs the extra `report`.
"""

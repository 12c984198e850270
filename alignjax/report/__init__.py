# SPDX-License-Identifier: Apache-2.0
r"""The story of a run of stages, as one HTML file with figures.

    alignjax report --out=report.html --assessment=FILE.json \
        --stage=base=runs/base --stage=sft=runs/sft ...

    story        the runs and their figures
    figures_*    each a topic: functions `(story) -> drawing.Figure`, listed at the end
    evaluation   any runs on data of a user's own, as parts of the page
    drawing      how figures look
    page         all of it as HTML, by `page.html.jinja`

Needs the extra `report`.
"""

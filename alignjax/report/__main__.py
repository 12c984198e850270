# SPDX-License-Identifier: Apache-2.0
r"""Writes the report: one HTML file that needs nothing else.

    alignjax report --out=report.html --assessment=runs/assessment.json \
        --stage=base=runs/base --stage=sft=runs/sft --stage=dpo=runs/dpo

    alignjax report --out=report.html --evaluation=runs/evaluation

`--assessment` is the file of `alignjax assess`, on the embedded world; give the stages
their names in it. `--evaluation` is the folder of `alignjax evaluate`, of any runs on
your own data. The report says what is missing. Exit codes are those of
`alignjax.errors`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence

import jinja2

from alignjax import cli, errors
from alignjax.evaluate import results as evaluations
from alignjax.report import page, story
from alignjax.storage import atomic
from alignjax.world.assessment import results

# What drawing and writing raise where a figure is missing, or is none.
_NO_FIGURES = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError)
_NO_FIGURES += (jinja2.TemplateError,)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("report", __doc__)
    add = out.add_argument
    add("--out", required=True, metavar="FILE", help="the report, HTML")
    add("--assessment", metavar="FILE", help="the results of assess, JSON")
    add("--evaluation", metavar="DIR", help="the folder of evaluate")
    add(
        "--stage",
        action="append",
        default=[],
        type=parse_stage,
        metavar="NAME=DIR",
        help="a run, in the order of the stages; repeatable",
    )
    add("--title", help="its heading")
    return out


def parse_stage(text: str) -> tuple[str, str]:
    """`NAME=DIR`.

    Raises:
      ArgumentTypeError: it is not.
    """
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, folder


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)

    def report() -> None:
        if not (options.stage or options.assessment or options.evaluation):
            raise errors.ConfigError(
                "stage: give --stage, --assessment or --evaluation, or several"
            )
        if importlib.util.find_spec("matplotlib") is None:
            raise errors.ConfigError(
                "figures need the package matplotlib, which is not installed: "
                "pip install 'alignjax[report]'"
            )
        out = cli.output(options.out)
        figures = None
        if options.assessment:
            figures = results.read(cli.path(options.assessment, "assessment"))
        data, evaluated = story.load(options.stage, figures), None
        if options.evaluation:
            evaluated = evaluations.read(cli.path(options.evaluation, "evaluation"))
        whole = bool(options.stage or figures)
        title = "From text to an aligned model" if whole else "Runs side by side"
        title = options.title or title
        try:
            text = page.render(data, title, page.provenance(), evaluated)
        except errors.AlignError:
            raise
        except _NO_FIGURES as error:
            reason = "stage: its metrics or config cannot be drawn"
            if figures:
                reason = (
                    f"assessment: {options.assessment} lacks what assess writes; write "
                    "it again with alignjax assess --anew"
                )
            problem = f"{reason} ({type(error).__name__}: {error!s:.80})"
            raise errors.ConfigError(problem) from error
        atomic.write(out, text)
        print(f"the report: {out}, {out.stat().st_size / 1024:.0f} KB")

    return cli.exit_code(report)


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""How figures look: sizes, colours, axes, and from matplotlib to SVG inside a page."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

# Okabe and Ito's colours, which the colour-blind can tell apart and print as greys.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PINK, YELLOW, SKY, GREY = "#CC79A7", "#E69F00", "#56B4E9", "#767676"
COLORS = {"pretraining": GREY, "sft": BLUE, "reward": GREEN, "preference": ORANGE}
FURTHER = (PINK, YELLOW, SKY, GREEN)
MARKERS = ("o", "s", "D", "^", "v", "P")
INK, FAINT = "#222222", "#d9d9d9"

# Inches. Narrow, so that letters stay readable where a page is as wide as a phone.
WIDTH, HEIGHT = 5.0, 3.1
_STYLE = {
    "font.size": 10,
    "font.family": ["DejaVu Sans"],
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "svg.fonttype": "none",  # letters stay letters: they can be searched and read out
    "svg.hashsalt": "alignjax",
    "text.parse_math": False,  # names may hold a dollar
}


class Figure(NamedTuple):
    """One figure of the report.

    Attributes:
      name: a word, unique on the page.
      title: the question that it answers; `caption` is the answer, from the numbers.
      numbers: those drawn, as a table, a row of headings first.
    """

    name: str
    title: str
    caption: str
    svg: str
    numbers: Sequence[Sequence[str]]


class Canvas(NamedTuple):
    """A matplotlib figure."""

    name: str
    figure: Any

    def legend(self, columns: int) -> None:
        """One legend for all axes, above them."""
        self.figure.legend(loc="outside upper center", ncols=columns)

    def finish(self, title: str, caption: str, numbers) -> Figure:
        """The drawing as a figure of the report, one `<svg>` without a fixed size."""
        out = io.StringIO()
        self.figure.savefig(out, format="svg", metadata={"Date": None})
        svg = out.getvalue()[out.getvalue().index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        # Ids must be unique on the page.
        svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        # The page sets the size; `viewBox` has the proportions.
        head, rest = svg.split(">", 1)
        head = re.sub(r'\s(width|height)="[^"]*"', "", head)
        svg = f'{head} role="img" aria-labelledby="{self.name}-title">{rest}'
        return Figure(self.name, title, caption, svg, numbers)


@contextlib.contextmanager
def canvas(
    name: str, columns: int = 1, rows: int = 1, *, height: float = HEIGHT
) -> Iterator[tuple]:
    """Yields `(Canvas, axis, ...)`, `rows` times `columns` empty axes."""
    import matplotlib
    from matplotlib import figure as figures

    with matplotlib.rc_context(_STYLE):
        # Of no window or global state.
        size = (WIDTH, height * rows)
        figure = figures.Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        yield Canvas(name, figure), *axes.flat


def errors(figures: Sequence[Mapping]) -> list[list[float]]:
    """Distances from means to the low and high ends of their intervals."""
    ends = (("mean", "low"), ("high", "mean"))
    return [[max(0.0, f[high] - f[low]) for f in figures] for high, low in ends]


def whiskers(
    axis: Any, at: Sequence[float], figures: Sequence[Mapping], **style: Any
) -> None:
    """Means as marks at `at`, with upright intervals."""
    style = {"capsize": 3, "markersize": 6, "elinewidth": 1.5, **style}
    axis.errorbar(at, [f["mean"] for f in figures], yerr=errors(figures), **style)


def by_stage(
    axis: Any, names: Sequence[str], series: Sequence[tuple], *, apart: float = 0.0
) -> list[list[float]]:
    """Lines along the stages: each a label, a colour, and a figure of every stage.

    A series without figures leaves its place empty. Returns the places of the marks of
    each, which stand `apart`, so that intervals do not hide each other.
    """
    looks = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))
    places = []
    for i, (label, color, figures) in enumerate(series):
        shift = apart * (i - (len(series) - 1) / 2)
        places.append([x + shift for x in range(len(names))])
        if figures:
            line, mark = looks[i]
            style = dict(color=color, linestyle=line, marker=mark, label=label)
            whiskers(axis, places[-1], figures, **style)
    label_stages(axis, names)
    return places


def label_stages(axis: Any, names: Sequence[str]) -> None:
    """Names along the horizontal axis, evenly, with room at both ends."""
    axis.set_xticks(range(len(names)), [shorten(name) for name in names])
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.grid(visible=False, axis="x")


def shorten(name: str, most: int = 14) -> str:
    """A name that fits under a mark."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


PERCENTS = ([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])


def percent_axis(axis: Any) -> None:
    """Shares from 0 to 1 along the vertical axis, in percent."""
    axis.set_ylim(-0.03, 1.03)
    axis.set_yticks(*PERCENTS)

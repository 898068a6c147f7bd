"""What all plots of a report share: files, labels, legends; `pictures.looks` has their colours."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from stepseg.files.writing import write_atomically
from stepseg.pictures.looks import COLOURS, HATCHES, INK, MARKERS, SEQUENCE
from stepseg.report.summaries import Summary

SINGLE = (7.0, 4.6)
DOUBLE = (10.5, 4.4)
"""Inches."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawn plot with its words."""

    name: str
    """File name without its ending."""
    figure: Figure
    title: str
    description: str
    """What a reader who cannot see it should know."""
    tips: Mapping[str, str] = field(default_factory=dict)
    """Text to show over a point, by the point's id in the figure."""

    def __post_init__(self) -> None:
        # once settled, the layout is the same in every file and on every drawing
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")

    def save(self, folder: Path, kinds: Sequence[str]) -> None:
        """Write it, for each kind of file: ``png``, ``svg``."""
        for kind in kinds:
            path = folder / f"{self.name}.{kind}"
            options: dict[str, Any] = {"format": kind, "facecolor": "white"}
            options |= {"dpi": 150} if kind == "png" else {"metadata": {"Date": None}}
            with mpl.rc_context({"svg.hashsalt": self.name}):
                write_atomically(path, partial(self.figure.savefig, **options))

    def inline(self) -> str:
        """The plot as SVG inside a page: its ink is the page's, points carry their tips."""
        file = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": f"inline-{self.name}"}):
            self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        svg = file.getvalue()
        svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
        svg = re.sub(r'id="((?:figure|axes|patch|line2d|text|xtick|ytick|legend|matplotlib|Path|'
                     r'PolyCollection|FillBetween|LineCollection)[\w.]*)"', "", svg)  # fmt: skip
        for gid, tip in self.tips.items():
            text = escape(tip, quote=True)
            svg = svg.replace(
                f'<g id="{gid}">',
                f'<g class="point" tabindex="0" data-id="{gid}" data-tip="{text}" role="img" '
                f'aria-label="{text}">',
            )
        label = escape(f"{self.title}. {self.description}", quote=True)
        return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def new_figure(size: tuple[float, float] = SINGLE) -> Figure:
    """An empty figure that lays itself out."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_point(axes: Axes, summary: Summary, x: str, y: str, gid: str) -> tuple[float, float]:
    """One line of a table as a marker, with deviations over seeds."""
    spread_x, spread_y = summary.figures[x], summary.figures[y]
    kind = summary.system.kind
    axes.plot(
        [spread_x.mean],
        [spread_y.mean],
        MARKERS[kind],
        color=COLOURS[kind],
        markersize=13 if kind == "dense" else 8,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=3,
        gid=gid,
    )
    if spread_x.std or spread_y.std:
        axes.errorbar(
            spread_x.mean, spread_y.mean, xerr=spread_x.std, yerr=spread_y.std,
            ecolor=COLOURS[kind], elinewidth=1, capsize=2, fmt="none", zorder=2,
        )  # fmt: skip
    return spread_x.mean, spread_y.mean


def legend_of_kinds(axes: Axes, summaries: Sequence[Summary], **options: Any) -> None:
    """A legend of the kinds of systems that are there."""
    for kind in dict.fromkeys(s.system.kind for s in summaries):
        axes.plot([], [], MARKERS[kind], color=COLOURS[kind], markersize=8, label=kind)
    axes.legend(**options)


def legend_of_fills(axes: Axes, fills: Mapping[str, tuple[str, str]], **options: Any) -> None:
    """A legend of bars, by name their colour and hatching."""
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=name)
        for name, (colour, hatch) in fills.items()
    ]
    axes.legend(handles=handles, **options)


def fill(index: int) -> tuple[str, str]:
    """Colour and hatching of the bars of a series."""
    return SEQUENCE[index % len(SEQUENCE)], HATCHES[index % len(HATCHES)]


def place_labels(
    axes: Axes, labels: Sequence[tuple[float, float, str]], obstacles: Sequence[tuple[float, float]]
) -> int:
    """Write labels beside their points where they cover neither points nor each other.

    Returns:
        How many found a place; the others are left out.

    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # settles the layout, so that sizes in pixels are final
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    dots = [axes.transData.transform(point) for point in obstacles]
    taken = [Bbox.from_extents(x - 7, y - 7, x + 7, y + 7) for x, y in dots]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent(renderer))
    placed = 0
    for x, y, words in labels:
        for dx, dy, ha, va in _SPOTS:
            far = (dx and dy) or max(abs(dx), abs(dy)) > NEAR
            line = (
                {"arrowstyle": "-", "linewidth": 0.6, "color": INK, "shrinkB": 3} if far else None
            )
            text = axes.annotate(
                words, (x, y), (dx, dy), textcoords="offset points", arrowprops=line,
                ha=ha, va=va, fontsize=8, zorder=4, annotation_clip=False,
            )  # fmt: skip
            text.set_in_layout(False)  # else the axes would shrink again after placing
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # of the words, without their line
            inside = frame.x0 + 3 <= box.x0 and box.x1 <= frame.x1 + 4
            inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                placed += 1
                break
            text.remove()
    return placed


NEAR = 10
"""Points between a marker and words that need no line to it."""

_SPOTS = [
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (7, 7, "left", "bottom"),
    (-7, 7, "right", "bottom"),
    (7, -7, "left", "top"),
    (-7, -7, "right", "top"),
    (14, 14, "left", "bottom"),
    (-14, 14, "right", "bottom"),
    (14, -14, "left", "top"),
    (-14, -14, "right", "top"),
    (0, 18, "center", "bottom"),
    (0, -18, "center", "top"),
]

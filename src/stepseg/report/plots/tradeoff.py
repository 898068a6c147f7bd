"""Accuracy against cost and against speed, with what no other point beats."""

from itertools import pairwise

import matplotlib as mpl

from stepseg.pictures.looks import GREEN, SETTINGS
from stepseg.report.pareto import pareto_front
from stepseg.report.plots.style import Plot, draw_point, legend_of_kinds, new_figure, place_labels
from stepseg.report.summaries import Arena, Summary

MANY = 14
"""Above so many points only those of the front and the baselines are labelled."""


def accuracy_over_cost(arena: Arena, name: str) -> Plot | None:
    """MIoU over GMACs."""
    known = arena.with_figure("mIoU", "gmacs")
    if len(known) < 2:
        return None
    return _scatter(known, "gmacs", "GMACs per image", name, less_cost=True, where=arena.title)


def accuracy_over_speed(arena: Arena, name: str) -> list[Plot]:
    """MIoU over images per second; one plot per machine and number format."""
    known = arena.with_figure("mIoU", "images_per_s")
    places = dict.fromkeys((s.fields.get("device"), s.fields.get("dtype")) for s in known)
    plots = []
    for index, (device, dtype) in enumerate(places):
        here = [
            s for s in known if (s.fields.get("device"), s.fields.get("dtype")) == (device, dtype)
        ]
        if len(here) < 2:
            continue
        title = f"{arena.title}; {device}, {dtype}"
        suffix = f"-{index}" if len(places) > 1 else ""
        plots.append(
            _scatter(here, "images_per_s", "images/s, one at a time", name + suffix,
                     less_cost=False, where=title)
        )  # fmt: skip
    return plots


def tip(summary: Summary) -> str:
    """The line of a table in one sentence."""
    words = []
    for figure, form in (
        ("mIoU", "mIoU {:.2f}"),
        ("gmacs", "{:.3g} GMACs"),
        ("images_per_s", "{:.3g} images/s"),
        ("tokens_in", "{:.0f} tokens in"),
        ("tokens_out", "{:.0f} out"),
    ):
        mean = summary.mean(figure)
        if mean is not None:
            words.append(form.format(mean))
    seeds = f", {len(summary.seeds)} seeds" if len(summary.seeds) > 1 else ""
    return f"{summary.label}: {', '.join(words)}{seeds}"


def _scatter(
    summaries: list[Summary], x: str, label: str, name: str, *, less_cost: bool, where: str
) -> Plot:
    with mpl.rc_context(SETTINGS):
        figure = new_figure()
        axes = figure.subplots()
        points = [draw_point(axes, s, x, "mIoU", f"{name}-{i}") for i, s in enumerate(summaries)]
        front = pareto_front(points, less_cost=less_cost)
        if len(front) > 1:
            axes.plot(
                [points[i][0] for i in front], [points[i][1] for i in front],
                color=GREEN, linewidth=1.5, linestyle="--", zorder=1, label="not beaten (Pareto)",
            )  # fmt: skip
        axes.set_xlabel(label)
        axes.set_ylabel("mIoU, percent")
        axes.margins(0.12)
        what = "cost" if less_cost else "speed"
        title = f"Accuracy and {what}"
        axes.set_title(f"{title}\n{where}", fontsize=9)
        # below the axes: no place within them is sure to be free
        legend_of_kinds(axes, summaries, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4)
        told = list(range(len(summaries)))
        if len(summaries) > MANY:
            told = [i for i in told if i in front or summaries[i].system.kind in ("dense", "CTS")]
        labels = [(*points[i], summaries[i].label) for i in told]
        place_labels(axes, labels, [*points, *_between([points[i] for i in front])])
    best = max(summaries, key=lambda s: s.figures["mIoU"].mean)
    unbeaten = ", ".join(summaries[i].label for i in front)
    description = (
        f"{len(summaries)} systems ({where}). Highest mIoU: {tip(best)}. Not beaten: {unbeaten}."
    )
    tips = {f"{name}-{i}": tip(s) for i, s in enumerate(summaries)}
    return Plot(name, figure, title, description, tips)


def _between(points: list[tuple[float, float]], steps: int = 12) -> list[tuple[float, float]]:
    """Places on the line through the points, which labels should not cover either."""
    return [
        (x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps)
        for (x0, y0), (x1, y1) in pairwise(points)
        for i in range(1, steps)
    ]

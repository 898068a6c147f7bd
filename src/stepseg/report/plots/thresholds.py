"""What the threshold of 2 x 2 merging does to accuracy and cost (the paper's Figure 4)."""

from collections.abc import Sequence

import matplotlib as mpl

from stepseg.pictures.looks import COLOURS, MARKERS, SETTINGS
from stepseg.report.plots.style import DOUBLE, Plot, new_figure
from stepseg.report.plots.tradeoff import tip
from stepseg.report.summaries import Arena, Summary


def threshold_curve(arena: Arena, name: str) -> Plot | None:
    """MIoU and GMACs over tau, and CTS as a star; None with fewer than three thresholds."""
    curves: dict[str, list[tuple[float, Summary]]] = {}
    for summary in arena.with_figure("mIoU", "gmacs"):
        threshold = only_2x2(summary)
        if threshold is not None:
            rest = summary.label.removeprefix(str(summary.system)).strip()
            curves.setdefault(rest, []).append((threshold, summary))
    curves = {
        rest: sorted(points, key=lambda p: p[0])
        for rest, points in curves.items()
        if len({t for t, _ in points}) >= 3
    }
    if not curves:
        return None
    fixed = [s for s in arena.with_figure("mIoU", "gmacs") if s.system.kind == "CTS"]
    with mpl.rc_context(SETTINGS):
        figure = new_figure(DOUBLE)
        panels = figure.subplots(1, 3)
        tips = _draw(panels, curves, fixed, name)
        figure.suptitle(f"Merging 2 x 2 patches: {arena.title}", x=0.01, ha="left", fontsize=10)
    spans = [p[0] for points in curves.values() for p in points]
    description = (
        f"mIoU and GMACs of dCTS with 2 x 2 windows only, thresholds {min(spans):g} to "
        f"{max(spans):g}; the star is CTS with its fixed number of merged windows."
    )
    return Plot(name, figure, "Threshold of 2 x 2 merging", description, tips)


def only_2x2(summary: Summary) -> float | None:
    """The threshold, where windows of 2 x 2 patches merge, nothing else does and nobody leaves."""
    if summary.system.kind != "dCTS":
        return None
    windows = summary.fields.get("merge_windows") or ()
    thresholds = summary.fields.get("merge_thresholds") or ()
    used = [(w, t) for w, t in zip(windows, thresholds, strict=False) if t < 1 or w == 2]
    return used[0][1] if [w for w, _ in used] == [2] else None


AXES = (("tau", "mIoU"), ("tau", "gmacs"), ("gmacs", "mIoU"))
"""What the three panels show."""
WORDS = {"tau": "threshold τ", "mIoU": "mIoU, percent", "gmacs": "GMACs per image"}


def _draw(
    panels: Sequence,
    curves: dict[str, list[tuple[float, Summary]]],
    fixed: Sequence[Summary],
    name: str,
) -> dict[str, str]:
    tips: dict[str, str] = {}
    for line, (rest, points) in enumerate(curves.items()):
        tips |= _draw_curve(panels, rest, points, line, name)
    for index, summary in enumerate(fixed):
        tips |= _draw_star(panels, summary, index, name)
    for panel, (x, y) in zip(panels, AXES, strict=True):
        panel.set_xlabel(WORDS[x])
        panel.set_ylabel(WORDS[y])
    panels[2].margins(x=0.12, y=0.15)
    panels[1].legend(loc="best")
    return tips


def _draw_curve(
    panels: Sequence, rest: str, points: Sequence[tuple[float, Summary]], line: int, name: str
) -> dict[str, str]:
    """The points of one set of weights, each with a tip, and three of them with their tau."""
    tips = {}
    style = ("-", "--", ":", "-.")[line % 4]
    look = {"color": COLOURS["dCTS"], "linestyle": style, "label": f"dCTS {rest}".strip()}
    values = [{"tau": tau} | _means(summary) for tau, summary in points]
    for number, (panel, (x, y)) in enumerate(zip(panels, AXES, strict=True)):
        panel.plot([v[x] for v in values], [v[y] for v in values], **look)
        for index, (value, (_, summary)) in enumerate(zip(values, points, strict=True)):
            gid = f"{name}-{line}-{index}-{number}"
            mark = {"color": COLOURS["dCTS"], "gid": gid, "markersize": 6}
            panel.plot([value[x]], [value[y]], MARKERS["dCTS"], **mark)
            tips[gid] = tip(summary)
    for value in (values[0], values[len(values) // 2], values[-1]):
        panels[2].annotate(
            f"{value['tau']:g}", (value["gmacs"], value["mIoU"]), (0, 7),
            textcoords="offset points", ha="center", fontsize=8,
        )  # fmt: skip
    return tips


def _draw_star(panels: Sequence, summary: Summary, index: int, name: str) -> dict[str, str]:
    """CTS, which has no threshold: lines over tau, with its star at the right edge."""
    tips = {}
    values = _means(summary)
    for panel, y in zip(panels, ("mIoU", "gmacs"), strict=False):
        panel.axhline(values[y], color=COLOURS["CTS"], linestyle=":", linewidth=1)
    values["tau"] = panels[0].get_xlim()[1]
    look = {"color": COLOURS["CTS"], "markersize": 14, "clip_on": False}
    for number, (panel, (x, y)) in enumerate(zip(panels, AXES, strict=True)):
        gid = f"{name}-cts-{index}-{number}"
        label = summary.label if index == 0 else None
        panel.plot([values[x]], [values[y]], "*", gid=gid, label=label, **look)
        tips[gid] = tip(summary)
    return tips


def _means(summary: Summary) -> dict[str, float]:
    return {key: summary.figures[key].mean for key in ("mIoU", "gmacs")}

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


def _draw(
    panels: Sequence,
    curves: dict[str, list[tuple[float, Summary]]],
    fixed: Sequence[Summary],
    name: str,
) -> dict[str, str]:
    tips = {}
    colour, star = COLOURS["dCTS"], COLOURS["CTS"]
    styles = ("-", "--", ":", "-.")
    for line, (rest, points) in enumerate(curves.items()):
        look = {"color": colour, "linestyle": styles[line % 4], "label": f"dCTS {rest}".strip()}
        taus = [t for t, _ in points]
        accuracy = [s.figures["mIoU"].mean for _, s in points]
        cost = [s.figures["gmacs"].mean for _, s in points]
        panels[0].plot(taus, accuracy, **look)
        panels[1].plot(taus, cost, **look)
        panels[2].plot(cost, accuracy, **look)
        for index, (tau, summary) in enumerate(points):
            for panel, x, y in (
                (0, tau, accuracy[index]),
                (1, tau, cost[index]),
                (2, cost[index], accuracy[index]),
            ):
                gid = f"{name}-{line}-{index}-{panel}"
                panels[panel].plot([x], [y], MARKERS["dCTS"], color=colour, gid=gid, markersize=6)
                tips[gid] = tip(summary)
        for index in {0, len(points) // 2, len(points) - 1}:
            panels[2].annotate(
                f"{taus[index]:g}", (cost[index], accuracy[index]), (0, 7),
                textcoords="offset points", ha="center", fontsize=8,
            )  # fmt: skip
    for index, summary in enumerate(fixed):
        accuracy_, cost_ = summary.figures["mIoU"].mean, summary.figures["gmacs"].mean
        for panel, y in ((0, accuracy_), (1, cost_)):
            panels[panel].axhline(y, color=star, linestyle=":", linewidth=1)
        # CTS has no threshold: its star stands at the right edge of the panels over tau
        right = panels[0].get_xlim()[1]
        for panel, x, y in ((0, right, accuracy_), (1, right, cost_), (2, cost_, accuracy_)):
            gid = f"{name}-cts-{index}-{panel}"
            label = summary.label if index == 0 else None
            panels[panel].plot(
                [x], [y], "*", color=star, markersize=14, gid=gid, label=label, clip_on=False
            )
            tips[gid] = tip(summary)
    for panel, label_x, label_y in (
        (0, "threshold τ", "mIoU, percent"),
        (1, "threshold τ", "GMACs per image"),
        (2, "GMACs per image", "mIoU, percent"),
    ):
        panels[panel].set_xlabel(label_x)
        panels[panel].set_ylabel(label_y)
    panels[2].margins(x=0.12, y=0.15)
    panels[1].legend(loc="best")
    return tips

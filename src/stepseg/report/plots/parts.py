"""Operations and throughput of every block, head and exit (the paper's Figures 9 and 10)."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from stepseg.pictures.looks import HATCHES, INK, SETTINGS
from stepseg.report.plots.style import Plot, legend_of_fills, new_figure

KINDS = {  # what a part is: colour, mark, hatching
    "block": ("#0072B2", "o", HATCHES[0]),
    "head": ("#D55E00", "^", HATCHES[1]),
    "exit rule": ("#E69F00", "D", HATCHES[2]),
    "around": ("#009E73", "s", HATCHES[3]),
}
TINY = 0.002
"""Parts below this share of the slowest are left out."""


def kind_of(part: str) -> str:
    """Whether a part is a block, a head, an exit's rule and selection, or something around them."""
    if part.startswith("block_"):
        return "block"
    if part.startswith("exit_head_") or part == "decoder":
        return "head"
    return "exit rule" if part.startswith("exit_") else "around"


def layer_profile(
    system: str, parts: Sequence[Mapping[str, Any]], batch: int, where: str, name: str
) -> Plot | None:
    """GMACs and images per second, part by part; heads stand apart by colour and hatching."""
    slowest = max((p["ms"] for p in parts), default=0)
    if not slowest:
        return None
    shown = [p for p in parts if p["ms"] >= TINY * slowest]
    left_out = [p["part"].replace("_", " ") for p in parts if p["ms"] < TINY * slowest]
    with mpl.rc_context(SETTINGS):
        figure = new_figure((max(7.0, 0.36 * len(shown) + 2), 5.6))
        upper, lower = figure.subplots(2, 1, sharex=True)
        tips: dict[str, str] = {}
        for place, part in enumerate(shown):
            tips |= _draw_part(upper, lower, part, place, batch, name)
        lower.set_yscale("log")
        lower.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        lower.yaxis.set_major_formatter("{x:g}")
        lower.yaxis.set_minor_locator(NullLocator())
        kinds = dict.fromkeys(kind_of(p["part"]) for p in shown)
        fills = {kind: (KINDS[kind][0], KINDS[kind][2]) for kind in kinds}
        legend_of_fills(upper, fills, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4)
        upper.set_ylabel("GMACs per image")
        lower.set_ylabel("images/s of this part (log)")
        labels = [p["part"].replace("_", " ") for p in shown]
        lower.set_xticks(range(len(shown)), labels, rotation=90)
        for axes in (upper, lower):
            axes.grid(visible=False, axis="x")
        if left_out:
            lower.set_xlabel(f"left out, below 0.2 % of the slowest: {', '.join(left_out)}",
                             fontsize=8, color=INK)  # fmt: skip
        figure.suptitle(f"{system}, part by part: {where}", x=0.01, ha="left", fontsize=10)
    worst = max(shown, key=lambda p: p["ms"])
    description = (
        f"GMACs and images per second of each of {len(shown)} parts of {system}; the slowest is "
        f"{worst['part'].replace('_', ' ')} with {worst['ms']:.3g} ms."
    )
    return Plot(name, figure, f"{system}, part by part", description, tips)


def _draw_part(
    upper: Axes, lower: Axes, part: Mapping[str, Any], place: int, batch: int, name: str
) -> dict[str, str]:
    """A bar of GMACs above, a mark of speed below, and what to say about them."""
    colour, mark, hatch = KINDS[kind_of(part["part"])]
    gmacs, speed = part.get("gmacs") or 0.0, 1000 * batch / part["ms"]
    (bar,) = upper.bar(
        [place], [gmacs], color=colour, hatch=hatch, edgecolor="white", linewidth=0.5
    )
    bar.set_gid(f"{name}-macs-{place}")
    lower.vlines(place, 0, speed, color=colour, linewidth=1.2)
    gid = f"{name}-speed-{place}"
    lower.plot([place], [speed], mark, color=colour, markersize=7, gid=gid)
    words = f"{part['part'].replace('_', ' ')}: {gmacs:.3g} GMACs, {part['ms']:.3g} ms"
    words += f", {speed:.3g} images/s"
    return {f"{name}-macs-{place}": words, gid: words}

"""One look for pictures, plots and pages: what has the same meaning has the same colour.

Colours of systems and series are Okabe and Ito's, which stay apart for colour-blind readers; those
of classes are their data set's.
"""

from typing import Any

RGB = tuple[int, int, int]

WINDOWS: dict[int, RGB] = {
    1: (150, 150, 150), 2: (70, 130, 240), 4: (40, 180, 90), 8: (250, 190, 20), 16: (235, 65, 55),
}  # fmt: skip
"""Tokens by the side of their window in patches; 1: not merged."""
OTHER_WINDOWS: RGB = (180, 80, 200)
DIFFERENCE: RGB = (160, 0, 235)
"""Where two label maps differ; no class of the street scenes looks like it."""

INK = "#1f2328"
"""Text and lines; replaced by the page's own colour where a plot stands in a page."""

COLOURS = {
    "dense": INK,
    "CTS": "#E69F00",
    "dCTS": "#0072B2",
    "DToP": "#CC79A7",
    "CTS & DToP": "#56B4E9",
    "STEP": "#D55E00",
    "smaller input": "#777777",
    "uniform": "#999999",
    "random": "#BBBBBB",
    "ToMe": "#009E73",
    "ALGM": "#B8A800",
    "Cropr": "#7A3E9D",
}
MARKERS = {
    "dense": "*", "CTS": "s", "dCTS": "o", "DToP": "^", "CTS & DToP": "D", "STEP": "P",
    "smaller input": "v", "uniform": "H", "random": "X", "ToMe": "<", "ALGM": ">", "Cropr": "p",
}  # fmt: skip
SEQUENCE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
GREEN = "#009E73"
HATCHES = ("", "//", "..", "\\\\", "xx")

SETTINGS: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.hashsalt": "stepseg",
    "text.parse_math": False,  # names hold what users typed
}


def window_colour(side: int) -> RGB:
    """The colour of windows of this side."""
    return WINDOWS.get(side, OTHER_WINDOWS)


def window_hex(side: int) -> str:
    """The same for plots."""
    return "#{:02x}{:02x}{:02x}".format(*window_colour(side))

"""Which classes are taken for which: the confusion matrix of a run, in shares of the labels."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from stepseg.files.confusion import read_confusion
from stepseg.pictures.looks import SETTINGS
from stepseg.report.plots.style import Plot, new_figure
from stepseg.report.runs import Problem, Run

MOST = 24
"""Classes of one plot: of more those that lose most pixels to others."""
DARK = "#222222"
"""On pale ground; not the ink, which pages replace by their own."""


def plots_of_confusion(runs: Sequence[Run]) -> tuple[list[Plot], list[Problem]]:
    """One plot per run that wrote a matrix, of its last system."""
    plots, problems = [], []
    for number, run in enumerate(runs, start=1):
        entries = run.values.get("rows")
        entries = entries if isinstance(entries, list) else [run.values]
        named = [e for e in entries if isinstance(e, dict) and isinstance(e.get("confusion"), str)]
        if not named:
            continue
        place, system = Path(named[-1]["confusion"]), str(named[-1].get("system", ""))
        if place.is_absolute() or ".." in place.parts:
            problems.append(Problem(run.path, f"its confusion matrix lies elsewhere: {place}"))
            continue
        try:
            classes, counts = read_confusion(run.path.parent / place)
        except ValueError as error:
            problems.append(Problem(run.path, str(error)))
            continue
        plots.append(confusion_plot(classes, counts, system, f"confusion-{number}"))
    return plots, problems


def confusion_plot(
    classes: Sequence[str], counts_CC: NDArray[np.int64], system: str, name: str
) -> Plot:
    """Shares of each labelled class by prediction, in percent."""
    labelled = counts_CC.sum(1)
    shares = 100 * counts_CC / np.maximum(labelled, 1)[:, None]
    lost = labelled - counts_CC.diagonal()
    occurring = np.flatnonzero(labelled + counts_CC.sum(0))
    shown = np.sort(occurring[np.argsort(-lost[occurring], kind="stable")][:MOST])
    part, names = shares[np.ix_(shown, shown)], [classes[i] for i in shown]
    with mpl.rc_context(SETTINGS):
        side = 2.2 + 0.36 * len(shown)
        figure = new_figure((side + 0.8, side))
        axes = figure.subplots()
        image = axes.imshow(part, cmap="Blues", vmin=0, vmax=100)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("prediction")
        axes.set_ylabel("label")
        axes.grid(visible=False)
        for row, column in np.argwhere(part >= 0.5):
            dark = part[row, column] > 55
            axes.text(
                column, row, f"{part[row, column]:.0f}", ha="center", va="center", fontsize=7,
                color="white" if dark else DARK, gid=f"{name}-{row}-{column}",
            )  # fmt: skip
        bar = figure.colorbar(image, ax=axes, shrink=0.7, label="percent of the labelled pixels")
        bar.outline.set_visible(False)
        some = f", {len(shown)} of {len(occurring)} classes" if len(shown) < len(occurring) else ""
        axes.set_title(f"{system}{some}", fontsize=9)
    off = shares.copy()
    np.fill_diagonal(off, 0)
    worst = [divmod(int(flat), len(classes)) for flat in np.argsort(-off, axis=None)[:5]]
    words = "; ".join(
        f"{off[a, b]:.1f} % of {classes[a]} is taken for {classes[b]}"
        for a, b in worst
        if off[a, b]
    )
    return Plot(name, figure, f"Confusion of {system}", f"{words or 'Nothing is confused'}.")

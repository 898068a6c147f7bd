"""Token counts over a data set: how many superpatches of which size, who leaves where.

STEP, Tables 2 and 7. From one record of counts per image, as prediction writes them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from stepseg.files.spreadsheet import csv_text
from stepseg.files.writing import write_atomically, write_text
from stepseg.pictures.looks import SEQUENCE, window_hex

Record = Mapping[str, Any]
"""``superpatches`` by side, ``tokens_per_stage`` and ``exited_per_head`` by block."""
COLUMNS = ("kind", "name", "mean", "std", "minimum", "maximum")
_TITLES = {"superpatches": "superpatches", "tokens": "tokens", "exited": "tokens that leave"}


def token_statistics(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Mean, standard deviation, minimum and maximum per image of every count.

    Returns:
        Rows with `COLUMNS`. Kinds: ``superpatches`` by size (Table 2), ``tokens`` by stage,
        ``exited`` at each exit head, and ``exited_until`` it, the earlier heads included (Table 7).

    """
    rows = []
    for kind, series in _series(records).items():
        for name, values in series.items():
            rows.append(
                {
                    "kind": kind,
                    "name": name,
                    "mean": round(float(values.mean()), 3),
                    "std": round(float(values.std()), 3),
                    "minimum": int(values.min()),
                    "maximum": int(values.max()),
                }
            )
    return rows


def plot_statistics(records: Sequence[Record]) -> Figure:
    """Histograms over images, one panel per count: superpatch sizes, stages, exit heads.

    Sizes of which no image has any are left out.
    """
    shown = {}
    for kind, series in _series(records).items():
        occurring = {name: values for name, values in series.items() if values.max() > 0}
        if occurring and kind != "exited_until":
            shown[kind] = occurring
    columns = max(len(series) for series in shown.values())
    figure = Figure(figsize=(3.3 * columns, 2.6 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for row, (kind, series) in enumerate(shown.items()):
        for axis in axes[row, len(series) :]:
            axis.set_visible(False)
        for axis, (name, values) in zip(axes[row], series.items(), strict=False):
            side = int(name.partition("x")[0]) if kind == "superpatches" else 0
            _histogram(axis, values, window_hex(side) if side else SEQUENCE[row])
            axis.set_title(f"{name}: mean {values.mean():.4g}", fontsize=10)
            axis.set_xlabel(_TITLES[kind])
        axes[row, 0].set_ylabel("images")
    figure.suptitle("Where the tokens go: number of images by their counts")
    return figure


def write_statistics(folder: Path, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Write ``statistics.csv`` and the histograms beside it; returns `token_statistics`."""
    rows, figure = token_statistics(records), plot_statistics(records)
    write_text(folder / "statistics.csv", csv_text(COLUMNS, rows))
    write_atomically(
        folder / "statistics.png", lambda file: figure.savefig(file, dpi=150, format="png")
    )
    return rows


def _histogram(axis: Axes, values: NDArray[np.int64], colour: str) -> None:
    low, high = int(values.min()), int(values.max())
    step = max(1, -(-(high - low + 1) // 24))  # whole numbers of tokens per bar
    edges = [edge - 0.5 for edge in range(low, high + step + 1, step)]
    axis.hist(values, edges, color=colour, alpha=0.7)
    axis.axvline(values.mean(), color="black", linestyle="--", linewidth=1)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))


def _series(records: Sequence[Record]) -> dict[str, dict[str, NDArray[np.int64]]]:
    """By kind and name one number per image."""
    first = records[0]

    def column(key: str, name: str | int) -> NDArray[np.int64]:
        return np.array([record[key][name] for record in records])

    sides = {side: column("superpatches", side) for side in first["superpatches"]}
    blocks = {block: column("exited_per_head", block) for block in first["exited_per_head"]}
    ends = [*(f"to block {block}" for block in blocks), "to the end"]
    until = list(np.cumsum(list(blocks.values()), 0)) if blocks else []
    return {
        "superpatches": {f"{side}x{side}": values for side, values in sides.items()},
        "tokens": {name: column("tokens_per_stage", i) for i, name in enumerate(ends)},
        "exited": {f"after block {block}": values for block, values in blocks.items()},
        "exited_until": {
            f"block {block}": values for block, values in zip(blocks, until, strict=True)
        },
    }

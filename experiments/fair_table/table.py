"""Rows of the fair table as CSV, Markdown and figures."""

import csv
import statistics
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

REFERENCE = ("none", "dense 1x")
"""Rows that the others are compared with."""
CORRUPTIONS = ("noise", "blur", "fog", "jpeg")
NAMES = {"none": "dense", "cts": "CTS", "tome": "ToMe", "algm": "ALGM", "cropr": "Cropr"}
NAMES |= {"dtop": "dense, DToP's weights", "dcts": "dCTS", "step": "STEP"}
MARKERS = {"": "o", "1.5x": "s", "2x": "^"}
"""Of the size of the input."""
Row = dict[str, Any]


def table(rows: list[Row], runs: Path) -> None:
    """results.csv, figures and Markdown of all rows that are there."""
    with (runs / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(
            {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )

    def of(how: str) -> list[Row]:
        return [row for row in rows if row["how"] == how]

    for how in ("plugged in", "trained in", "1024", "pixels", "camvid"):
        if not of(how):
            continue
        clock = {row["row"]: row for row in of(f"time, {how}")}
        print(f"\n{how}\n\n{markdown(of(how), clock)}")
        if how in ("plugged in", "pixels"):
            draw(of(how), clock, runs / f"{how.replace(' ', '_')}.png")
    if corrupted := [row for row in rows if row["how"].split()[0] in CORRUPTIONS]:
        print(f"\ncorrupted\n\n{by_corruption(corrupted)}")


def markdown(rows: list[Row], clock: dict[str, Row]) -> str:
    """Means and deviations over seeds, and differences to dense of the same seed."""
    lines = ["| method | mIoU | over dense | boundary IoU | GMACs | speed-up | realised |"]
    lines.append("|---|---|---|---|---|---|---|")
    dense = {row["seed"]: row for row in rows if row["row"] in REFERENCE}
    for name in dict.fromkeys(row["row"] for row in rows):
        own = [row for row in rows if row["row"] == name]
        over = spread([row["mIoU"] - dense[row["seed"]]["mIoU"] for row in own], "+")
        cost = statistics.fmean(row["gmacs_mean"] for row in own)
        saved = statistics.fmean(row["gmacs_mean"] for row in dense.values()) / cost
        fast = clock[name]["speedup"] if name in clock else None
        shown = f"{fast:.2f}x | {fast / saved:.2f}" if fast else "| "
        accuracy, edges = (spread([row[k] for row in own]) for k in ("mIoU", "boundary_IoU"))
        gmacs = spread([row["gmacs_mean"] for row in own])
        lines.append(f"| {_title(name)} | {accuracy} | {over} | {edges} | {gmacs} | {shown} |")
    return "\n".join(lines)


def by_corruption(rows: list[Row]) -> str:
    """mIoU by method and corruption, means over seeds; the last two columns: the mean of all."""
    kinds, seeds = (list(dict.fromkeys(row[key] for row in rows)) for key in ("how", "seed"))
    found = {(row["row"], row["how"], row["seed"]): row["mIoU"] for row in rows}
    lines = [
        f"| method | {' | '.join(kinds)} | mean | over dense |",
        "|---" * (len(kinds) + 3) + "|",
    ]

    def mean(name: str, seed: int) -> float:
        return statistics.fmean(found[name, kind, seed] for kind in kinds)

    for name in dict.fromkeys(row["row"] for row in rows):
        by_kind = [statistics.fmean(found[name, kind, seed] for seed in seeds) for kind in kinds]
        shown = " | ".join(f"{value:.1f}" for value in by_kind)
        over = spread([mean(name, seed) - mean("none", seed) for seed in seeds], "+")
        of_all = spread([mean(name, s) for s in seeds])
        lines.append(f"| {_title(name)} | {shown} | {of_all} | {over} |")
    return "\n".join(lines)


def spread(values: list[float], sign: str = "") -> str:
    """Mean ± sample deviation."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.2f}{deviation}"


def draw(rows: list[Row], clock: dict[str, Row], path: Path) -> None:
    """Accuracy against time, or against operations where nothing was timed; bars: deviations.

    Of the difference to dense of the same seed: seeds differ by more than methods.
    """
    dense = {row["seed"]: row["mIoU"] for row in rows if row["row"] in REFERENCE}
    figure = Figure((7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlabel("ms an image" if clock else "GMACs")
    axes.set_ylabel("mIoU over dense of the same seed")
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(_line(r)[0] for r in rows))}
    for line in dict.fromkeys(_line(row) for row in rows):
        xs, ys, bars = [], [], []
        for name in dict.fromkeys(row["row"] for row in rows if _line(row) == line):
            own = [row for row in rows if row["row"] == name]
            values = [row["mIoU"] - dense[row["seed"]] for row in own]
            cost = statistics.fmean(row["gmacs_mean"] for row in own)
            xs.append(clock[name]["ms"] if clock else cost)
            ys.append(statistics.fmean(values))
            bars.append(statistics.stdev(values) if len(values) > 1 else 0)
        axes.errorbar(
            xs, ys, bars, marker=MARKERS[line[1]], color=colours[line[0]], markersize=5,
            capsize=2, linewidth=1, label=" ".join(line).strip(),
        )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def _title(name: str) -> str:
    method, *rest = name.replace(" as ", ", as dense ").split(" ")
    return " ".join([NAMES.get(method, method), *rest])


def _line(row: Row) -> tuple[str, str]:
    """Which points are joined: those of a method, and of larger inputs at one size."""
    name, _, cost = row["row"].partition(" as ")
    method, _, size = name.partition(" ")
    return NAMES.get(method, method), size if cost else ""

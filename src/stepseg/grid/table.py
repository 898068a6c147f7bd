"""The rows of a grid as a table: on the console, and as a flat file for spreadsheets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from stepseg.files.spreadsheet import csv_text
from stepseg.files.writing import write_text
from stepseg.metrics.calibration import calibration_errors
from stepseg.telling import show_table

Row = Mapping[str, Any]
LISTS = {
    "tokens_per_stage": "tokens_stage",
    "exited_per_head": "exited_head",
    "exited_until": "exited_until",
}
"""Figures by stage or head, and how their columns begin."""


def print_grid(rows: Sequence[Row], axes: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print all rows, the most accurate first, the Pareto-optimal ones marked.

    Args:
        rows: of the grid, with ``pareto``.
        axes: per row the swept values.
        title: of the table.

    """
    table = Table(title=title, caption="* none has more mIoU for fewer GMACs")
    names = list(dict.fromkeys(name for values in axes for name in values))
    for name in (*names, "mIoU", "tokens in", "tokens out", "GMACs", ""):
        table.add_column(name, justify="left" if name in names else "right")
    for row, values in sorted(zip(rows, axes, strict=True), key=lambda item: -item[0]["mIoU"]):
        tokens, best = row["tokens_per_stage"], row["pareto"]
        table.add_row(
            *(_shown(values.get(name)) for name in names),
            f"{row['mIoU']:.2f}",
            f"{tokens[0]:.0f}",
            f"{tokens[-1]:.0f}",
            f"{row['gmacs_mean']:.3f}",
            "*" if best else "",
            style="bold" if best else None,
        )
    show_table(table)


def write_grid_csv(path: Path, rows: Sequence[Row], classes: Sequence[str]) -> None:
    """Write one line per row, every number in a column of its own, atomically."""
    lines = [flat(row, classes) for row in rows]
    columns: dict[str, dict[str, None]] = {}  # those of one key stand together
    for line in lines:
        for key, cells in line.items():
            columns.setdefault(key, {}).update(dict.fromkeys(cells))
    names = [name for group in columns.values() for name in group]
    rows = [{k: v for cells in line.values() for k, v in cells.items()} for line in lines]
    write_text(path, csv_text(names, rows))


def flat(row: Row, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The cells of every key of a row: lists and mappings spread over columns."""
    return {
        key: _cells(key, value, row, classes)
        for key, value in row.items()
        if key not in ("reduction", "protocol", "merge_windows")
    }


def _cells(key: str, value: Any, row: Row, classes: Sequence[str]) -> dict[str, Any]:
    if key == "merge_thresholds":
        names = [f"merge_threshold_{window}" for window in row["merge_windows"] or []]
        return dict(zip(names, value or [None] * len(names), strict=True))
    if key == "per_class_IoU":
        return {f"IoU_{name}": number for name, number in zip(classes, value, strict=True)}
    if key in ("policy_calibration", "exit_calibration"):
        return calibration_errors({key: value})
    if key == "exits":
        return {
            f"exit_{e['block']}_{what}": e[what] for e in value for what in e if what != "block"
        }
    for name, short in LISTS.items():
        if key.startswith(name):
            end = key.removeprefix(name)  # such as _max
            return {f"{short}_{i}{end}": number for i, number in enumerate(value, start=1)}
    if isinstance(value, Mapping):
        return {f"{key}_{name}": number for name, number in value.items()}
    return {key: _shown(value) if isinstance(value, list) else value}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value)) or "none"
    return "" if value is None else str(value)

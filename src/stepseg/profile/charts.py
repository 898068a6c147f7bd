"""Tables and plots of benchmark rows, for the screen and for files.

GMACs are multiply-accumulates, which the papers print as GFLOPs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from stepseg.files.spreadsheet import csv_text
from stepseg.files.writing import write_atomically, write_text
from stepseg.pictures.looks import COLOURS, GREEN, INK, SEQUENCE, SETTINGS
from stepseg.plain_types import flat

Row = Mapping[str, Any]

COLUMNS: dict[str, tuple[str, str]] = {  # column: key, format
    "GMACs": ("gmacs", ".2f"),
    "p50 ms": ("latency_ms_p50", ".1f"),
    "p95 ms": ("latency_ms_p95", ".1f"),
    "img/s": ("images_per_s", ".2f"),
    "in flight": ("throughput", ""),
    "of peak": ("mfu", ".2f"),
    "MiB": ("peak_memory_mb", ".1f"),
    "fewer MACs": ("macs_ratio", ".2f"),
    "speed-up": ("speedup", ".2f"),
    "realised": ("realisation", ".2f"),
    "(CPU time)": ("realisation_cpu", ".2f"),
}


def table_of_rows(rows: Sequence[Row]) -> Table:
    """The benchmark's table."""
    table = Table(
        title=_where(rows),
        caption="GMACs: multiply-accumulates, the papers' GFLOPs. Realised: speed-up / fewer MACs.",
        box=SIMPLE,
    )
    table.add_column("system", no_wrap=True)
    columns = {
        c: k for c, k in COLUMNS.items() if any(row.get(k[0]) not in (None, {}) for row in rows)
    }
    for column in ("batch", "map", "tokens", *columns):
        table.add_column(column, justify="right", no_wrap=column == "tokens")
    for row, label in zip(rows, _labels(rows, ", "), strict=True):
        clock = row["protocol"]["clock"]
        table.add_row(
            label,
            _show(row["batch_size"], "d"),
            "-" if clock is None else "no" if "no map" in clock else "yes",
            ">".join(f"{tokens:.0f}" for tokens in row["tokens_per_stage"]),
            *(_show(row.get(key), form) for key, form in columns.values()),
        )
    return table


def table_of_parts(parts: Mapping[str, Sequence[Row]]) -> Table:
    """Time by part of every system, and its share of the first system's time."""
    title = "Where the time goes, ms per batch (share of the first system's time)"
    table = Table(title=title, box=SIMPLE)
    table.add_column("part", no_wrap=True)
    for name in parts:
        table.add_column(name, justify="right")
    times = {
        name: {part["part"]: (part["ms"], part["share"]) for part in list_}
        for name, list_ in parts.items()
    }
    longest = max(times.values(), key=len)
    order = [*longest, *{part: None for t in times.values() for part in t if part not in longest}]
    for part in order:
        table.add_row(part, *(_share(*t[part]) if part in t else "-" for t in times.values()))
    table.add_section()
    table.add_row(
        "all", *(_share(*map(sum, zip(*t.values(), strict=True))) for t in times.values())
    )
    return table


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write rows as CSV: nested figures as ``gmacs_by_part.policy``, lists joined by spaces."""
    lines = [
        {k: " ".join(map(str, v)) if isinstance(v, list | tuple) else v for k, v in line.items()}
        for line in map(flat, rows)
    ]
    columns = list(dict.fromkeys(key for line in lines for key in line))
    write_text(path, csv_text(columns, lines))


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """Bars of GMACs and, where timed, of latency, marked where all savings would be realised."""
    timed = [row for row in rows if row["latency_ms_p50"] is not None]
    names = [_system(row) for row in rows]
    batches = len({row["batch_size"] for row in rows}) > 1
    labels = [
        label + (f"\nbatch {row['batch_size']}" if batches else "")
        for label, row in zip(_labels(rows, "\n"), rows, strict=True)
    ]
    colours = [COLOURS.get(name.partition("@")[0], SEQUENCE[-1]) for name in names]
    panels = [("gmacs", "GMACs per image"), ("latency_ms_p50", "ms per batch, median")]
    panels = panels if timed else panels[:1]
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(6.5, 1.2 + 0.42 * len(rows) * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axis, (key, words) in zip(axes, panels, strict=True):
            values = [row[key] or 0 for row in rows]
            bars = axis.barh(range(len(rows)), values, color=colours, height=0.7)
            axis.bar_label(bars, [_show(row[key], ".4g") for row in rows], padding=4, fontsize=9)
            axis.set_yticks(range(len(rows)), labels)
            axis.invert_yaxis()
            axis.grid(visible=False, axis="y")
            axis.margins(x=0.12)
            axis.set_xlabel(words)
        if timed:
            _mark_ideal(axes[-1], rows)
        axes[0].set_title(_where(rows), fontsize=9)
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))


def _mark_ideal(axis: Axes, rows: Sequence[Row]) -> None:
    """Where the latency of each row would be if every saved operation saved its share of time."""
    for index, row in enumerate(rows):
        if row["realisation"] is not None:
            ideal = row["latency_ms_p50"] * row["realisation"]
            label = "" if axis.get_legend_handles_labels()[0] else "all savings realised"
            axis.vlines(ideal, index - 0.45, index + 0.45, color=INK, label=label)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1))


def plot_parts(parts: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Time and GMACs part by part, as the paper's Figures 9 and 10."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(10, 3 * len(parts)), layout="constrained")
        for axis, (name, list_) in zip(
            figure.subplots(len(parts), 1, squeeze=False)[:, 0], parts.items(), strict=True
        ):
            places = range(len(list_))
            colour = COLOURS.get(name.partition("@")[0], SEQUENCE[-1])
            axis.bar(places, [part["ms"] for part in list_], color=colour, width=0.8)
            axis.set_ylabel("ms per batch")
            axis.set_title(name)
            axis.set_xticks(places, [part["part"].replace("_", " ") for part in list_], rotation=90)
            second = axis.twinx()
            gmacs = [part["gmacs"] or 0 for part in list_]
            second.plot(places, gmacs, ".", color=GREEN, markersize=6, markeredgecolor="white")
            second.set_ylabel("GMACs per image (dots)")
            second.set_ylim(bottom=0)
            second.grid(visible=False)
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))


def _labels(rows: Sequence[Row], between: str) -> list[str]:
    """Systems, with their runtime where there are several."""
    runtimes = [row["protocol"].get("runtime") for row in rows]
    several = len({*runtimes}) > 1
    return [
        f"{_system(row)}{between}{runtime}" if several else _system(row)
        for row, runtime in zip(rows, runtimes, strict=True)
    ]


def _system(row: Row) -> str:
    return str(row.get("system", row["name"]))


def _where(rows: Sequence[Row]) -> str:
    """What was run where, as the heading of table and plot."""
    protocol, size = rows[0]["protocol"], rows[0]["resolution"]
    where = protocol.get("device_name") or "counted, not timed"
    size = f"{size} x {size}" if isinstance(size, int) else f"{size[0]} x {size[1]}"
    return f"{size} px, {protocol['dtype']}, {where}"


def _show(value: float | Mapping[str, float] | None, form: str) -> str:
    if isinstance(value, Mapping):  # images per second by the number of batches in flight
        return ", ".join(f"{number}: {rate:.2f}" for number, rate in value.items())
    return "-" if value is None else format(value, form)


def _share(milliseconds: float, share: float) -> str:
    return f"{milliseconds:.1f} ({100 * share:.1f} %)"

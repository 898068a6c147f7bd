"""Tables and plots of benchmark rows, for the screen and for files.

GMACs are multiply-accumulates, which the papers print as GFLOPs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from stepseg.spreadsheet import csv_text
from stepseg.writing import write_atomically, write_text

Row = Mapping[str, Any]

COLUMNS: dict[str, tuple[str, str]] = {  # column: key, format
    "GMACs": ("gmacs", ".2f"),
    "p50 ms": ("latency_ms_p50", ".1f"),
    "p95 ms": ("latency_ms_p95", ".1f"),
    "img/s": ("images_per_s", ".2f"),
    "of peak": ("mfu", ".2f"),
    "MiB": ("peak_memory_mb", ".1f"),
    "fewer MACs": ("macs_ratio", ".2f"),
    "speed-up": ("speedup", ".2f"),
    "realised": ("realisation", ".2f"),
    "(CPU time)": ("realisation_cpu", ".2f"),
}


def table_of_rows(rows: Sequence[Row]) -> Table:
    """The benchmark's table."""
    protocol = rows[0]["protocol"]
    where = protocol.get("device_name") or "counted, not timed"
    size = rows[0]["resolution"]
    size = f"{size} x {size}" if isinstance(size, int) else f"{size[0]} x {size[1]}"
    table = Table(
        title=f"{size} px, {protocol['dtype']}, {where}",
        caption="GMACs: multiply-accumulates, the papers' GFLOPs. Realised: speed-up / fewer MACs.",
        box=SIMPLE,
    )
    table.add_column("system", no_wrap=True)
    columns = {c: k for c, k in COLUMNS.items() if any(row.get(k[0]) is not None for row in rows)}
    for column in ("batch", "map", "tokens", *columns):
        table.add_column(column, justify="right", no_wrap=column == "tokens")
    for row in rows:
        clock = row["protocol"]["clock"]
        table.add_row(
            row["name"],
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
    whole = sum(part["ms"] for part in next(iter(parts.values())))
    times = {name: {part["part"]: part["ms"] for part in list_} for name, list_ in parts.items()}
    longest = max(times.values(), key=len)
    order = [*longest, *{part: None for t in times.values() for part in t if part not in longest}]
    for part in order:
        table.add_row(part, *(_share(t.get(part), whole) for t in times.values()))
    table.add_section()
    table.add_row("all", *(_share(sum(t.values()), whole) for t in times.values()))
    return table


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write rows as CSV: nested figures as ``gmacs_by_part.policy``, lists joined by spaces."""
    flat = [_flatten(row) for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    write_text(path, csv_text(columns, flat))


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """Bars of GMACs and, where timed, of latency, marked where all savings would be realised."""
    timed = [row for row in rows if row["latency_ms_p50"] is not None]
    figure = Figure(figsize=(1.6 + 0.9 * len(rows), 6 if timed else 3.2), layout="constrained")
    axes = figure.subplots(2 if timed else 1, 1, squeeze=False)[:, 0]
    labels = [row["name"] + (f"\nbatch {row['batch_size']}" if timed else "") for row in rows]
    axes[0].bar(range(len(rows)), [row["gmacs"] for row in rows], color="tab:blue")
    axes[0].set_ylabel("GMACs per image")
    if timed:
        axes[1].bar(range(len(rows)), [row["latency_ms_p50"] for row in rows], color="tab:orange")
        for index, row in enumerate(rows):
            if row["realisation"] is not None:
                ideal = row["latency_ms_p50"] * row["realisation"]
                label = "all savings realised" if index == 0 else None
                axes[1].hlines(ideal, index - 0.4, index + 0.4, color="black", label=label)
        axes[1].set_ylabel("ms per batch, median")
        if any(row["realisation"] is not None for row in rows):
            axes[1].legend()
    for axis in axes:
        axis.set_xticks(range(len(rows)), labels)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


def plot_parts(parts: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Time and GMACs part by part, as the paper's Figures 9 and 10."""
    figure = Figure(figsize=(10, 3 * len(parts)), layout="constrained")
    for axis, (name, list_) in zip(
        figure.subplots(len(parts), 1, squeeze=False)[:, 0], parts.items(), strict=True
    ):
        places = range(len(list_))
        axis.bar(places, [part["ms"] for part in list_], color="tab:orange", width=0.8)
        axis.set_ylabel("ms per batch")
        axis.set_title(name, loc="left")
        axis.set_xticks(places, [part["part"].replace("_", " ") for part in list_], rotation=90)
        second = axis.twinx()
        second.plot(places, [part["gmacs"] or 0 for part in list_], "k.", markersize=5)
        second.set_ylabel("GMACs per image (dots)")
        second.set_ylim(bottom=0)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


def _flatten(row: Row, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            is_list = isinstance(value, list | tuple)
            flat[prefix + key] = " ".join(map(str, value)) if is_list else value
    return flat


def _show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _share(milliseconds: float | None, whole: float) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.1f} ({100 * milliseconds / whole:.1f} %)"

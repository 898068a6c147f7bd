"""Where the time of a training went, as `trainer.profiler` took it."""

import re

import lightning as L
from lightning.pytorch.profilers import SimpleProfiler
from rich.table import Table

from stepseg.telling import show_table, tell

LEAST = 0.01
"""Share of the whole from which on a part is shown."""


def show_profile(trainer: L.Trainer) -> None:
    """Show it, of the simple profiler what counts; Lightning tells nobody at our log level."""
    profiler = trainer.profiler  # type: ignore[attr-defined]
    if not trainer.is_global_zero:
        return
    if not isinstance(profiler, SimpleProfiler):
        if summary := profiler.summary():
            tell(summary)
        return
    table = Table(title="where the time went (parts contain one another)")
    for column in ("part", "seconds", "calls", "share"):
        table.add_column(column, justify="left" if column == "part" else "right")
    times = {re.sub(r"\{.*\}", "", k): spent for k, spent in profiler.recorded_durations.items()}
    whole = sum(times.get("run_training_epoch", ())) or max(map(sum, times.values()))
    for name, spent in sorted(times.items(), key=lambda item: -sum(item[1])):
        if (share := sum(spent) / whole) >= LEAST:
            table.add_row(name, f"{sum(spent):.2f}", str(len(spent)), f"{share:.0%}")
    show_table(table)

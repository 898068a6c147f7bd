"""The final figures of a run: a table of its systems, and flat names for summaries."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from stepseg.lit.tracking.record import log_summary, log_table
from stepseg.metrics.calibration import calibration_errors
from stepseg.reduction import KINDS, Reduction

Rows = Mapping[str, Mapping[str, Any]]
"""Figures of each system under the names of `result.json`; the run's own system is the last."""

SHOWN = {
    "mIoU": "mIoU", "mAcc": "mAcc", "aAcc": "aAcc", "fwIoU": "fwIoU",
    "boundary_IoU": "boundary_IoU", "mAP": "mAP", "gmacs_mean": "gmacs", "gmacs": "gmacs",
    "images_per_s": "images_per_s", "latency_ms_p50": "latency_ms", "speedup": "speedup",
    "peak_memory_mb": "peak_memory_mb", "batch_size": "batch_size",
    "merge_thresholds": "merge_thresholds", "top_k": "top_k",
    "exit_blocks": "exit_blocks", "exit_threshold": "exit_threshold", "exit_rule": "exit_rule",
}  # fmt: skip
"""Figures of `result.json` that trackers show, and their names there."""


def log_final(
    loggers: Sequence[Logger],
    folder: Path,
    config: Mapping[str, Any],
    rows: Rows,
    *,
    step: int,
    classes: Sequence[str] = (),
    each: bool = True,
) -> None:
    """Record `final/systems`, `final/per_class_IoU` and the summary.

    Args:
        classes: names, for the table per class; empty: no such table.
        each: also a summary per system; not for grids, whose points would fill the summary.

    """
    shown = {name: shown_figures(row) for name, row in rows.items()}
    columns = list(dict.fromkeys(key for row in shown.values() for key in row))
    table = [[name, *(_cell(row.get(key)) for key in columns)] for name, row in shown.items()]
    log_table(loggers, folder, "final/systems", ["system", *columns], table, step)
    if classes:
        per_class = [row["per_class_IoU"] for row in rows.values()]
        lines = [list(line) for line in zip(classes, *per_class, strict=True)]
        log_table(loggers, folder, "final/per_class_IoU", ["class", *rows], lines, step)
    figures = final_figures(rows, each=each)
    log_summary(loggers, config, figures, step)


def final_figures(rows: Rows, *, each: bool = True) -> dict[str, Any]:
    """``final/mIoU`` and so on of the last system, and ``final/<system>/mIoU`` of each."""
    figures: dict[str, Any] = {}
    for system, row in zip(_systems(list(rows)), rows.values(), strict=True) if each else ():
        figures |= {f"final/{system}/{key}": v for key, v in shown_figures(row).items()}
    last = list(rows.values())[-1]
    return figures | {f"final/{key}": value for key, value in shown_figures(last).items()}


def _systems(names: Sequence[str]) -> list[str]:
    """Rows by what their systems are called in tables, however typed.

    The blocks of exits are a figure of their own, and stay where nothing else tells rows apart.
    """
    bases = [name.partition("@")[0] for name in names]
    kinds = [KINDS.get(base, base) for base in bases]
    pairs = zip(kinds, names, strict=True)
    return [kind if kinds.count(kind) == 1 else name for kind, name in pairs]


def shown_figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one system that trackers show; what is None is left out."""
    shown = {ours: row[theirs] for theirs, ours in SHOWN.items() if row.get(theirs) is not None}
    shown |= {key: value for key, value in row.items() if key.startswith("AP_")}
    shown |= calibration_errors(row)
    if stages := row.get("tokens_per_stage"):
        shown |= {"tokens_in": stages[0], "tokens_out": stages[-1]}
    return shown


def describe(reduction: Reduction) -> dict[str, Any]:
    """Thresholds and exits of a system, plain values; None where a part is off."""
    rule = getattr(reduction.exit, "base", reduction.exit)  # a control rule has another's numbers
    merge = reduction.merge
    return {
        "merge_thresholds": list(merge.thresholds) if merge and merge.thresholds else None,
        "exit_blocks": list(reduction.exit_blocks) or None,
        "exit_threshold": getattr(rule, "threshold", None),
    }


def _cell(value: Any) -> Any:
    return str(value) if isinstance(value, list | tuple) else value

"""Totals over the images of a run, under the names that evaluation uses too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepseg.files.spreadsheet import csv_text
from stepseg.files.writing import write_text

Record = Mapping[str, Any]


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Means per image; empty without any."""
    if not records:
        return {"images": 0}
    gmacs = np.array([record["gmacs"] for record in records])
    stages = np.array([record["tokens_per_stage"] for record in records]).mean(0)
    totals: dict[str, Any] = {
        "images": len(records),
        "gmacs_mean": float(gmacs.mean()),
        "gmacs_std": float(gmacs.std()),
        "tokens_mean": float(stages[0]),
        "tokens_per_stage": stages.tolist(),
        "superpatches": _means(records, "superpatches"),
        "exited_per_head": list(_means(records, "exited_per_head").values()),
        "seconds_per_image": float(np.mean([record["seconds"] for record in records])),
    }
    for key in ("pixel_accuracy", "differs_from_dense", "gmacs_dense"):
        values = [record[key] for record in records if record.get(key) is not None]
        if values:
            totals[f"{key}_mean"] = float(np.mean(values))
    return totals


def write_table(path: Path, records: Sequence[Record], failures: Sequence[Record]) -> None:
    """Write one row per image as CSV, atomically; failed ones last, with their error."""
    rows = [_flat(record) for record in records]
    rows += [{"source": f["source"], "error": f["error"]} for f in failures]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_text(path, csv_text(columns, rows))


def _means(records: Sequence[Record], key: str) -> dict[str, float]:
    return {
        name: float(np.mean([record[key][name] for record in records])) for name in records[0][key]
    }


def _flat(record: Record) -> dict[str, Any]:
    flat = {key: record[key] for key in ("name", "source", "width", "height", "gmacs", "seconds")}
    for index, tokens in enumerate(record["tokens_per_stage"], start=1):
        flat[f"tokens_stage_{index}"] = tokens
    for side, count in record["superpatches"].items():
        flat[f"superpatches_{side}x{side}"] = count
    for block, count in record["exited_per_head"].items():
        flat[f"exited_after_{block}"] = count
    for key in ("pixel_accuracy", "differs_from_dense", "gmacs_dense"):
        if key in record:
            flat[key] = record[key]
    return flat

"""Dense, dCTS and STEP on the same weights: accuracy, cost and speed side by side."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rich.table import Table
from torch import Tensor

from stepseg.dcts.policy import OraclePolicy
from stepseg.model import Reduction, StepSegmenter
from stepseg.profile.speed import in_turn, speedup, time_interleaved
from stepseg.telling import show_table


def systems(full: Reduction) -> dict[str, Reduction]:
    """The systems that a reduction contains, from the dense baseline to itself."""
    contained = [Reduction(), replace(full, exit=None, exit_blocks=()), full]
    return {reduction.label: reduction for reduction in contained}


def time_systems(
    model: StepSegmenter,
    reductions: Mapping[str, Reduction],
    images_B3HW: Tensor,
    iterations: int = 12,
) -> dict[str, dict[str, float]]:
    """Seconds per image of each system, one image at a time, in turns over the same images.

    The clock includes everything from the image on the device to its map of class ids.
    """
    if isinstance(model.policy, OraclePolicy):
        return {}
    images = images_B3HW.split(1)
    calls = {
        name: in_turn(lambda image, r=r: model(image, reduction=r).prediction(), images)  # type: ignore[misc]
        for name, r in reductions.items()
    }
    timings = time_interleaved(
        calls, warmup=3, iterations=iterations, device=images_B3HW.device, memory=False
    )
    return {
        name: {
            "images_per_s": timing.images_per_s(1),
            "latency_ms_p50": timing.p50_ms,
            "latency_ms_p95": timing.p95_ms,
            "speedup": speedup(timings["dense"], timing),
        }
        for name, timing in timings.items()
    }


def print_comparison(rows: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Print the table; wide enough for its names where no terminal says how wide it is."""
    table = Table(title=title)
    timed = any("images_per_s" in row for row in rows.values())
    columns = ["system", "mIoU", "tokens in", "tokens out", "GMACs"]
    for column in [*columns, *(["images/s", "speed-up"] if timed else [])]:
        table.add_column(column, justify="left" if column == "system" else "right")
    for name, row in rows.items():
        cells = [
            name,
            f"{row['mIoU']:.2f}",
            f"{row['tokens_per_stage'][0]:.0f}",
            f"{row['tokens_per_stage'][-1]:.0f}",
            f"{row['gmacs_mean']:.3f}",
        ]
        if timed:
            cells += [f"{row['images_per_s']:.1f}", f"{row['speedup']:.2f}x"]
        table.add_row(*cells)
    show_table(table)

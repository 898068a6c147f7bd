"""How many images per second the loading side delivers, to compare with what training consumes."""

from __future__ import annotations

import time
from typing import Any

from stepseg.data.loader import TrainLoader


def measure_loader(
    loader: TrainLoader, warmup_batches: int = 2, batches: int = 20
) -> dict[str, Any]:
    """Draw batches as fast as they come; returns plain values for `result.json`.

    Workers fetch ahead while nothing is drawn, so the warm-up should empty what they prepared: at
    least two batches per worker.
    """
    iterator = iter(loader)
    for _ in range(warmup_batches):
        next(iterator)
    started = time.perf_counter()
    images = sum(len(next(iterator)["name"]) for _ in range(batches))
    seconds = time.perf_counter() - started
    return {
        "images": images,
        "seconds": seconds,
        "num_workers": loader.num_workers,  # 0: the main process loads
        "images_per_s": images / seconds,
        "images_per_s_per_worker": images / seconds / max(1, loader.num_workers),
    }

"""How many images per second the loading side delivers, to compare with what training consumes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sized
from dataclasses import asdict, dataclass
from typing import Any

from torch.utils.data import DataLoader


@dataclass(frozen=True)
class LoaderSpeed:
    """A measurement of one loader."""

    images: int
    """Images counted, after the warm-up."""
    seconds: float
    num_workers: int
    """0: the main process loads."""

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds

    @property
    def images_per_s_per_worker(self) -> float:
        return self.images_per_s / max(1, self.num_workers)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for result.json."""
        return asdict(self) | {
            "images_per_s": self.images_per_s,
            "images_per_s_per_worker": self.images_per_s_per_worker,
        }


def measure_loader(
    loader: DataLoader[Any], warmup_batches: int = 2, batches: int = 20
) -> LoaderSpeed:
    """Draw batches as fast as they come.

    Workers fetch ahead while nothing is drawn, so the warm-up should empty what they prepared: at
    least two batches per worker.

    Raises:
        ValueError: the loader is empty.
    """
    iterator = iter(_endless(loader))
    for _ in range(warmup_batches):
        next(iterator)
    images = 0
    started = time.perf_counter()
    for _ in range(batches):
        images += len(next(iterator)["name"])
    seconds = time.perf_counter() - started
    return LoaderSpeed(images=images, seconds=seconds, num_workers=loader.num_workers)


def _endless(loader: Iterable[Any]) -> Iterable[Any]:
    if isinstance(loader, Sized) and _length(loader) == 0:
        raise ValueError("the loader has no batches to measure")
    while True:
        yield from loader


def _length(loader: Sized) -> int | None:
    try:
        return len(loader)
    except TypeError:  # endless training loaders have no length
        return None

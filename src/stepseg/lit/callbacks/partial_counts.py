"""Writes down what a test has counted, and goes on from what an earlier run wrote."""

import time
from collections.abc import Mapping
from typing import Any

import lightning as L

from stepseg.grid.partial_counts import Part, Snapshots
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.lit.segmentation_module import SegmentationModule


class SnapshotCallback(L.Callback):
    """Snapshots of a pass over the test data.

    Args:
        seconds: about this much work is lost when the process is killed.

    """

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = seconds
        self.snapshots: Snapshots
        """Of the pass; set before every test."""
        self.earlier: Part | None = None
        """What earlier runs of this pass have counted."""
        self._images: list[str] = []
        self._written = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Join what earlier runs left and leave their images out."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, SegmentationDataModule)
        if trainer.is_global_zero:
            names = [pair.name for pair in datamodule.dataset("test").pairs]
            self.snapshots.join(names, trainer.world_size)
        trainer.strategy.barrier()
        self.earlier = self.snapshots.joined()
        datamodule.skip(self.earlier.images if self.earlier else ())

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationModule)
        self._images, self._written = [], time.monotonic()
        if self.earlier and trainer.is_global_zero:
            self._images = list(self.earlier.images)
            pl_module.evaluator.add(self.earlier.sums)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, SegmentationModule)
        self._images += batch["name"]
        if time.monotonic() - self._written < self.seconds:
            return
        self.snapshots.write(trainer.global_rank, self._images, pl_module.evaluator.sums())
        self._written = time.monotonic()

"""Counts the unreadable training images that `data.on_error=skip` left out."""

from collections import Counter
from typing import Any

import lightning as L

from stepseg.lit.metrics import of_all_ranks
from stepseg.telling import tell

LISTED = 100


class BrokenImages(L.Callback):
    """Which files were left out, and how often; survives resuming, over all ranks."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for file in batch.get("broken", ()):
            if file not in self.counts:
                tell(f"left out: {file}")
            self.counts[file] += 1

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["broken_images"] = dict(self.all_ranks())

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.is_global_zero:  # sums over ranks: one rank goes on with them
            self.counts = Counter(checkpoint.get("broken_images", {}))

    def all_ranks(self) -> Counter[str]:
        """Counts over all ranks; all ranks call this."""
        return sum(of_all_ranks(self.counts), Counter())

    def figures(self) -> dict[str, Any]:
        """For `result.json`; empty where all images were read."""
        counts = self.all_ranks()
        if not counts:
            return {}
        listed = dict(counts.most_common(LISTED))
        return {
            "broken_images": {"files": len(counts), "left_out": counts.total(), "listed": listed}
        }

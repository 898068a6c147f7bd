"""IoU of every class at every validation, as one table instead of a scalar per class."""

from pathlib import Path

import lightning as L

from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.lit.tracking.record import log_table


class PerClass(L.Callback):
    """Logs ``val/per_class_IoU``: class, percent; empty for classes that do not occur."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not isinstance(pl_module, SegmentationModule):
            return
        if trainer.is_global_zero:
            rows = list(
                zip(pl_module.spec.classes, pl_module.results[-1]["per_class_IoU"], strict=True)
            )
            log_table(
                trainer.loggers, self.folder, "val/per_class_IoU", ("class", "IoU"), rows,
                trainer.global_step,
            )  # fmt: skip

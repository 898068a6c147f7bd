"""The same few validation images at every validation: prediction, label, superpatches, exits.

Drawn once and handed to all loggers. Drawing is an extra forward pass of the model in evaluation
mode, with the random numbers put back: training does not notice.
"""

from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from stepseg.grid import segment_all
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.lit.tracking.record import log_snapshots
from stepseg.metrics.calibration import resize_labels
from stepseg.pictures.example import Snapshot, take_snapshot
from stepseg.protocol import Protocol, show_first


class Pictures(L.Callback):
    """Shows fixed images, spread evenly over the validation set, how far training has come.

    Under a protocol with sliding windows they are the middle window: superpatches and exits belong
    to one view of the model.

    Args:
        count: how many images.
        every_n_validations: draw at every n-th validation and at the last.
        max_side: larger pictures are thinned out.
        keep: how many validations stay on disk as PNG files.

    Raises:
        ValueError: a number below one.

    """

    def __init__(
        self,
        folder: str | Path,
        *,
        count: int = 8,
        every_n_validations: int = 1,
        max_side: int = 1024,
        keep: int = 3,
    ) -> None:
        if min(count, every_n_validations, max_side, keep) < 1:
            raise ValueError(
                "callbacks.pictures takes numbers from 1, got "
                f"{count=}, {every_n_validations=}, {max_side=}, {keep=}; "
                "callbacks.pictures=null turns it off"
            )
        self.folder, self.count, self.keep = Path(folder), count, keep
        self.every_n_validations, self.max_side = every_n_validations, max_side
        self._validations = 0
        self._samples: list[tuple[str, Tensor, Tensor]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not isinstance(pl_module, SegmentationModule):
            return
        self._validations += 1
        last = trainer.global_step >= trainer.max_steps
        due = last or self._validations % self.every_n_validations == 0
        if not (due and trainer.is_global_zero):
            return
        if not self._samples:
            self._samples = self._load(trainer, pl_module.protocol)
        with isolate_rng(), trainer.precision_plugin.val_step_context():
            shots = [self._draw(pl_module, *sample) for sample in self._samples]
        log_snapshots(
            trainer.loggers, self.folder, "val/pictures", shots, trainer.global_step, self.keep
        )

    def _load(self, trainer: L.Trainer, protocol: Protocol) -> list[tuple[str, Tensor, Tensor]]:
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, SegmentationDataModule)
        dataset = datamodule.dataset("val")
        samples = [dataset[index] for index in spread(len(dataset), self.count)]
        return [(s["name"], *model_view(s["image"], s["label"], protocol)) for s in samples]

    def _draw(
        self, module: SegmentationModule, name: str, image_3HW: Tensor, label_HW: Tensor
    ) -> Snapshot:
        image = image_3HW[None].to(module.device).float() / 255
        label = label_HW[None].to(module.device)
        (output,) = segment_all(module.model, module.evaluator.reductions[-1:], image, label)
        return take_snapshot(
            name,
            image_3HW.permute(1, 2, 0).contiguous().numpy(),
            label_HW.numpy().astype(np.uint8),
            output.prediction()[0].cpu().numpy().astype(np.uint8),
            output,
            module.spec,
            self.max_side,
        )


def spread(length: int, count: int) -> list[int]:
    """`count` indices in even distances over `length`, all of them if there are fewer."""
    count = min(length, count)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def model_view(image_3HW: Tensor, label_HW: Tensor, protocol: Protocol) -> tuple[Tensor, Tensor]:
    """What the model sees at once: the resized image, or the middle window of it.

    Args:
        image_3HW: uint8.
        label_HW: uint8.

    """
    shown_3HW = show_first(image_3HW[None], protocol)[0]
    height, width = shown_3HW.shape[1:]
    image_3HW = (shown_3HW * 255).round().clamp(0, 255).to(torch.uint8)
    label_HW = resize_labels(label_HW[None], (height, width))[0].to(torch.uint8)
    if protocol.crop is not None:
        top, left = (
            max(0, a - c) // 2 for a, c in zip((height, width), protocol.crop, strict=True)
        )
        rows, columns = (slice(a, a + c) for a, c in zip((top, left), protocol.crop, strict=True))
        image_3HW, label_HW = image_3HW[:, rows, columns], label_HW[rows, columns]
    return image_3HW, label_HW

"""What runs here, told before it runs: folder, device, data, model, length."""

from pathlib import Path

import lightning as L
from torch import nn

from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.profile.benchmark import hardware
from stepseg.telling import counted, tell


class Opening(L.Callback):
    """Tells it once, from the first process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._tell(trainer, pl_module, ("train", "val"))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._tell(trainer, pl_module, ("test",))

    def _tell(self, trainer: L.Trainer, module: L.LightningModule, splits: tuple[str, ...]) -> None:
        if self._told or not trainer.is_global_zero:
            return
        self._told = True
        device = trainer.strategy.root_device
        processes = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
        tell(f"output  {self.folder}")
        tell(f"device  {device}: {hardware(device)}{processes}; {trainer.precision}")
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, SegmentationDataModule):
            counts = ", ".join(f"{len(data.dataset(split))} {split}" for split in splits)
            tell(f"data    {data.spec.name}: {counts}; {data.num_classes} classes")
        tell(f"model   {parameters(module)}")
        if "train" in splits:
            interval = trainer.val_check_interval
            often = f", a validation every {interval} batches" if interval != 1.0 else ""
            tell(f"length  {counted(trainer.max_steps, 'step')}{often}")


def parameters(module: nn.Module) -> str:
    """Numbers of parameters by part, in millions, and of those that take gradients."""
    counts = {}
    for name, part in getattr(module, "model", module).named_children():
        numbers = [(p.numel(), p.requires_grad) for p in part.parameters()]
        learn = sum(number for number, learns in numbers if learns)
        counts[name.replace("_", " ")] = sum(number for number, _ in numbers), learn
    total = sum(count for count, _ in counts.values())
    learning = sum(learn for _, learn in counts.values())
    listed = ", ".join(
        f"{name} {count / 1e6:.2f}{' frozen' if learning and not learn else ''}"
        for name, (count, learn) in counts.items()
        if count
    )
    more = f", {learning / 1e6:.2f} M learn" if learning else ""
    return f"{total / 1e6:.2f} M parameters ({listed}){more}"

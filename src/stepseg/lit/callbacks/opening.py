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
    """Numbers of parameters by part, in millions."""
    model = getattr(module, "model", module)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts(model)}
    learning = {name: learnable(part) for name, part in parts(model)}
    learn = f", {sum(learning.values()) / 1e6:.2f} M learn" if any(learning.values()) else ""
    listed = ", ".join(
        f"{name} {count / 1e6:.2f}{' frozen' if learn and not learning[name] else ''}"
        for name, count in counts.items()
        if count
    )
    return f"{sum(counts.values()) / 1e6:.2f} M parameters ({listed}){learn}"


def learnable(module: nn.Module) -> int:
    """Number of parameters that take gradients."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The model's children, in words."""
    return [(name.replace("_", " "), part) for name, part in model.named_children()]

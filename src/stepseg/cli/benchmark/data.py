"""The loading side of `stepseg-benchmark data=...`: can the workers keep a training busy?

Both sides are measured alone: how many images per second one loader worker delivers, augmented, and
how many a training step of each system consumes, with a batch that lies ready.
"""

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from stepseg.build import build_segmenter
from stepseg.checkpoint import Checkpoint
from stepseg.cli.benchmark.options import Options
from stepseg.data.speed import measure_loader
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.lit.optim import adamw
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.macs import count_macs, total_macs
from stepseg.model import Reduction
from stepseg.model_config import ModelConfig
from stepseg.profile.speed import speedup, time_interleaved
from stepseg.reduction import label_of
from stepseg.telling import show_table

LOADER_BATCHES = 12


def measure_data(
    datamodule: SegmentationDataModule,
    config: ModelConfig,
    checkpoint: Checkpoint | None,
    reductions: Mapping[str, Reduction],
    options: Options,
    *,
    iterations: int,
) -> dict[str, Any]:
    """Images per second of the loader and of training steps, shown and for `result.json`.

    Args:
        datamodule: crops, batches and workers as in a training.
        config: of the model.
        checkpoint: its weights; None: random ones.
        reductions: systems by name, with token counts for the grid of the crop.
        options: with device and dtype; bf16 trains under autocast, fp32 without.
        iterations: timed steps of every system.

    """
    device, dtype = options.device, options.dtype
    datamodule.prepare_data()
    loader = datamodule.train_dataloader()
    ahead = 2 * max(1, datamodule.num_workers)  # empty what the workers fetched ahead
    loading = measure_loader(loader, warmup_batches=ahead, batches=LOADER_BATCHES)
    batch = {k: v.to(device) for k, v in next(iter(loader)).items() if isinstance(v, Tensor)}
    steps = {
        name: _TrainingStep(config, checkpoint, reduction, datamodule, batch, dtype)
        for name, reduction in reductions.items()
    }
    training = _training_rows(steps, iterations, device, datamodule.batch_size)
    for row in training:
        row["system"] = label_of(row["name"], reductions[row["name"]].exit_blocks)
        needed = row["images_per_s"] / loading["images_per_s_per_worker"]
        row["workers_needed"] = math.ceil(needed)
    figures = {
        "name": datamodule.spec.name,
        "crop_size": list(datamodule.crop_size),
        "batch_size": datamodule.batch_size,
        "loader": loading,
        "training": training,
    }
    show_table(_table(figures))
    return figures


def _training_rows(
    steps: Mapping[str, "_TrainingStep"], iterations: int, device: torch.device, batch_size: int
) -> list[dict[str, Any]]:
    """Time and operations of the steps, in turns; compared with the first."""
    timings = time_interleaved(steps, warmup=2, iterations=iterations, device=device)
    macs = {name: step.forward_gmacs() for name, step in steps.items()}
    first, *_ = timings
    rows = []
    for name, timing in timings.items():
        gain = speedup(timings[first], timing)
        rows.append(
            {
                "name": name,
                "images_per_s": timing.images_per_s(batch_size),
                "step_ms_p50": timing.p50_ms,
                "peak_memory_mb": timing.peak_memory_mb,
                "forward_gmacs": macs[name],
                "speedup": gain,
                "realisation": gain / (macs[first] / macs[name]),
            }
        )
    return rows


def _table(figures: Mapping[str, Any]) -> Table:
    loader = figures["loader"]
    height, width = figures["crop_size"]
    title = (
        f"training on {figures['name']}, {width} x {height}, batch {figures['batch_size']}; the "
        f"loader delivers {loader['images_per_s_per_worker']:.1f} images/s per worker"
    )
    table = Table(title=title)
    columns = (
        "system", "forward GMACs", "training images/s", "MiB", "speed-up", "realised",
        "workers needed",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "system" else "right")
    for row in figures["training"]:
        table.add_row(
            row["system"],
            f"{row['forward_gmacs']:.2f}",
            f"{row['images_per_s']:.2f}",
            f"{row['peak_memory_mb']:.0f}",
            f"{row['speedup']:.2f}x",
            f"{row['realisation']:.2f}",
            str(row["workers_needed"]),
        )
    return table


class _TrainingStep:
    """One whole optimiser step on the same batch: forward, losses, backward, update."""

    def __init__(
        self,
        config: ModelConfig,
        checkpoint: Checkpoint | None,
        reduction: Reduction,
        datamodule: SegmentationDataModule,
        batch: Mapping[str, Tensor],
        dtype: torch.dtype,
    ) -> None:
        self.module = SegmentationModule(
            config=config,
            spec=datamodule.spec,
            protocol=datamodule.protocol,
            model=checkpoint.build() if checkpoint else build_segmenter(config),
        )
        self.device, self.dtype = batch["image"].device, dtype
        self.module.to(self.device).train()
        self.optimizer = adamw([{"params": list(self.module.model.parameters())}], lr=1e-5)
        self.images, self.labels = batch["image"].float() / 255, batch["label"].long()
        self.reduction = reduction

    def __call__(self) -> None:
        with torch.enable_grad():
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16
            ):
                output = self.module.model(self.images, self.labels, self.reduction)
                loss = torch.stack(list(self.module.losses(output, self.labels).values())).sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def forward_gmacs(self) -> float:
        """Of one image in training, when every exit head and a policy that learns are computed."""
        output = self.module.model(self.images, self.labels, self.reduction)
        return fmean(total_macs(count_macs(self.module.model, output))) / 1e9

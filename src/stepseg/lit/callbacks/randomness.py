"""Dropout and drop path of a batch as a function of (seed, batch, rank): the same on resume."""

from typing import Any

import lightning as L
import torch

from stepseg.data.sampler import mixed_seed


class BatchRandomness(L.Callback):
    """Seeds PyTorch before every training batch.

    The order and augmentation of samples have numbers of their own (`stepseg.data.sampler`), so
    nothing random depends on how often a run was interrupted.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(mixed_seed(self.seed, batch_idx, trainer.global_rank))

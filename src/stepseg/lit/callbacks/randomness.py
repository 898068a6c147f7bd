"""Dropout and drop path of a batch as a function of (seed, batch, rank): the same on resume."""

from typing import Any

import lightning as L
import numpy as np
import torch


class BatchRandomness(L.Callback):
    """Seeds PyTorch before every training batch.

    The order and augmentation of samples have numbers of their own (`stepseg.data.sampler`), so
    nothing random depends on how often a run was interrupted.

    Args:
        seed: of the run.

    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(batch_seed(self.seed, batch_idx, trainer.global_rank))


def batch_seed(seed: int, batch: int, rank: int) -> int:
    """A well mixed 63-bit seed."""
    state = np.random.SeedSequence([seed, batch, rank]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))

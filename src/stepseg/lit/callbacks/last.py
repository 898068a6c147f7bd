"""The checkpoint to resume from: every n steps and after every validation, with its predecessor.

A resumed run continues at this checkpoint and repeats what came after it, hence it is saved where
nothing of a step is pending: after the optimiser has stepped, and, where a validation follows,
after that validation with its rows and its best checkpoint.
"""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from stepseg.lit.stopping import LAST, NEXT, PREVIOUS


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt` and, in case that gets damaged, `previous.ckpt`.

    A new one is written whole as `next.ckpt`; then two renames make it `last.ckpt`.

    Args:
        every_n_steps: optimiser steps from one to the next.

    """

    def __init__(self, dirpath: str | Path, every_n_steps: int = 100) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.folder, self.every_n_steps = Path(dirpath), every_n_steps
        self.saved_step: int | None = None

    @property
    def path(self) -> Path:
        return self.folder / LAST

    @property
    def saved(self) -> Path | None:
        """The newest checkpoint, if there is one."""
        return self.path if self.path.is_file() else None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            for leftover in self.folder.glob(".*.ckpt.*"):  # of a writer that was killed
                leftover.unlink(missing_ok=True)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0 and is_boundary(trainer, batch_idx):
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> Path:
        """Save this step unless it is saved already; all ranks call this."""
        if self.saved_step != trainer.global_step:
            self.saved_step = trainer.global_step
            trainer.save_checkpoint(self.folder / NEXT)
            if trainer.is_global_zero:
                if self.path.exists():
                    self.path.replace(self.folder / PREVIOUS)
                (self.folder / NEXT).replace(self.path)
        return self.path

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: which step is saved is a matter of this process."""


def is_boundary(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether the batch that has just ended completes a step and no validation follows it."""
    batches = batch_idx + 1
    if batches % trainer.accumulate_grad_batches:
        return False
    every: Any = trainer.val_check_batch  # infinite without validation
    return not trainer.enable_validation or bool(batches % every)

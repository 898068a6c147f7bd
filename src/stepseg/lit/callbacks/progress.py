"""Progress that reads well in a terminal and in a log file alike."""

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only

from stepseg.telling import tell


class LineProgress(ProgressBar):
    """Plain lines every few steps, after validations and in tests: for files and batch systems.

    Args:
        every_n_steps: of the optimiser.
        every_n_seconds: in tests, besides a line at their end.

    """

    def __init__(self, every_n_steps: int = 50, every_n_seconds: float = 10.0) -> None:
        super().__init__()
        self.every_n_steps, self.every_n_seconds = every_n_steps, every_n_seconds
        self._enabled = True
        self._started = (0.0, 0)
        self._said = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = (time.perf_counter(), trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any
    ) -> None:
        step = trainer.global_step
        if step == 0 or (step % self.every_n_steps and step != trainer.max_steps):
            return
        start, first = self._started
        per_step = (time.perf_counter() - start) / max(1, step - first)
        left = per_step * max(0, trainer.max_steps - step)
        loss = trainer.callback_metrics.get("train/loss")
        shown = f"loss {float(loss):.3f}  " if loss is not None else ""
        self._say(
            f"step {step}/{trainer.max_steps}  {shown}{per_step:.2f} s/step  {_clock(left)} left"
        )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tell_validation(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = (time.perf_counter(), 0)
        self._said = self._started[0]

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        done, total = batch_idx + 1, int(trainer.num_test_batches[0])
        now = time.perf_counter()
        if now - self._said < self.every_n_seconds and done < total:
            return
        self._said = now
        per_batch = (now - self._started[0]) / done
        left = per_batch * (total - done)
        self._say(f"batch {done}/{total}  {per_batch:.2f} s/batch  {_clock(left)} left")

    @rank_zero_only
    def _say(self, line: str) -> None:
        if self._enabled:
            tell(line)


class BarProgress(TQDMProgressBar):
    """A bar, and a line above it for every validation."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        tell_validation(trainer)


@rank_zero_only
def tell_validation(trainer: L.Trainer) -> None:
    """The figure of a validation as it comes."""
    for name in ("mIoU", "mAP"):
        value = trainer.callback_metrics.get(f"val/{name}")
        if value is not None and not trainer.sanity_checking:
            tell(f"step {trainer.global_step}/{trainer.max_steps}  {name} {float(value):.2f}")


def progress(every_n_steps: int = 50) -> ProgressBar:
    """A bar where a person watches, lines where a file is written."""
    return BarProgress() if sys.stderr.isatty() else LineProgress(every_n_steps)


def _clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

"""Progress that reads well in a terminal and in a log file alike."""

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only


class LineProgress(ProgressBar):
    """One plain line every few steps and after every validation: for files and batch systems.

    Args:
        every_n_steps: of the optimiser.

    """

    def __init__(self, every_n_steps: int = 50) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps
        self._enabled = True
        self._started = (0.0, 0)

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = (time.perf_counter(), trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step == 0 or (step % self.every_n_steps and step != trainer.max_steps):
            return
        start, first = self._started
        per_step = (time.perf_counter() - start) / max(1, step - first)
        left = int(per_step * max(0, trainer.max_steps - step))
        loss = trainer.callback_metrics.get("train/loss")
        shown = f"loss {float(loss):.3f}  " if loss is not None else ""
        self._say(
            f"step {step}/{trainer.max_steps}  {shown}{per_step:.2f} s/step  "
            f"{left // 60}:{left % 60:02d} left"
        )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metric = trainer.callback_metrics.get("val/mIoU")
        if metric is not None and not trainer.sanity_checking:
            self._say(f"step {trainer.global_step}/{trainer.max_steps}  mIoU {float(metric):.2f}")

    @rank_zero_only
    def _say(self, line: str) -> None:
        if self._enabled:
            print(line, file=sys.stderr, flush=True)


def progress(every_n_steps: int = 50) -> ProgressBar:
    """A bar where a person watches, lines where a file is written."""
    return TQDMProgressBar() if sys.stderr.isatty() else LineProgress(every_n_steps)

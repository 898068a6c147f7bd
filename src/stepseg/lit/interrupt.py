"""SIGTERM, SIGUSR1 and Ctrl-C in training: finish the step, save, end with a word how to go on.

Batch systems send SIGTERM or SIGUSR1 some time before they kill. The handler only notes the
signal: saving inside a handler meets a step half done, and with several processes a collective
half done.
"""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from stepseg.lit.callbacks.last import LastCheckpoint, is_boundary
from stepseg.lit.stopping import SIGNALS, TrainingInterrupted


class StopOnSignal(Checkpoint):
    """Ends training after the step in which a signal came, on all ranks together.

    A validation that is due or running is finished first: it belongs to its step. A second Ctrl-C
    ends at once. (A `Checkpoint` for Lightning's order: it has to run behind those that save.)

    Args:
        moved: called after every batch, for the watch over signals that are not obeyed.

    """

    def __init__(self, moved: Callable[[], None]) -> None:
        super().__init__()
        self._moved = moved
        self._received = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Replaces Lightning's handler of SIGTERM, which broadcasts in the middle of a step.
        for signum in SIGNALS:
            try:
                self._previous[signum] = signal.signal(signum, self._note)
            except ValueError:  # not in the main thread
                return

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._moved()
        if is_boundary(trainer, batch_idx):
            self._stop_if_asked(trainer)

    def on_validation_batch_end(self, *batch: Any) -> None:
        self._moved()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._stop_if_asked(trainer)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._received == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signum

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        received = self._received
        if trainer.world_size > 1:
            # Ranks get the signal at different steps, or only some of them do.
            mine = torch.tensor(received, device=trainer.strategy.root_device)
            received = int(trainer.strategy.reduce(mine, reduce_op="max"))  # a wait per step
        if not received:
            return
        last = next(
            (c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)), None
        )
        raise TrainingInterrupted(
            received, trainer.global_step, last.save(trainer) if last else None
        )

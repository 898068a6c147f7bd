"""What a signal means to a training, for commands as well that never import Lightning."""

import signal
from pathlib import Path

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)

LAST, NEXT, PREVIOUS = "last.ckpt", "next.ckpt", "previous.ckpt"
"""Where a training goes on, the one that is being written, and the one before."""

REQUEUE_EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: a signal stopped the training, and the same command continues it."""


class TrainingInterrupted(BaseException):
    """A signal ended the training, after it was saved.

    Args:
        step: optimiser steps done.
        checkpoint: where the training goes on; None: nothing is saved.

    """

    def __init__(self, signum: int, step: int, checkpoint: Path | None) -> None:
        self.signal, self.step, self.checkpoint = signal.Signals(signum), step, checkpoint
        saved = f"saved in {checkpoint}" if checkpoint else "nothing is saved (no callbacks.last)"
        super().__init__(f"interrupted by {self.signal.name} after step {step}, {saved}")

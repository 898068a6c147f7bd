"""A callback for tests: one rank of a training dies at a step, as if the kernel had killed it."""

import os
import signal
from pathlib import Path

import lightning as L


class KillRank(L.Callback):
    """Kills `rank` after `step` of the `unlucky` seed, unless `marker` says that it did before."""

    def __init__(self, rank, step, seed, unlucky, marker):
        self.rank, self.marker = rank, Path(marker)
        self.step = step if seed == unlucky else None

    def on_train_batch_end(self, trainer, *_):
        here = trainer.global_step == self.step and trainer.global_rank == self.rank
        if here and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

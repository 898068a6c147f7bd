"""A callback for tests: notes which process made which step of a training, and takes its time."""

import os
import time
from pathlib import Path

import lightning as L


class Diary(L.Callback):
    """Appends ``pid step seconds`` to `file` after every step, then waits `pause` seconds."""

    def __init__(self, file, pause=0.0):
        self.file, self.pause = Path(file), pause

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_rank == 0:
            with open(self.file, "a") as file:
                file.write(f"{os.getpid()} {trainer.global_step} {time.time():.1f}\n")
        time.sleep(self.pause)


def read_diary(file):
    """Steps by process, in the order in which the processes began.

    Fails where two processes worked at the same time.
    """
    steps = {}
    for line in Path(file).read_text().splitlines():
        pid, step, _ = line.split()
        assert pid not in steps or pid == list(steps)[-1], f"{file}: two at once"
        steps.setdefault(pid, []).append(int(step))
    return list(steps.values())

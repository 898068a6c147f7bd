"""The configuration of a run, handed to its loggers when the trainer has started its processes."""

from collections.abc import Mapping
from typing import Any

import lightning as L

from stepseg.lit.tracking.record import log_config


class RunConfig(L.Callback):
    """Logs plain nested values once.

    Args:
        values: configuration, versions, commit.

    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)
        self._done = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not self._done and trainer.is_global_zero:
            log_config(trainer.loggers, self.values)
        self._done = True

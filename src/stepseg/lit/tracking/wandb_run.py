"""A Weights & Biases run that never asks, never waits for long and never stops a training.

Without an API key, or when the server does not answer in time, the run goes to the disk and one
line says so; `wandb sync` uploads it later. Which run it is (id, group, name) is decided by the
commands.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger

from stepseg.masking import masked_text

log = logging.getLogger(__name__)

MODES = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""What may be configured, with W&B's older words, and what it means."""

STEP = "trainer/global_step"
"""The x-axis of everything that is logged."""

BEST = {
    "max": ("mIoU", "mAcc", "aAcc", "fwIoU", "boundary_IoU", "mAP", "AP_*"),
    "min": ("loss",),
}
"""Which extreme of a validation figure its summary keeps, beside the last value."""


class WandbRun(WandbLogger):
    """Lightning's logger around one W&B run of this process's first rank.

    Args:
        save_dir: the run's files go into its folder `wandb`.
        mode: online, offline (files only) or disabled.
        init_timeout: seconds that the server has to answer before the run goes offline.
        finish_timeout: seconds that the upload may take after the job's end; 0 waits for ever.
        tags: of the run; None among them is left out.
        init: further arguments of `wandb.init`: id, name, group, job_type, entity, notes.

    Raises:
        ValueError: an unknown mode.

    """

    def __init__(
        self,
        *,
        save_dir: str | Path,
        project: str = "stepseg",
        mode: str = "online",
        init_timeout: float = 30.0,
        finish_timeout: float = 600.0,
        tags: list[str | None] | None = None,
        **init: Any,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"logger.wandb.mode={mode!r}: choose online, offline or disabled")
        super().__init__(
            project=project,
            save_dir=str(save_dir),
            tags=[tag for tag in tags or () if tag],
            reinit="finish_previous",  # never write into the run of an earlier job
            **init,
        )
        self.mode = MODES[mode]
        self.init_timeout, self.finish_timeout = init_timeout, finish_timeout

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; the first use starts it."""
        if self._experiment is None:
            self._experiment = self._start()
            define_metrics(self._experiment)
        return self._experiment

    def _start(self) -> Any:
        import wandb

        init: dict[str, Any] = {
            key: value for key, value in self._wandb_init.items() if value is not None
        }
        init["settings"] = wandb.Settings(
            init_timeout=self.init_timeout, finish_timeout=self.finish_timeout
        )
        Path(init["dir"]).mkdir(parents=True, exist_ok=True)
        with _masked_arguments():
            return self._init(wandb, init)

    def _init(self, wandb: Any, init: dict[str, Any]) -> Any:
        if self.mode != "online":
            return wandb.init(**init | {"mode": self.mode})
        try:
            if wandb.login(prompt=False, verify=False):
                return wandb.init(**init, mode="online")
            reason = "there is no API key (`wandb login` or WANDB_API_KEY gives one)"
        except wandb.errors.Error as error:
            reason = str(error).splitlines()[0]
            wandb.teardown()  # its service still holds the id of the run that did not come about
        log.warning("W&B: %s; this run is kept on disk, `wandb sync` uploads it later", reason)
        return wandb.init(**init, mode="offline")


@contextmanager
def _masked_arguments() -> Iterator[None]:
    """W&B notes the command line of the process: let it see no secrets there."""
    typed = sys.argv
    sys.argv = [masked_text(argument) for argument in typed]
    try:
        yield
    finally:
        sys.argv = typed


def define_metrics(run: Any) -> None:
    """Plot everything over the optimiser's steps; summaries keep the best validation figures."""
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    for extreme, names in BEST.items():
        for name in names:
            run.define_metric(
                f"val/{name}", step_metric=STEP, step_sync=True, summary=f"{extreme},last"
            )

"""How a command ends: its exit code, and one message where a traceback would help nobody.

Imports no PyTorch: what is typed wrong is told before that.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from stepseg.cli.failures import RunFailedError, one_message
from stepseg.cli.result import is_first_process
from stepseg.lit.stopping import REQUEUE_EXIT_CODE, TrainingInterrupted
from stepseg.telling import tell

EXPECTED_ERRORS = (ValueError, FileNotFoundError, NotADirectoryError)
"""What bad input raises: shown as one message, without a traceback."""


def run_command(name: str, task: Callable[[], Any]) -> Any:
    """Run a command: bad input ends in one message, everything else in a traceback.

    In a sweep the exception passes, so that the launcher sees it.
    """
    try:
        return task()
    except EXPECTED_ERRORS as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        tell(f"{name}: error: {one_message(error)}")
        sys.exit(2)
    except RunFailedError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        tell(f"{name}: failed: {error}")
        sys.exit(1)
    except TrainingInterrupted as stop:
        sys.exit(_interrupted(name, stop))
    except KeyboardInterrupt:
        tell(f"{name}: interrupted")
        sys.exit(130)


def _interrupted(name: str, stop: TrainingInterrupted) -> int:
    """Say how to go on; returns the exit code."""
    if not is_first_process():
        return 0  # the first process speaks for all; another code would have it killed
    tell(f"{name}: {stop}")
    if stop.checkpoint is not None:
        again = f"hydra.run.dir={HydraConfig.get().runtime.output_dir} ckpt_path=last"
        tell(f"{name}: go on with the same command and {again}")
        job = os.environ.get("SLURM_JOB_ID")
        if job:
            tell(f"{name}: or, with these in the job script: scontrol requeue {job}")
    return 130 if stop.signal == signal.SIGINT else REQUEUE_EXIT_CODE

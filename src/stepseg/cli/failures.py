"""What goes wrong in a run that is well configured, told with what helps against it."""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from omegaconf.errors import OmegaConfBaseException

from stepseg.lit.ranks import WatchedDDP


class RunFailedError(RuntimeError):
    """A failure with a message that says all: shown without a traceback."""


@contextmanager
def clear_failures(
    values: Mapping[str, Any], trainer: L.Trainer, on_death: Callable[[str], None]
) -> Iterator[None]:
    """Turn failures of machine, memory, disk and other processes into messages with a remedy.

    Args:
        values: the configuration.
        trainer: of the run.
        on_death: called with a message where another process has died and this one cannot go on.

    """
    ranks = trainer.strategy
    if isinstance(ranks, WatchedDDP):
        ranks.on_death = on_death
    try:
        yield
    except Exception as error:
        message = None
        if isinstance(ranks, WatchedDDP) and not isinstance(error, ValueError):
            message = ranks.failure(error)
        message = message or explain(error, values)
        if message is None:
            raise
        raise RunFailedError(message) from error


def explain(error: BaseException, values: Mapping[str, Any]) -> str | None:
    """What to do about an error, or None where the error speaks for itself."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of GPU memory: {_smaller(values)} ({text.splitlines()[0]})"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return f"out of memory: {_smaller(values)} ({text.splitlines()[0] if text else 'host'})"
    if "DataLoader worker" in text and ("killed" in text or "Bus error" in text):
        workers = values["data"].get("num_workers")
        return (
            f"a loader process was killed, most often for want of memory: lower data.num_workers "
            f"({workers}) or give more shared memory (docker --shm-size) ({text.splitlines()[0]})"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"no space left to write {error.filename or 'a file'}: nothing is half written, the "
            f"checkpoints before it are kept. Make room and continue with ckpt_path=last"
        )
    return None


def one_message(error: BaseException) -> str:
    """The message alone; an error out of a loader process carries a traceback along."""
    text = str(error)
    if isinstance(error, OmegaConfBaseException):
        return " ".join(text.split())
    if "Original Traceback" not in text:
        return text
    return text.strip().splitlines()[-1].partition(": ")[2]


def _smaller(values: Mapping[str, Any]) -> str:
    data, trainer, backbone = values["data"], values["trainer"], values.get("backbone")
    advice = [f"data.val_batch_size ({data.get('val_batch_size')})"]
    also = []
    if str(trainer.get("precision")).startswith("32"):
        also.append("trainer.precision=bf16-mixed")
    if backbone is not None:  # a training
        advice[:0] = [
            f"data.batch_size ({data.get('batch_size')}; trainer.accumulate_grad_batches makes up "
            f"for it)",
            f"data.crop_size ({data.get('crop_size')})",
        ]
        if not backbone.get("checkpoint_blocks"):
            also.append("backbone.checkpoint_blocks=true")
    return f"lower {', '.join(advice)}" + (f", or set {' or '.join(also)}" if also else "")

"""What goes wrong in a run that is well configured, told with what helps against it."""

import errno
from collections.abc import Mapping
from typing import Any

from omegaconf.errors import OmegaConfBaseException


class RunFailedError(RuntimeError):
    """A failure with a message that says all: shown without a traceback."""


def explain(error: BaseException, values: Mapping[str, Any]) -> str | None:
    """What to do about an error, or None where the error speaks for itself."""
    import torch  # not before a command has begun

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
        remedy = "give the same command with the same hydra.run.dir"
        if _is_training(values):
            remedy = "continue with ckpt_path=last: the checkpoints before it are kept"
        return (
            f"no space left to write {error.filename or 'a file'}: nothing is half written. Make "
            f"room and {remedy}"
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
    data, trainer = values["data"], values["trainer"]
    advice = [f"data.val_batch_size ({data.get('val_batch_size')})"]
    also = []
    if str(trainer.get("precision")).startswith("32"):
        also.append("trainer.precision=bf16-mixed")
    if _is_training(values):
        advice[:0] = [
            f"data.batch_size ({data.get('batch_size')}; trainer.accumulate_grad_batches makes up "
            f"for it)",
            f"data.crop_size ({data.get('crop_size')})",
        ]
        if not values["backbone"].get("checkpoint_blocks"):
            also.append("backbone.checkpoint_blocks=true")
    return f"lower {', '.join(advice)}" + (f", or set {' or '.join(also)}" if also else "")


def _is_training(values: Mapping[str, Any]) -> bool:
    """The others take the backbone of a checkpoint."""
    return values.get("backbone") is not None

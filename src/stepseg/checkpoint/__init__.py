"""Checkpoints: reading, writing and sharing them.

`stepseg.checkpoint.checkpoint` has what everybody needs, and its names can be imported from here.
They are loaded on first use, because a model is made with the small modules beside it
(`fit`, `safetensors_file`, `torch_file`), and a checkpoint makes models.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepseg.checkpoint.checkpoint import (
        KEY,
        Checkpoint,
        check_data,
        describe,
        read_checkpoint,
        without_local_paths,
        write_inference_checkpoint,
    )

__all__ = [
    "KEY", "Checkpoint", "check_data", "describe", "read_checkpoint", "without_local_paths",
    "write_inference_checkpoint",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("stepseg.checkpoint.checkpoint"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

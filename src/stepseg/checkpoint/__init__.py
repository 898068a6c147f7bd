"""Checkpoints: reading, writing and sharing them. The names that everybody needs are here."""

from stepseg.checkpoint.checkpoint import (
    Checkpoint,
    check_data,
    describe,
    read_checkpoint,
    without_local_paths,
    write_inference_checkpoint,
)
from stepseg.checkpoint.entry import KEY

__all__ = [
    "KEY", "Checkpoint", "check_data", "describe", "read_checkpoint", "without_local_paths",
    "write_inference_checkpoint",
]  # fmt: skip

"""Checkpoints: reading, writing and sharing them. The names that everybody needs are here."""

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

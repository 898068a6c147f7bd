"""How the trainer writes and reads checkpoints: whole or not at all, and never running code."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from stepseg.writing import write_atomically


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file, waits for the disk, renames; reads tensors and plain values."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Replace `path`; a full disk raises OSError and leaves what stood there."""
        # PyTorch's writer turns a full disk into an unspecific error, a buffer keeps the OSError.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        view = buffer.getbuffer()
        write_atomically(Path(path), lambda file: file.write(view), durable=True)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint on the CPU; whoever asks for less safety does not get it."""
        content: dict[str, Any] = torch.load(
            path, map_location=map_location or "cpu", weights_only=True
        )
        return content

"""How the trainer writes and reads checkpoints: whole or not at all, and never running code."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from stepseg.files.writing import write_atomically
from stepseg.weights.torch_file import read_torch_file

PLACES = {
    "dirpath", "best_model_path", "kth_best_model_path", "last_model_path", "best_k_models",
    "kth_value",
}  # fmt: skip
"""Where Lightning's `ModelCheckpoint` notes files, in its state."""


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
        content: dict[str, Any] = read_torch_file(Path(path))
        forget_files(content)
        return content


def forget_files(content: Mapping[str, Any]) -> None:
    """Drop what callbacks that keep checkpoints noted about where.

    Such a callback deletes and copies what it believes to be its own. A file that somebody made
    could name any; where a run's own files are, the run knows.
    """
    states = content.get("callbacks")
    for state in states.values() if isinstance(states, Mapping) else ():
        if isinstance(state, dict) and PLACES & state.keys():
            for key in PLACES:
                state.pop(key, None)
            state["best_model_path"] = ""  # Lightning's own wants to find one

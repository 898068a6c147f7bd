"""Writing files so that they are never half there.

Imports no torch, so that the processes that draw scenes start fast.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def write_atomically(
    path: Path, write: Callable[[IO[bytes]], object], *, durable: bool = False
) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: complete or absent.

    A full disk or a killed process leaves what stood at `path` before. `durable` waits until the
    bytes are on the disk, so that this also holds for a power failure.

    Raises:
        OSError: no space, no permission; names `path`, and nothing has changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Short, so that what has room for its name can be written.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:48]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes private files; data folders are shared
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a write that fails does not say where
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write uint8 ids [H, W] or RGB [H, W, 3] atomically."""
    # Huffman coding alone: twice as fast on noisy pictures as a search for repetitions.
    options = {"compress_type": 2} if pixels.ndim == 3 else {}
    image = Image.fromarray(pixels)
    write_atomically(path, lambda file: image.save(file, "PNG", compress_level=1, **options))


def write_json(path: Path, value: object) -> None:
    """Write plain data as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(_encoded(text)), durable=True)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    write_atomically(path, lambda file: file.write(_encoded(text)))


def _encoded(text: str) -> bytes:
    """UTF-8; names of files that are none hold half characters, which JSON writes like this too."""
    return text.encode("utf-8", "backslashreplace")

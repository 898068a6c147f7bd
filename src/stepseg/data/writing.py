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


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.chmod(temporary, 0o644)  # mkstemp makes private files; data folders are shared
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write uint8 ids [H, W] or RGB [H, W, 3] atomically."""
    # Huffman coding alone: twice as fast on noisy pictures as a search for repetitions.
    options = {"compress_type": 2} if pixels.ndim == 3 else {}
    image = Image.fromarray(pixels)
    write_atomically(path, lambda file: image.save(file, "PNG", compress_level=1, **options))


def write_json(path: Path, value: object) -> None:
    """Write plain data as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))

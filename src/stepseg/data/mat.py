"""COCO-Stuff's label files: arrays in files of MATLAB, without trust in the sizes they claim."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat

MAX_BYTES = 2**26
"""Of a file without its compression; COCO-Stuff's largest have some 10 MB."""
_HEADER = 128
_COMPRESSED = 15


def read_mat(path: Path) -> NDArray[np.integer]:
    """Read field `S` (label ids, [H, W]) of a MATLAB file.

    Raises:
        ValueError: too large, or without the field.
        Exception: of many types, on damaged files.
    """
    content = _inflated(path.read_bytes())
    held = {name: (shape, kind) for name, shape, kind in whosmat(io.BytesIO(content))}
    if "S" not in held:
        raise ValueError("no field 'S' with label ids")
    shape, kind = held["S"]
    if len(shape) != 2 or not kind.startswith(("int", "uint")):
        raise ValueError(f"field 'S' holds {kind} {list(shape)} instead of whole ids [H, W]")
    ids: NDArray[np.integer] = loadmat(io.BytesIO(content), variable_names=["S"])["S"]
    return ids


def _inflated(content: bytes) -> bytes:
    """The file without compression, which can make 400 MB of 400 kB."""
    if len(content) > MAX_BYTES or not content.startswith(b"MATLAB 5.0 MAT-file"):
        raise ValueError(f"no MATLAB file of version 5 with at most {MAX_BYTES} bytes")
    order = "<" if content[_HEADER - 2 : _HEADER] == b"IM" else ">"
    parts, place, room = [content[:_HEADER]], _HEADER, MAX_BYTES
    while place + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        element = content[place : place + 8 + size]
        place += 8 + size
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            element = unpacker.decompress(element[8:], room)
            if unpacker.unconsumed_tail:
                raise ValueError(f"it holds more than {MAX_BYTES} bytes")
        room -= len(element)
        parts.append(element)
    return b"".join(parts)

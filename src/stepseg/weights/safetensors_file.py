"""A safetensors file with one entry of plain values in its header, written whole, read with care.

The entry is JSON under the key ``stepseg`` of the file's metadata. What it means is the business of
`stepseg.checkpoint`.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stepseg.files.writing import write_atomically

KEY = "stepseg"
MAX_HEADER = 16 * 2**20
"""Bytes; a ViT-Large with all its heads needs 0.2 MiB."""


def is_safetensors(path: Path) -> bool:
    """Whether a file looks like safetensors: by its first bytes, or else by its name."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" or path.suffix == ".safetensors"


def write_safetensors(path: Path, state: Mapping[str, Tensor], entry: Mapping[str, Any]) -> None:
    """Write weights and an entry of plain values atomically; the same ones, the same bytes."""
    text = json.dumps(entry, ensure_ascii=False, allow_nan=False)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    content = memoryview(save(tensors, {"format": "pt", KEY: text}))
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = _in_order(bytes(content[8:start]))

    def write(file: IO[bytes]) -> None:
        file.write(struct.pack("<Q", len(header)) + header)
        file.write(content[start:])

    write_atomically(path, write)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read all tensors and the entry, whatever JSON that is; None in a file of somebody else.

    Raises:
        ValueError: damaged; says how, without the path.

    """
    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"is damaged: {error}") from error
    if KEY not in metadata:
        return state, None
    try:
        return state, json.loads(metadata[KEY], parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"is damaged: the {KEY!r} entry in its header is no JSON: {error}"
        ) from error


def _in_order(header: bytes) -> bytes:
    """The header with its metadata sorted: the library writes them in any order."""
    values = json.loads(header)
    values["__metadata__"] = dict(sorted(values["__metadata__"].items()))
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)  # tensors start at a multiple of 8


def _check_header(path: Path) -> None:
    """Refuse a header that is cut off or absurdly large before anything parses it."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length + 8 > size:
        raise ValueError("is damaged: it ends within its header")
    if length > MAX_HEADER:
        raise ValueError(f"has a header of {length} bytes, at most {MAX_HEADER} are read")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")

"""A file of `torch.save`, read without running anything and without believing any size in it.

A few bytes can claim any shape: by a stride of zero, by many tensors over one storage, by records
that are compressed. What is made of such a claim later, a copy, a model of that shape, would take
the memory. Nothing that `torch.save` writes for us is larger in memory than in the file.
"""

import mmap
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class OversizedError(ValueError):
    """A file claims more values than it holds."""


def read_torch_file(path: Path, *, checksums: bool = False) -> Any:
    """Tensors, on the CPU, and plain values.

    Args:
        checksums: also compare those of a zip archive, which PyTorch's reader does not.

    Raises:
        OversizedError: it claims more than it holds; names the tensor, not the file.
        ValueError: damaged, or more than tensors and plain values; says so without the path.

    """
    size = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            _check_records(path, size, checksums)
        _check_claims(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OversizedError:
        raise
    except Exception as error:  # PyTorch has many kinds for a file that is none of its own
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(
            f"cannot be read safely ({type(error).__name__}: {reason}): it is damaged, or holds "
            f"more than tensors and plain values"
        ) from error
    check_sizes(content, size)
    return content


def _check_records(path: Path, size: int, checksums: bool) -> None:
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
        if unpacked > size:
            raise OversizedError(
                f"is refused: it claims records of {unpacked} bytes, the file has {size}"
            )
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise OversizedError(
                "is refused: its records are compressed, which hides what they hold"
            )
        damaged = archive.testzip() if checksums else None
    if damaged:
        raise ValueError(f"checksum of {damaged} is wrong")


def _check_claims(path: Path) -> None:
    """Refuse the one call that PyTorch's safe reader lets make memory out of a number."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"bytearray") >= 0:
            raise OversizedError("is refused: it holds a bytearray, whose size is only claimed")


def check_sizes(content: Any, size: int) -> None:
    """Refuse tensors that claim more than there is.

    Args:
        content: tensors within mappings and sequences.
        size: of the file in bytes; all tensors together are no larger.

    Raises:
        OversizedError: names the tensor and the bytes.

    """
    total = 0
    for name, tensor in _tensors(content):
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise OversizedError(
                f"is refused: tensor {name} is {tensor.layout} on {tensor.device.type}, not values "
                f"in memory"
            )
        claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        total += claimed
        if claimed > held:
            raise OversizedError(
                f"is refused: tensor {name} of shape {tuple(tensor.shape)} claims {claimed} bytes, "
                f"it holds {held}"
            )
        if total > size:
            raise OversizedError(
                f"is refused: tensor {name} and others share their values: they claim {total} "
                f"bytes, the file has {size}"
            )


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors, each once, by their keys; containers may hold one another."""
    seen, waiting = set(), [("", content)]
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping):
            waiting += [(f"{name}/{key}".lstrip("/"), item) for key, item in value.items()]
        elif isinstance(value, list | tuple | set):
            waiting += [(f"{name}/{index}".lstrip("/"), item) for index, item in enumerate(value)]

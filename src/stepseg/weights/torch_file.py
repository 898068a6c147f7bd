"""A file of `torch.save`, read without running anything and without believing any size in it.

A few bytes can claim any shape: by a stride of zero, by many tensors over one storage, by records
that are compressed. What is made of such a claim later, a copy, a model of that shape, would take
the memory. Nothing that `torch.save` writes for us is larger in memory than in the file.
"""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class OversizedError(ValueError):
    """A file claims more values than it holds."""


def read_torch_file(path: Path) -> Any:
    """Tensors, on the CPU, and plain values.

    Raises:
        OversizedError: it claims more than it holds; names the tensor, not the file.
        Exception: whatever `torch.load` makes of a file that is damaged or none of its own.

    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(record.file_size for record in archive.infolist())
        if unpacked > size:
            raise OversizedError(f"its records claim {unpacked} bytes, the file has {size}")
    content = torch.load(path, map_location="cpu", weights_only=True)
    check_sizes(content, size)
    return content


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
                f"tensor {name} is {tensor.layout} on {tensor.device.type}, not values in memory"
            )
        claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        total += claimed
        if claimed > held:
            raise OversizedError(
                f"tensor {name} of shape {tuple(tensor.shape)} claims {claimed} bytes, it holds "
                f"{held}"
            )
        if total > size:
            raise OversizedError(
                f"tensor {name} and others share their values: they claim {total} bytes, the file "
                f"has {size}"
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

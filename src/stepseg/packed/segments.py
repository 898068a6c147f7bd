"""Which rows of a packed tensor belong to which image, for the host and for the device.

Letters in names: B images, T packed rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor


def upload(values: Sequence, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Make a tensor of small (nested) host data on a device, without waiting for its queue."""
    on_gpu = torch.device(device).type == "cuda"
    # From pageable memory PyTorch waits for the stream; from pinned memory it does not.
    host = torch.tensor(values, dtype=dtype, pin_memory=on_gpu)
    return host.to(device, non_blocking=on_gpu)


@cache
def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`upload` of numbers that come again: they stay for good.

    CUDA graphs need that. What is uploaded while one is recorded is read from the host's memory in
    every replay, where PyTorch may have put something else by then.
    """
    with torch.inference_mode(False):
        made = upload(values, dtype, device)
    settle(made)
    return made


def settle(kept: Tensor) -> None:
    """Wait until a tensor is there that stays: other streams read it, and would not wait for it."""
    if kept.is_cuda:
        torch.cuda.current_stream(kept.device).synchronize()  # host sync: once for what is kept


@dataclass(frozen=True, slots=True)
class Segments:
    """Which rows of a packed tensor belong to which image.

    The host needs the lengths to launch kernels, the device needs them as data; both are made
    together so that nobody reads them back later.
    """

    cu_seqlens: Tensor
    """int32 ``[B + 1]``; image b owns rows ``cu_seqlens[b]:cu_seqlens[b + 1]``."""
    lengths: tuple[int, ...]
    """The number of rows of each image; zeros are legal."""

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device | str) -> "Segments":
        """Build from host lengths; waits for nothing."""
        offsets = list(accumulate(lengths, initial=0))
        return cls(upload(offsets, torch.int32, device), tuple(lengths))

    @classmethod
    def uniform(cls, images: int, length: int, device: torch.device | str) -> "Segments":
        """Build for images of one length; waits for nothing and uploads nothing."""
        numbers = torch.arange(images + 1, dtype=torch.int32, device=device)
        return cls(numbers * length, (length,) * images)

    @classmethod
    def from_offsets(cls, cu_seqlens: Tensor, offsets: Tensor) -> "Segments":
        """Build from `cu_seqlens` and its copy on the host, `host_offsets`."""
        return cls(cu_seqlens, tuple(offsets.diff().tolist()))

    def longer(self, rows: int) -> "Segments":
        """The same images with so many rows more each, or less; waits for nothing."""
        if rows == 0:
            return self
        images = torch.arange(self.num_images + 1, dtype=torch.int32, device=self.cu_seqlens.device)
        lengths = tuple(length + rows for length in self.lengths)
        return Segments(self.cu_seqlens + rows * images, lengths)

    def host_offsets(self) -> Tensor:
        """`cu_seqlens` on the host, int64 ``[B + 1]``: for operators that take tensors only."""
        return torch.tensor(list(accumulate(self.lengths, initial=0)))

    @property
    def num_images(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def total(self) -> int:
        """Rows of all images, T."""
        return sum(self.lengths)

    @property
    def max_length(self) -> int:
        """Rows of the longest image."""
        return max(self.lengths, default=0)

    @property
    def is_uniform(self) -> bool:
        """Whether all images have the same, non-zero length, so that a dense view exists."""
        return len(set(self.lengths)) == 1 and self.lengths[0] > 0

    def image_ids(self) -> Tensor:
        """The image of every row, int64 ``[T]``, without a host synchronisation."""
        images = torch.arange(self.num_images, device=self.cu_seqlens.device)
        lengths = self.cu_seqlens.diff()
        return torch.repeat_interleave(images, lengths, output_size=self.total)

"""Packed tokens: images of different token counts in one tensor, without padding.

Merging (STEP, arXiv 2509.14165, Sec. 3.2.1) leaves every image with its own number of tokens, and
every exit head (Sec. 3.2.2) takes some of them away. Both are index work on one flat ``[T, D]``
tensor. What the tokens mean lives elsewhere: `stepseg.dcts` builds the layout, `stepseg.vit` and
`stepseg.heads` compute on the values.

Letters in names: B images, Y x X cells (16-px patches) of the grid, T packed tokens now, T0 packed
tokens after merging, D channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor


def upload(values: Sequence, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Make a tensor of small (nested) host data on a device, without waiting for its queue."""
    on_gpu = torch.device(device).type == "cuda"
    # From pageable memory PyTorch waits for the stream; from pinned memory it does not.
    host = torch.tensor(values, dtype=dtype, pin_memory=on_gpu)
    return host.to(device, non_blocking=on_gpu)


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
    def from_offsets(cls, cu_seqlens: Tensor, offsets: Tensor) -> "Segments":
        """Build from `cu_seqlens` and its copy on the host, `host_offsets`."""
        return cls(cu_seqlens, tuple(offsets.diff().tolist()))

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


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Where the tokens after merging sit on the patch grid; made once per batch, never changed."""

    cell_to_token_BYX: Tensor
    """int64; the row in ``[T0, ...]`` of the token that covers a cell."""
    window_BYX: Tensor
    """int64; side, in cells, of the window that covers a cell (1: not merged)."""
    anchor_T0: Tensor
    """int64; flat index ``b * Y * X + y * X + x`` of each token's top-left cell."""
    segments: Segments
    """The T0 rows of each image, in raster order of their top-left cells."""
    windows: tuple[int, ...]
    """The window sides that may occur besides 1; empty for a plain ViT."""

    @classmethod
    def full(cls, batch: int, grid: tuple[int, int], device: torch.device | str) -> "TokenLayout":
        """The layout of a plain ViT, where every cell is a token; waits for nothing."""
        rows, columns = grid
        cells = torch.arange(batch * rows * columns, device=device)
        return cls(
            cell_to_token_BYX=cells.view(batch, rows, columns),
            window_BYX=torch.ones(batch, rows, columns, dtype=torch.int64, device=device),
            anchor_T0=cells,
            segments=Segments.from_lengths([rows * columns] * batch, device),
            windows=(),
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        return self.cell_to_token_BYX.shape[1], self.cell_to_token_BYX.shape[2]

    @property
    def num_tokens(self) -> int:
        """T0."""
        return self.segments.total

    @property
    def is_full_grid(self) -> bool:
        """Whether nothing is merged, so that rows are cells in raster order."""
        return self.num_tokens == self.cell_to_token_BYX.numel()

    @property
    def window_T0(self) -> Tensor:
        """Side, in cells, of every token's window, int64 ``[T0]``."""
        return self.window_BYX.flatten()[self.anchor_T0]

    def gather_windows(self, levels: Mapping[int, Tensor]) -> Tensor:
        """Pick for every token the row of its window from one grid per window side.

        Args:
            levels: per side s a tensor ``[B, Y // s, X // s, D]``, or ``[1, ...]`` where all
                images share it; s = 1 and all of `windows` that fit into the grid.

        Returns:
            ``[T0, D]``.

        """
        batch, rows, columns = self.cell_to_token_BYX.shape
        if self.is_full_grid:
            return levels[1].expand(batch, -1, -1, -1).flatten(0, 2)
        image = self.anchor_T0 // (rows * columns)
        y = self.anchor_T0 // columns % rows
        x = self.anchor_T0 % columns
        # Where each level starts in the concatenation and how wide it is, by window side.
        starts, widths, image_strides = table = [[0] * (max(levels) + 1) for _ in range(3)]
        offset = 0
        for window, level in levels.items():
            images, height, width = level.shape[:3]
            starts[window], widths[window] = offset, width
            image_strides[window] = height * width if images > 1 else 0
            offset = offset + images * height * width  # a tracer's sizes are tensors: not in place
        side = self.window_T0
        start, width, image_stride = upload(table, torch.int64, side.device)[:, side]
        index = start + image * image_stride + (y // side) * width + x // side
        return torch.cat([level.flatten(0, 2) for level in levels.values()]).index_select(0, index)

    def unmerge(self, values_T0D: Tensor) -> Tensor:
        """Give every cell the value of its token: ``[T0, D] -> [B, Y, X, D]``."""
        if self.is_full_grid:
            return values_T0D.view(*self.cell_to_token_BYX.shape, *values_T0D.shape[1:])
        return values_T0D[self.cell_to_token_BYX]


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """The tokens that are still being processed."""

    values_TD: Tensor
    """Token features, images concatenated in batch order."""
    segments: Segments
    token_ids_T: Tensor
    """int64; the row of the `TokenLayout` of each token."""
    image_ids_T: Tensor
    """int64; the image of each token."""

    @classmethod
    def from_layout(cls, values_T0D: Tensor, layout: TokenLayout) -> "PackedTokens":
        """Start with all tokens of a layout."""
        token_ids = torch.arange(layout.num_tokens, device=values_T0D.device)
        return cls(values_T0D, layout.segments, token_ids, layout.segments.image_ids())

    def __len__(self) -> int:
        return self.values_TD.shape[0]

    def with_values(self, values_TD: Tensor) -> "PackedTokens":
        """The same tokens with other features."""
        return replace(self, values_TD=values_TD)

    def select(self, keep_T: Tensor) -> "PackedTokens":
        """Keep the tokens where the boolean `keep_T` is True; an image may become empty.

        The order of the tokens stays. Values move differentiably, the decision does not.
        """
        num_kept = F.pad(keep_T.cumsum(0, dtype=torch.int32), (1, 0))  # kept before each row
        cu_seqlens = num_kept[self.segments.cu_seqlens.long()]
        lengths = tuple(cu_seqlens.diff().tolist())  # host sync: the only one of an exit
        total = sum(lengths)
        # The size is known on the host, so that finding the rows needs no second wait.
        rows = torch.nonzero_static(keep_T, size=total).squeeze(1)
        return PackedTokens(
            self.values_TD.index_select(0, rows),
            Segments(cu_seqlens, lengths),
            self.token_ids_T.index_select(0, rows),
            self.image_ids_T.index_select(0, rows),
        )

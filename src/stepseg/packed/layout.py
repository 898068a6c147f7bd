"""Which token covers each cell of an image after merging; made once, by `stepseg.dcts`.

Letters in names: B images, Y x X cells (16-px patches) of the grid, T0 tokens after merging, D
channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stepseg.packed.segments import Segments, constant, upload


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
            segments=Segments.uniform(batch, rows * columns, device),
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

    def centres(self) -> Tensor:
        """Centre of every token in cells, (y, x) from the top-left corner, float32 ``[T0, 2]``."""
        rows, columns = self.grid
        y, x = self.anchor_T0 // columns % rows, self.anchor_T0 % columns
        return torch.stack([y, x], 1) + self.window_T0[:, None] / 2

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
        start, width, image_stride = _on_device(table, side)[:, side]
        index = start + image * image_stride + (y // side) * width + x // side
        return torch.cat([level.flatten(0, 2) for level in levels.values()]).index_select(0, index)

    def unmerge(self, values_T0D: Tensor) -> Tensor:
        """Give every cell the value of its token: ``[T0, D] -> [B, Y, X, D]``."""
        if self.is_full_grid:
            return values_T0D.view(*self.cell_to_token_BYX.shape, *values_T0D.shape[1:])
        return values_T0D[self.cell_to_token_BYX]


def _on_device(table: list[list[int]], like: Tensor) -> Tensor:
    """Small integers beside a tensor; tracers get tensors of their own."""
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling() or type(like) is not Tensor
    if traced:
        return upload(table, torch.int64, like.device)
    return constant(tuple(map(tuple, table)), torch.int64, like.device)

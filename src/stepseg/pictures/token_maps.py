"""Where the tokens of one image went, pixel by pixel: what the pictures are drawn from.

STEP (arXiv 2509.14165), Figures 3, 7 and 8 show them.

An image that was shown in windows has one set of cells per window. They are cut halfway through
their overlaps and laid side by side, so that every pixel has one token.

Letters: H x W pixels of the image as the model saw it, Y x X cells of a view's patch grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepseg.protocol import HW, Window
from stepseg.segmentation import Segmentation


@dataclass(frozen=True, slots=True)
class View:
    """What one forward pass said about one window of an image, on the host."""

    window: Window
    """Where it lies in the image as the model saw it."""
    patch_size: int
    tokens_YX: NDArray[np.int64]
    """Which token covers each cell, counted from 0 in every image. Tokens that merged inside the
    blocks have the number of the one that stands for them."""
    superpatches_YX: NDArray[np.int64]
    """Side, in cells, of the window that covers each cell; 1: not merged."""
    exits_YX: NDArray[np.int64]
    """Index in ``output.heads`` of the exit at which each cell's token left; the number of exits
    stands for tokens that reached the final head."""
    confidence_YX: NDArray[np.float32]
    """Score of the best class, 0..1."""

    @classmethod
    def of(cls, output: Segmentation, index: int = 0, window: Window | None = None) -> "View":
        """Read image `index` of a batch back from the device."""
        return cls.of_batch(output, {index: window})[0]

    @classmethod
    def of_batch(cls, output: Segmentation, windows: Mapping[int, Window | None]) -> "list[View]":
        """Read images of a batch back from the device, each with its window (None: all of it)."""
        layout, (height, width) = output.layout, output.image_size
        token_BYX = layout.cell_to_token_BYX
        root_BYX = token_BYX if output.root_T0 is None else output.root_T0[token_BYX]
        # several queries of an EoMT may claim a cell for one class: their sum is above 1
        confidence_BYX = output.cell_scores().amax(1).clamp(max=1).float()
        exit_BYX = output.exit_T0[token_BYX]
        root, window_side, exits, confidence = (
            map_BYX.cpu().numpy()
            for map_BYX in (root_BYX, layout.window_BYX, exit_BYX, confidence_BYX)
        )
        return [
            cls(
                window=window or Window(0, 0, height, width),
                patch_size=output.patch_size,
                tokens_YX=root[index] - sum(layout.segments.lengths[:index]),
                superpatches_YX=window_side[index],
                exits_YX=exits[index],
                confidence_YX=confidence[index],
            )
            for index, window in windows.items()
        ]


@dataclass(frozen=True, slots=True)
class TokenMaps:
    """The same in pixels."""

    token_HW: NDArray[np.int64]
    """Which token a pixel belongs to: different numbers, different tokens."""
    superpatch_HW: NDArray[np.int64]
    """Side of its window, in patches."""
    exit_HW: NDArray[np.int64]
    """Index of the exit at which it left; the number of exits: it went to the end."""
    confidence_HW: NDArray[np.float32]
    """Score of its best class, 0..1."""

    @classmethod
    def of(cls, output: Segmentation, index: int = 0) -> "TokenMaps":
        """The maps of image `index` of a batch that was shown whole."""
        return cls.assemble([View.of(output, index)])

    @classmethod
    def assemble(cls, views: Sequence[View]) -> "TokenMaps":
        """Lay the views of one image side by side."""
        height = max(view.window.bottom for view in views)
        width = max(view.window.right for view in views)
        rows = _cuts({(view.window.top, view.window.bottom) for view in views})
        columns = _cuts({(view.window.left, view.window.right) for view in views})
        shape = (height, width)
        maps = cls(
            token_HW=np.zeros(shape, np.int64),
            superpatch_HW=np.ones(shape, np.int64),
            exit_HW=np.zeros(shape, np.int64),
            confidence_HW=np.zeros(shape, np.float32),
        )
        first = 0
        for view in views:
            top, bottom = rows[view.window.top]
            left, right = columns[view.window.left]
            cells = (
                (maps.token_HW, view.tokens_YX + first),
                (maps.superpatch_HW, view.superpatches_YX),
                (maps.exit_HW, view.exits_YX),
                (maps.confidence_HW, view.confidence_YX),
            )
            first += int(view.tokens_YX.max()) + 1
            for target, values_YX in cells:
                values = to_pixels(values_YX, view.patch_size, view.window.size)
                target[top:bottom, left:right] = values[
                    top - view.window.top : bottom - view.window.top,
                    left - view.window.left : right - view.window.left,
                ]
        return maps

    def thinned(self, step: int) -> "TokenMaps":
        """Every `step`-th pixel in both directions."""
        return TokenMaps(
            self.token_HW[::step, ::step],
            self.superpatch_HW[::step, ::step],
            self.exit_HW[::step, ::step],
            self.confidence_HW[::step, ::step],
        )


def _cuts(ranges: set[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """By the start of each range the part that it keeps when overlaps are halved."""
    ordered = sorted(ranges)
    middles = [(end + start) // 2 for (_, end), (start, _) in pairwise(ordered)]
    starts = [ordered[0][0], *middles]
    ends = [*middles, ordered[-1][1]]
    return {start: (a, b) for (start, _), a, b in zip(ordered, starts, ends, strict=True)}


def to_pixels(cells_YX: NDArray[Any], patch_size: int, image_size: HW) -> NDArray[Any]:
    """Repeat every cell over its patch and crop the padding: ``[Y, X, ...] -> [H, W, ...]``.

    Raises:
        ValueError: the grid is not that of an image of this (height, width).

    """
    height, width = image_size
    grid = (-(-height // patch_size), -(-width // patch_size))
    if tuple(cells_YX.shape[:2]) != grid:
        raise ValueError(
            f"an image of {width}x{height} pixels has {grid[0]}x{grid[1]} patches of {patch_size}, "
            f"the map has {cells_YX.shape[0]}x{cells_YX.shape[1]}"
        )
    pixels = cells_YX.repeat(patch_size, 0).repeat(patch_size, 1)
    return pixels[:height, :width]

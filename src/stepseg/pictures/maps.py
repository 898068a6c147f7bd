"""Maps of where the tokens of one image went, on the patch grid and in pixels.

STEP (arXiv 2509.14165), Figures 3, 7 and 8 show them; how they are drawn is in `pictures`. Arrays
are NumPy's, on the host: reading one waits for the device.

Letters: H x W pixels, Y x X cells of the patch grid.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stepseg.segmentation import Segmentation

CellMap = NDArray[np.int64]


def superpatch_map(output: Segmentation, index: int = 0) -> CellMap:
    """Side, in cells, of the window that covers each cell, ``[Y, X]``; 1: not merged.

    Args:
        output: of a batch.
        index: which image of the batch.

    """
    return _host(output.layout.window_BYX[index])


def token_map(output: Segmentation, index: int = 0) -> CellMap:
    """Which token covers each cell, ``[Y, X]``, counted from 0 in every image.

    Tokens that merged inside the blocks have the number of the one that stands for them.
    """
    tokens = output.layout.cell_to_token_BYX[index]
    tokens_YX = _host(tokens if output.root_T0 is None else output.root_T0[tokens])
    return tokens_YX - sum(output.layout.segments.lengths[:index])


def exit_map(output: Segmentation, index: int = 0) -> CellMap:
    """Index of the exit at which each cell's token left, ``[Y, X]``.

    Exits are counted from 0 in the order of ``output.heads``; the number of exits stands for
    tokens that reached the final head.
    """
    return _host(output.exit_T0[output.layout.cell_to_token_BYX[index]])


def to_pixels(cells_YX: NDArray[Any], patch_size: int, image_size: tuple[int, int]) -> NDArray[Any]:
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


def _host(values: Tensor) -> CellMap:
    return values.cpu().numpy()

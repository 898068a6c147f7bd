"""Position embeddings: bicubic to the patch grid, averaged over the cells of a superpatch.

Letters: Y x X cells of the patch grid, G side of the learned square grid, D channels.
"""

import torch.nn.functional as F
from torch import Tensor


def resize_pos_embed(
    pos_embed_1GD: Tensor, grid: tuple[int, int], *, antialias: bool = False
) -> Tensor:
    """Resize a learned square grid ``[1, G * G, D]`` to ``[1, Y, X, D]``, bicubic."""
    side = int(pos_embed_1GD.shape[1] ** 0.5)
    square_1DGG = pos_embed_1GD.transpose(1, 2).unflatten(2, (side, side))
    if grid != (side, side):
        # bicubic in float32 under autocast and for half-precision weights alike
        square_1DGG = F.interpolate(
            square_1DGG.float(), size=grid, mode="bicubic", align_corners=False, antialias=antialias
        ).to(pos_embed_1GD.dtype)
    return square_1DGG.permute(0, 2, 3, 1)


def pool_pos_embed(grid_1YXD: Tensor, window: int) -> Tensor:
    """Mean over ``window x window`` cells, ``[1, Y // window, X // window, D]``.

    Only windows that fit wholly count. CTS does the same for 2 x 2.
    """
    if window == 1:
        return grid_1YXD
    return F.avg_pool2d(grid_1YXD.permute(0, 3, 1, 2), window).permute(0, 2, 3, 1)

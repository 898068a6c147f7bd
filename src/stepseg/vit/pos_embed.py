"""Position embeddings: bicubic to the patch grid, averaged over the cells of a superpatch.

Letters: Y x X cells of the patch grid, G side of the learned square grid, D channels.
"""

from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg.ops.first_use import is_capturing
from stepseg.packed.segments import settle

Levels = dict[int, Tensor]
"""By window side s what windows on a grid have, ``[1, Y // s, X // s, D]``."""
MOST_GRIDS = 4
"""For which positions are kept: 22 MiB each of a ViT-L at 1024 x 1024 in fp32."""


class KeptLevels:
    """Positions by grid, for as long as the weights they come from stay what they are.

    Images of one size ask for the same levels again and again, and the bicubic kernel of a GPU is
    slow. Only without gradients, which have to go through it.
    """

    def __init__(self) -> None:
        self._of: tuple = ()
        self._levels: dict[Hashable, Levels] = {}  # the least recently used first

    def get(self, weights: Tensor, key: Hashable, make: Callable[[], Levels]) -> Levels:
        """The levels of a key, made if need be."""
        if torch.is_grad_enabled() or weights.is_inference() or is_capturing():
            return make()
        # In-place changes count up the version, moves and casts change address or type.
        of = (weights, weights._version, weights.data_ptr(), weights.dtype)
        if self._of[1:] != of[1:] or self._of[0] is not weights:
            self._of, self._levels = of, {}
        levels = self._levels.pop(key, None)
        if levels is None:
            levels = make()
            if any(type(level) is not Tensor for level in levels.values()):
                return levels  # of a tracer
            settle(next(iter(levels.values())))
            if len(self._levels) == MOST_GRIDS:
                del self._levels[next(iter(self._levels))]
        self._levels[key] = levels
        return levels

    def forget(self) -> None:
        """Keep nothing."""
        self._of, self._levels = (), {}

    def __getstate__(self) -> dict:
        return {"_of": (), "_levels": {}}  # copies have weights of their own


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

"""Patch embedding of patches and superpatches: the same linear map for both.

STEP, Eq. (1): a superpatch of s x s patches is resized to one patch and embedded like any other.

Letters: B images, H x W pixels, Y x X cells of the patch grid, P patch side in pixels, T tokens,
D channels.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.ops.padding import pad_to_multiple

Resize = Literal["bilinear", "area"]


class PatchEmbed(nn.Module):
    """The linear map from one patch to one token; its weight is timm's convolution kernel."""

    def __init__(self, *, dim: int, patch_size: int, bias: bool = True) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size, bias=bias)

    def patches(self, images_B3HW: Tensor) -> Tensor:
        """Cut ``[B, 3, Y * P, X * P]`` into rows of pixels, ``[B, Y, X, 3 * P * P]``."""
        batch, _, height, width = images_B3HW.shape
        side = self.patch_size
        grid = images_B3HW.view(batch, 3, height // side, side, width // side, side)
        return grid.permute(0, 2, 4, 1, 3, 5).flatten(3)

    def forward(self, patches_TP: Tensor) -> Tensor:
        """Embed rows of pixels, ``[T0, 3 * P * P] -> [T0, D]``."""
        return F.linear(patches_TP, self.proj.weight.flatten(1), self.proj.bias)


def resize_cells(images_B3HW: Tensor, cell: int | None, patch_size: int) -> Tensor:
    """Resize ``[B, 3, H, W]`` so that every cell becomes one patch; None: a cell is a patch.

    Padded with grey to whole cells; bilinear, averaging where it shrinks.
    """
    if cell is None or cell == patch_size:
        return images_B3HW
    images_B3HW = pad_to_multiple(images_B3HW, cell, 0.5)
    size = [side // cell * patch_size for side in images_B3HW.shape[2:]]
    return F.interpolate(
        images_B3HW, size=size, mode="bilinear", align_corners=False, antialias=cell > patch_size
    )


def shrink_image(images_B3HW: Tensor, window: int, resize: Resize) -> Tensor:
    """Resize ``[B, 3, H, W]`` by ``1 / window``.

    Windows are aligned, so that no pixel crosses their borders.
    Bilinear interpolation without antialiasing is what the paper does: for windows of 4 patches
    and more it reads only pixels around the centres. `area` averages all of them.
    """
    if resize == "area":
        return F.avg_pool2d(images_B3HW, window)
    size = (images_B3HW.shape[2] // window, images_B3HW.shape[3] // window)
    return F.interpolate(images_B3HW, size=size, mode="bilinear", align_corners=False)

"""Edge density of windows, for content-aware merging thresholds (`MergeRule.edge_weight`).

A merge is costly where a boundary runs through the window, and boundaries are mostly edges. The
density is relative to the image's own mean, so that neither contrast nor exposure moves the
thresholds as a whole, and no image depends on its batch.

Letters: B images, H x W pixels, Y x X cells of the patch grid.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from stepseg.ops.padding import pad_to_multiple


def edge_density(images_B3HW: Tensor, patch_size: int, windows: Sequence[int]) -> dict[int, Tensor]:
    """Relative edge density of every window.

    An edge is the absolute difference of grey values between neighbouring pixels, horizontal plus
    vertical. A window with mean e in an image with mean m has the density ``e / (e + m)``.

    Args:
        images_B3HW: RGB in [0, 1], any size.
        patch_size: side of a patch in pixels.
        windows: sides in patches, each dividing the next.

    Returns:
        Per side s a tensor ``[B, Y // s, X // s]`` in [0, 1]: 0.5 at the image's mean and in
        images without any edge.

    """
    grey_B1HW = images_B3HW.float().mean(1, keepdim=True)
    right = F.pad(grey_B1HW.diff(dim=3).abs(), (0, 1))
    below = F.pad(grey_B1HW.diff(dim=2).abs(), (0, 0, 0, 1))
    edges = pad_to_multiple(right + below, patch_size, 0)
    edges_B1YX = F.avg_pool2d(edges, patch_size)
    mean_B11 = edges_B1YX.mean((2, 3))[..., None]
    tiny = 1e-6
    densities = {}
    for window in windows:
        if window > min(edges_B1YX.shape[2:]):  # no window of this size
            rows, columns = (side // window for side in edges_B1YX.shape[2:])
            mean = edges_B1YX.new_zeros(len(images_B3HW), rows, columns)
        else:
            mean = F.avg_pool2d(edges_B1YX, window).squeeze(1)
        densities[window] = (mean + tiny) / (mean + mean_B11 + 2 * tiny)
    return densities

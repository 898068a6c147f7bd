"""Which windows of patches carry a single label: the one rule behind training, oracle and analysis.

CTS trains its policy network with it, STEP (Sec. 3.2.1) on windows of 2, 4, 8 and 16 patches.
The labels' classes do not matter, only whether a window has more than one of them.

Letters: B images, H x W pixels, Y x X patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepseg.dcts.merge import check_windows
from stepseg.ops.padding import pad_to_multiple


@dataclass(frozen=True, slots=True)
class HomogeneityRule:
    """When a window counts as homogeneous. The defaults are those of CTS."""

    ignore_index: int = 255
    """The label that carries no annotation."""
    all_ignore_is_homogeneous: bool = True
    """Whether a window without any annotated pixel may be merged."""
    ignore_breaks_homogeneity: bool = True
    """Whether one class plus ignored pixels counts as two labels."""

    def windows(
        self, labels_BHW: Tensor, patch_size: int, windows: Sequence[int]
    ) -> dict[int, Tensor]:
        """Find the homogeneous windows.

        Args:
            labels_BHW: integer training ids; sides are padded to the patch grid with ignore.
            patch_size: side of a patch in pixels.
            windows: window sides in patches, each dividing the next.

        Returns:
            For every size s a boolean ``[B, Y // s, X // s]``: windows that fit wholly.

        """
        check_windows(windows)
        labels = pad_to_multiple(labels_BHW.long(), patch_size, self.ignore_index)
        ignored = labels == self.ignore_index
        bottom, top = -1, int(torch.iinfo(torch.int64).max)
        if self.ignore_breaks_homogeneity:
            low = high = labels
        else:  # ignored pixels agree with everything
            low, high = labels.masked_fill(ignored, top), labels.masked_fill(ignored, bottom)
        low, high = _reduce(low, patch_size, "amin"), _reduce(high, patch_size, "amax")
        blank = _reduce(ignored, patch_size, "all")
        result = {}
        side = 1
        for window in windows:
            step, side = window // side, window
            low, high = _reduce(low, step, "amin"), _reduce(high, step, "amax")
            blank = _reduce(blank, step, "all")
            single = low == high
            blank_result = torch.full_like(single, self.all_ignore_is_homogeneous)
            result[window] = torch.where(blank, blank_result, single)
        return result


def _reduce(x_BHW: Tensor, step: int, how: str) -> Tensor:
    """Reduce tiles of ``step x step`` that fit wholly; the rest at the border is dropped."""
    rows, columns = x_BHW.shape[1] // step, x_BHW.shape[2] // step
    tiles = x_BHW[:, : rows * step, : columns * step]
    tiles = tiles.reshape(len(x_BHW), rows, step, columns, step)
    if how == "all":
        return tiles.all(4).all(2)
    return getattr(tiles, how)(dim=(2, 4))

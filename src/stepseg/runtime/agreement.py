"""Whether two ways to carry out a model say the same of a batch, up to rounding.

Rounding also moves a score over a threshold now and then, and then a token merges or leaves
otherwise and says something else for good reason. Such cells may be few, and are counted apart from
those that had the same history and yet other scores. What counts is the worst image.

Letters: B images, Y x X cells, C classes.
"""

import torch
from torch import Tensor

from stepseg.segmentation import Segmentation


def differ(ours: Segmentation, expected: Segmentation, dtype: torch.dtype) -> str | None:
    """How two results differ by more than rounding in a type, in words; None: they do not."""
    tolerance, decisions = (1e-3, 0.02) if dtype == torch.float32 else (0.05, 0.25)
    merged_BYX = ours.layout.window_BYX != expected.layout.window_BYX
    left_BYX = _exits(ours) != _exits(expected)
    scores, theirs = ours.cell_scores().float(), expected.cell_scores().float()
    close_BCYX = torch.isclose(scores, theirs, rtol=0, atol=tolerance, equal_nan=True)
    off_BYX = ~close_BCYX.all(1) & ~merged_BYX & ~left_BYX
    for cells_BYX, what, limit in (
        (merged_BYX, "merge otherwise", decisions),
        (left_BYX & ~merged_BYX, "leave at another exit", decisions),
        (off_BYX, f"have scores that are off by more than {tolerance}", 0.01),
    ):
        share = float(cells_BYX.flatten(1).float().mean(1).max())
        if not share <= limit:
            return f"{share:.0%} of an image's cells {what}"
    return None


def _exits(result: Segmentation) -> Tensor:
    """The exit at which each cell left, ``[B, Y, X]``."""
    return result.layout.unmerge(result.exit_T0)

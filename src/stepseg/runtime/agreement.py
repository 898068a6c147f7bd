"""Whether two ways to carry out a model say the same of a batch, up to rounding.

Rounding also moves a score over a threshold now and then, and then a token merges or leaves
otherwise and says something else for good reason. Such cells may be few, and are counted apart from
those that had the same history and yet other scores. What counts is the worst image.

How much rounding changes depends on the type, the weights and the images. In float32 it is far
below what anyone sees. In half precision it is measured: how far the plain way is from the same
weights in float32. Another way, right as well, is as far from there on whichever side, hence at
most twice as far from the plain one.

Letters: B images, Y x X cells, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stepseg.segmentation import Segmentation

FEW = 0.01
"""Share of an image's cells that may have any scores."""
DECISIONS, SCORES = 0.02, 1e-3
"""What may differ whatever rounding changes: share of an image's cells that are decided otherwise,
and scores."""


@dataclass(frozen=True)
class Rounding:
    """What rounding alone changes in results of a model."""

    decisions: float = 0.0
    """Share of an image's cells that merge or leave otherwise."""
    scores: float = 0.0
    """How far scores of the others are off, but for a few."""

    @classmethod
    def between(cls, result: Segmentation, exact: Segmentation, dtype: torch.dtype) -> "Rounding":
        """Of a result in some type, beside the same in a wider one."""
        apart = _Apart.of(result, exact)
        unit = torch.finfo(dtype).eps
        return cls(
            _worst(apart.merged_BYX | apart.left_BYX), max(unit, float(apart.most_B(FEW).max()))
        )


def differ(
    ours: Segmentation, expected: Segmentation, rounding: Rounding | None = None
) -> str | None:
    """How two results differ by more than rounding, in words; None: they do not.

    Args:
        ours: of a way that may be wrong.
        expected: of the same images.
        rounding: what it changes in the expected result; None: nothing to speak of.

    """
    rounding = rounding or Rounding()
    decisions = DECISIONS + 2 * rounding.decisions
    tolerance = max(SCORES, 2 * rounding.scores)
    apart = _Apart.of(ours, expected)
    off = f"have scores that are off by more than {tolerance:.1g}"
    for cells_BYX, what, limit in (
        (apart.merged_BYX, "merge otherwise", decisions),
        (apart.left_BYX & ~apart.merged_BYX, "leave at another exit", decisions),
        (~(apart.scores_BYX <= tolerance), off, FEW),
    ):
        if not (share := _worst(cells_BYX)) <= limit:
            return f"{share:.0%} of an image's cells {what}"
    return None


@dataclass(frozen=True)
class _Apart:
    """Where two results are not the same, by cell."""

    merged_BYX: Tensor
    left_BYX: Tensor
    scores_BYX: Tensor
    """Largest difference over classes; 0 where the history differs."""

    @classmethod
    def of(cls, one: Segmentation, other: Segmentation) -> "_Apart":
        merged_BYX = one.layout.window_BYX != other.layout.window_BYX
        left_BYX = _exits(one) != _exits(other)
        ours, theirs = one.cell_scores().float(), other.cell_scores().float()
        both_BCYX = ours.isnan() & theirs.isnan()  # what overflows in both is the same
        apart_BYX = (ours - theirs).abs().masked_fill(both_BCYX, 0).amax(1)
        return cls(merged_BYX, left_BYX, apart_BYX.masked_fill(merged_BYX | left_BYX, 0))

    def most_B(self, share: float) -> Tensor:
        """What the scores of all cells but a share are off by at most, per image."""
        return self.scores_BYX.flatten(1).nan_to_num(1).quantile(1 - share, dim=1)


def _worst(cells_BYX: Tensor) -> float:
    """Share of the cells of the worst image."""
    return float(cells_BYX.flatten(1).float().mean(1).max())


def _exits(result: Segmentation) -> Tensor:
    """The exit at which each cell left, ``[B, Y, X]``."""
    return result.layout.unmerge(result.exit_T0)

"""Maps of classes from masks of queries that are of no class, as in EoMT and Mask2Former.

Letters: B images, H x W pixels, Y x X cells of the patch grid, y x x points of a finer one, Q
queries, C classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class QueryMasks:
    """Masks and classes of queries."""

    mask_logits_BQyx: Tensor
    """float32; on a grid that is finer than the patches, by a power of two."""
    class_logits_BQC: Tensor
    """float32 ``[B, Q, C + 1]``; the last one is for queries of nothing."""

    def scores(self, size: tuple[int, int]) -> Tensor:
        """p of every class, ``[B, C, *size]``: over queries the sum of P(class) x P(in the mask).

        Masks are resized before they become probabilities, as by their authors.
        """
        pairs = zip(self.mask_logits_BQyx, self.class_logits_BQC, strict=True)
        return torch.stack([_queries_to_classes(*pair, size) for pair in pairs])

    def prediction(self, size: tuple[int, int], dtype: torch.dtype = torch.int64) -> Tensor:
        """The class of every pixel, ``[B, *size]``; holds the scores of one image."""
        pairs = zip(self.mask_logits_BQyx, self.class_logits_BQC, strict=True)
        return torch.stack([_queries_to_classes(*pair, size).argmax(0).to(dtype) for pair in pairs])

    def cell_scores(self, grid: tuple[int, int]) -> Tensor:
        """Means of p over the cells of the patch grid, ``[B, C, Y, X]``."""
        fine = (self.mask_logits_BQyx.shape[2], self.mask_logits_BQyx.shape[3])
        return F.avg_pool2d(self.scores(fine), fine[0] // grid[0])

    @property
    def is_finite(self) -> Tensor:
        """Whether all are numbers: one truth value on the device."""
        return self.mask_logits_BQyx.isfinite().all() & self.class_logits_BQC.isfinite().all()


CHUNK = 2**24
"""Probabilities of masks in pixels that are held at once (64 MiB)."""


def _queries_to_classes(masks_Qyx: Tensor, classes_QC: Tensor, size: tuple[int, int]) -> Tensor:
    """p of every class of one image, ``[C, *size]``; a few queries at a time."""
    p_QC = classes_QC.softmax(1)[:, :-1]
    p_CHW = masks_Qyx.new_zeros(p_QC.shape[1], *size)
    step = max(1, CHUNK // (size[0] * size[1]))
    for masks_qyx, p_qC in zip(masks_Qyx.split(step), p_QC.split(step), strict=True):
        if tuple(masks_qyx.shape[1:]) != tuple(size):
            masks_qyx = F.interpolate(masks_qyx[None], size=size, mode="bilinear")[0]
        p_CHW.flatten(1).addmm_(p_qC.T, masks_qyx.sigmoid().flatten(1))
    return p_CHW

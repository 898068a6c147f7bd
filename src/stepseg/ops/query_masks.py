"""Maps of classes from masks of queries that are of no class, as in EoMT and Mask2Former.

Letters: B images, H x W pixels, Y x X cells of the patch grid, y x x points of a finer one, Q
queries, C classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Early:
    """What exit heads said of the cells whose tokens left before the queries came."""

    left_BYX: Tensor
    """bool; True where a token had left."""
    p_BCYX: Tensor
    """Probabilities of all cells, by the last exit head that saw them."""

    def over(self, image: int, p_CHW: Tensor) -> Tensor:
        """p of an image in pixels, with the early answers in their cells."""
        size = (p_CHW.shape[1], p_CHW.shape[2])
        left_11YX = self.left_BYX[image][None, None].to(p_CHW.dtype)
        left_HW = F.interpolate(left_11YX, size, mode="nearest-exact")[0, 0] > 0
        p_1CHW = F.interpolate(self.p_BCYX[image][None].to(p_CHW.dtype), size, mode="bilinear")
        return torch.where(left_HW, p_1CHW[0], p_CHW)


@dataclass(frozen=True, slots=True)
class QueryMasks:
    """Masks and classes of queries."""

    mask_logits_BQyx: Tensor
    """float32; on a grid that is finer than the patches, by a power of two."""
    class_logits_BQC: Tensor
    """float32 ``[B, Q, C + 1]``; the last one is for queries of nothing."""
    early: Early | None = None
    """None: all tokens have met the queries."""

    def scores(self, size: tuple[int, int]) -> Tensor:
        """p of every class, ``[B, C, *size]``: over queries the sum of P(class) x P(in the mask).

        Masks are resized before they become probabilities, as by their authors.
        """
        return torch.stack([self._of_image(image, size) for image in range(self._batch)])

    def prediction(self, size: tuple[int, int], dtype: torch.dtype = torch.int64) -> Tensor:
        """The class of every pixel, ``[B, *size]``; holds the scores of one image."""
        maps = (self._of_image(image, size).argmax(0).to(dtype) for image in range(self._batch))
        return torch.stack(list(maps))

    def cell_scores(self, grid: tuple[int, int]) -> Tensor:
        """Means of p over the cells of the patch grid, ``[B, C, Y, X]``."""
        fine = (self.mask_logits_BQyx.shape[2], self.mask_logits_BQyx.shape[3])
        return F.avg_pool2d(self.scores(fine), fine[0] // grid[0])

    @property
    def is_finite(self) -> Tensor:
        """Whether all are numbers: one truth value on the device."""
        parts = [self.mask_logits_BQyx, self.class_logits_BQC]
        parts += [] if self.early is None else [self.early.p_BCYX]
        return torch.stack([part.isfinite().all() for part in parts]).all()

    @property
    def _batch(self) -> int:
        return len(self.class_logits_BQC)

    def _of_image(self, image: int, size: tuple[int, int]) -> Tensor:
        pair = self.mask_logits_BQyx[image], self.class_logits_BQC[image]
        p_CHW = _queries_to_classes(*pair, size)
        return p_CHW if self.early is None else self.early.over(image, p_CHW)


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

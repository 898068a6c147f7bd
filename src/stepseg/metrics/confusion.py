"""Segmentation accuracy over a whole data set, from one confusion matrix.

The figures are mmsegmentation's: IoU is taken over all pixels of the data set, a class that occurs
neither in the labels nor in the predictions does not enter the mean. A plain `bincount` keeps the
matrix exact and also runs where deterministic algorithms are asked for.

Letters: C classes, H x W pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric


class SegmentationMetric(Metric):
    """mIoU, mAcc, aAcc, fwIoU and boundary IoU in percent, and IoU per class.

    States are sums, so that several processes give the result of one, as long as no image is
    counted twice.

    Args:
        boundary_ratio: width of the boundary band as a share of the image diagonal (Boundary IoU,
            arXiv 2103.16562); 0 leaves boundary IoU out.

    """

    full_state_update = False
    higher_is_better = True
    confusion: Tensor
    boundary_overlap: Tensor
    boundary_label: Tensor
    boundary_prediction: Tensor

    def __init__(
        self, num_classes: int, ignore_index: int = 255, boundary_ratio: float = 0.02
    ) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.boundary_ratio = boundary_ratio
        zeros = torch.zeros(num_classes, dtype=torch.int64)
        self.add_state("confusion", torch.zeros_like(zeros).repeat(num_classes, 1), "sum")
        for name in ("boundary_overlap", "boundary_label", "boundary_prediction"):
            self.add_state(name, zeros.clone(), "sum")

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count one image or a batch, integer ``[..., H, W]`` both."""
        prediction, label = prediction.long(), label.long()
        self.confusion += confusion_matrix(prediction, label, self.num_classes, self.ignore_index)
        if self.boundary_ratio:
            self._update_boundary(prediction, label)

    def _update_boundary(self, prediction: Tensor, label: Tensor) -> None:
        height, width = label.shape[-2:]
        distance = max(1, round(self.boundary_ratio * (height**2 + width**2) ** 0.5))
        valid = label != self.ignore_index
        near_p = boundary_band(prediction, distance) & valid
        near_l = boundary_band(label, distance) & valid
        agree = near_p & near_l & (prediction == label)
        for state, values, counted in (
            (self.boundary_overlap, label, agree),
            (self.boundary_label, label, near_l),
            (self.boundary_prediction, prediction, near_p),
        ):
            state += count_where(values, counted, self.num_classes)

    def compute(self) -> dict[str, Tensor]:
        """The figures in percent, float64 scalars, ``per_class_IoU`` ``[C]`` and ``confusion``.

        The second is NaN for classes that never occurred; the last counts pixels by (label,
        prediction), int64 ``[C, C]``.
        """
        hit = self.confusion.diag().double()
        labelled = self.confusion.sum(1).double()
        predicted = self.confusion.sum(0).double()
        iou = hit / (labelled + predicted - hit)  # 0 / 0: NaN, the class did not occur
        accuracy = hit / labelled
        share = labelled / labelled.sum()
        result = {
            "mIoU": iou.nanmean(),
            "mAcc": accuracy.nanmean(),
            "aAcc": hit.sum() / labelled.sum(),
            "fwIoU": (share * iou).nansum(),
        }
        if self.boundary_ratio:
            overlap = self.boundary_overlap.double()
            union = self.boundary_label + self.boundary_prediction - overlap
            result["boundary_IoU"] = (overlap / union).nanmean()
        result["per_class_IoU"] = iou
        percent = {name: 100 * value for name, value in result.items()}
        return {**percent, "confusion": self.confusion.clone()}


def confusion_matrix(
    prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int
) -> Tensor:
    """Count pixels by (label, prediction), int64 ``[C, C]``; ignored labels are left out."""
    cell = label * num_classes + prediction
    counts = count_where(cell, label != ignore_index, num_classes**2)
    return counts.view(num_classes, num_classes)


def count_where(values: Tensor, counted: Tensor, length: int) -> Tensor:
    """`bincount` of the values that are counted, int64 ``[length]`` or longer.

    Those that are not go to a bin of their own: picking the others costs several times as much.
    """
    bins = torch.where(counted, values + 1, 0)
    return torch.bincount(bins.flatten(), minlength=length + 1)[1:]


def boundary_band(classes: Tensor, distance: int) -> Tensor:
    """Pixels within `distance` of another class or of the image border, boolean ``[..., H, W]``.

    For every class at once this is its mask minus the mask eroded by a square of side
    ``2 * distance + 1``: a pixel survives erosion when its whole neighbourhood has its class.
    """
    flat = classes.reshape(-1, *classes.shape[-2:]).to(torch.int16)
    lowest = highest = F.pad(flat, (distance,) * 4, value=-1)  # outside the image is no class
    for dim in (1, 2):  # separable
        lowest = _slide(torch.minimum, lowest, 2 * distance + 1, dim)
        highest = _slide(torch.maximum, highest, 2 * distance + 1, dim)
    return (highest != lowest).view(classes.shape)


def _slide(
    reduce: Callable[[Tensor, Tensor], Tensor], values: Tensor, length: int, dim: int
) -> Tensor:
    """Reduce over every run of `length` values; runs double, hence some log2(length) passes."""
    run = 1
    while run < length:
        step = min(run, length - run)
        size = values.shape[dim] - step
        values = reduce(values.narrow(dim, 0, size), values.narrow(dim, step, size))
        run += step
    return values

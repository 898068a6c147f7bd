"""Accuracy against hand counts, torchmetrics and a plain numpy recount."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from stepseg.metrics.confusion import SegmentationMetric, boundary_band, confusion_matrix


def test_hand_counted_matrix():
    label = torch.tensor([[[0, 0, 1], [1, 2, 255]]])
    prediction = torch.tensor([[[0, 1, 1], [1, 0, 2]]])
    metric = SegmentationMetric(4, boundary_ratio=0)
    metric.update(prediction, label)
    # rows are labels: 0 -> one hit, one as 1; 1 -> two hits; 2 -> one as 0; 255 is not counted
    assert metric.confusion.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    result = metric.compute()
    # IoU: 1 / 3, 2 / 3, 0 / 1; class 3 never occurs and does not enter the mean
    assert result["mIoU"].item() == pytest.approx(100 * (1 / 3 + 2 / 3 + 0) / 3)
    assert result["mAcc"].item() == pytest.approx(100 * (1 / 2 + 1 + 0) / 3)
    assert result["aAcc"].item() == pytest.approx(100 * 3 / 5)
    assert result["fwIoU"].item() == pytest.approx(100 * (2 / 5 / 3 + 2 / 5 * 2 / 3))
    assert torch.isnan(result["per_class_IoU"][3])


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_torchmetrics_and_numpy(seed):
    generator = torch.Generator().manual_seed(seed)
    classes, batches = 7, 5
    metric = SegmentationMetric(classes)
    theirs = MulticlassJaccardIndex(classes, ignore_index=255, average="none")
    matrix = np.zeros((classes, classes))
    for _ in range(batches):
        label = torch.randint(0, classes - 1, (2, 9, 11), generator=generator)  # class 6 is absent
        label[torch.rand(label.shape, generator=generator) < 0.2] = 255
        prediction = torch.randint(0, classes - 1, label.shape, generator=generator)
        metric.update(prediction, label)
        theirs.update(prediction, label)
        for wanted, got in zip(
            label.flatten().tolist(), prediction.flatten().tolist(), strict=True
        ):
            if wanted != 255:
                matrix[wanted, got] += 1
    hit = np.diag(matrix)
    iou = hit[:-1] / (matrix.sum(0) + matrix.sum(1) - hit)[:-1]
    ours = metric.compute()
    np.testing.assert_allclose(ours["per_class_IoU"][:-1].numpy(), 100 * iou, rtol=1e-12)
    np.testing.assert_allclose(ours["mIoU"].item(), 100 * iou.mean(), rtol=1e-12)
    np.testing.assert_allclose(theirs.compute()[:-1].numpy(), iou, rtol=1e-6)


def test_ignored_pixels_change_nothing():
    label = torch.tensor([[[0, 1], [255, 255]]])
    results = []
    for guess in (0, 1):
        metric = SegmentationMetric(2, boundary_ratio=0)
        metric.update(torch.tensor([[[0, 0], [guess, guess]]]), label)
        results.append({k: v.tolist() for k, v in metric.compute().items()})
    assert results[0] == results[1]


def test_confusion_matrix_is_exact_for_large_counts():
    label = torch.zeros(1, 5000, 5000, dtype=torch.int64)
    assert confusion_matrix(label, label, 2, 255)[0, 0].item() == 25_000_000


def erode(mask: np.ndarray, distance: int) -> np.ndarray:
    """A square erosion by looking at every neighbour; outside the image is False."""
    height, width = mask.shape
    result = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            inside = True
            for dy in range(-distance, distance + 1):
                for dx in range(-distance, distance + 1):
                    v, u = y + dy, x + dx
                    inside &= 0 <= v < height and 0 <= u < width and bool(mask[v, u])
            result[y, x] = inside
    return result


def test_boundary_iou_equals_erosion_per_class():
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randint(0, 3, (2, 3, 4), generator=generator)
    label, prediction = (c.repeat_interleave(6, 0).repeat_interleave(6, 1) for c in coarse)
    prediction = prediction.roll(2, 1)
    prediction[:, :12] = label[:, :12]  # some agreement
    label[0, :5] = 255
    distance = round(0.1 * (18**2 + 24**2) ** 0.5)
    valid = (label != 255).numpy()
    values = []
    for c in range(3):
        masks = [(x == c).numpy() for x in (prediction, label)]
        bands = [m & ~erode(m, distance) & valid for m in masks]
        values.append((bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum())
    metric = SegmentationMetric(3, boundary_ratio=0.1)
    metric.update(prediction[None], label[None])
    assert metric.compute()["boundary_IoU"].item() == pytest.approx(100 * np.mean(values))


def test_boundary_band_of_one_colour_is_its_frame():
    band = boundary_band(torch.zeros(1, 5, 6, dtype=torch.int64), 1)[0]
    assert band[1:-1, 1:-1].sum() == 0
    assert band.sum() == 5 * 6 - 3 * 4


def test_the_matrix_itself_is_among_the_figures():
    metric = SegmentationMetric(2, boundary_ratio=0)
    metric.update(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 255]]))
    assert metric.compute()["confusion"].tolist() == [[1, 1], [0, 0]]

"""Means of loss terms over images that do not all have them."""

import pytest
import torch

from stepseg.metrics.loss import LossMetric


def test_terms_are_means_over_the_images_that_have_them():
    metric = LossMetric(["dice", "policy", "pixel"])
    metric.update({}, 2)
    assert metric.compute() == {"loss_images": 0.0}
    metric.update({"dice": torch.tensor(1.0), "policy": torch.tensor(4.0)}, 3)
    metric.update({"dice": torch.tensor(3.0)}, 1)
    assert metric.compute() == {"dice": pytest.approx(1.5), "policy": 4.0, "loss_images": 4.0}
    with pytest.raises(ValueError, match="not in tuple"):
        metric.update({"focal": torch.tensor(1.0)}, 1)  # a name that other ranks would not have

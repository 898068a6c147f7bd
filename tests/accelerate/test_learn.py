"""On which images a policy is corrected."""

import pytest
import torch

from stepseg.accelerate.learn import Lesson, teach
from stepseg.accelerate.samples import Samples
from stepseg.protocol import Protocol


@pytest.mark.parametrize(("images", "used"), [(7, [0, 2, 4]), (5, [0, 1, 3]), (2, [0, 1])])
def test_as_many_images_as_asked_for_correct_the_scores(images, used, monkeypatch):
    seen = []
    monkeypatch.setattr(Samples, "tensors", lambda self: self.files)
    monkeypatch.setattr(
        "stepseg.accelerate.learn.correct_policy",
        lambda policy, tensors, rule, protocol: seen.extend(tensors),
    )
    policy = torch.nn.Linear(1, 1)
    policy.mean = torch.zeros(1)
    samples = Samples(range(images), dense=None)
    teach(policy, samples, Protocol(), Lesson(steps=0, calibration_images=3))
    assert seen == used

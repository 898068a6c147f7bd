"""How far scores of windows are from probabilities."""

import pytest
import torch

from stepseg.metrics.calibration import CalibrationMetric, calibration_errors


def logits_of(*scores: float) -> torch.Tensor:
    return torch.tensor(scores, dtype=torch.float64).logit()[None, None]


def test_by_hand():
    """Four windows around .25 of which one is homogeneous, one of .95 that is not."""
    metric = CalibrationMetric((2, 4, 8))
    logits = {2: logits_of(0.21, 0.23, 0.27, 0.29, 0.95), 4: logits_of(0.3), 8: logits_of()}
    targets = {2: [True, False, False, False, False], 4: [True], 8: []}
    metric.update(logits, {s: torch.tensor(t, dtype=bool)[None, None] for s, t in targets.items()})
    figures = metric.compute()
    assert figures["2"]["ece"] == pytest.approx(0.95 / 5)
    bins = figures["2"]["bins"]
    assert [b["count"] for b in bins] == [0, 0, 4, 0, 0, 0, 0, 0, 0, 1]
    assert bins[2] == {"count": 4, "confidence": pytest.approx(0.25), "accuracy": 0.25}
    assert bins[0] == {"count": 0, "confidence": None, "accuracy": None}
    assert figures["4"]["ece"] == pytest.approx(0.7)
    assert figures["8"]["ece"] is None
    errors = calibration_errors({"policy_calibration": figures, "exit_calibration": figures})
    assert list(errors) == ["ece_2x2", "ece_4x4", "ece_exit_2", "ece_exit_4"]


def test_certain_scores_have_a_bin_and_batches_add_up():
    infinity = float("inf")
    logits = torch.tensor([[[infinity, -infinity, 0.0, 1.0]]])
    targets = torch.tensor([[[True, False, True, False]]])
    whole, parts = CalibrationMetric((2,)), CalibrationMetric((2,))
    whole.update({2: logits}, {2: targets})
    for part in (slice(0, 1), slice(1, 4)):
        parts.update({2: logits[..., part]}, {2: targets[..., part]})
    assert whole.compute() == parts.compute()
    assert sum(b["count"] for b in whole.compute()["2"]["bins"]) == 4

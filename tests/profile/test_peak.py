"""The fastest product: what is timed, and that the fastest counts."""

import pytest
import torch

from stepseg.profile import peak
from stepseg.profile.speed import Reading


def test_the_fastest_call_counts(monkeypatch):
    seconds = iter([4.0, 0.5, 0.75, 3.0, 0.25, 3.0])  # of the two products, until 5 have passed
    shapes = []

    def fake(product, device):
        shapes.append(product().numel())
        return Reading(next(seconds), 0.0, 0.0)

    monkeypatch.setattr(peak, "clock", fake)
    monkeypatch.setattr(peak, "SIDE_ELSEWHERE", 16)
    monkeypatch.setattr(peak, "SECONDS", 5.0)
    found = peak.matmul_peak(torch.device("cpu"), torch.float32)
    assert found == pytest.approx(16**3 / 0.25)
    assert shapes == [256] * 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_both_products_are_one_product(monkeypatch, dtype):
    results = []

    def keep(product, device):
        results.append(product().reshape(-1).float())
        return Reading(1.0, 0.0, 0.0)

    monkeypatch.setattr(peak, "clock", keep)
    monkeypatch.setattr(peak, "SIDE_ELSEWHERE", 32)
    peak.matmul_peak(torch.device("cpu"), dtype)
    plain, convolution = results[0].view(32, 32), results[-1].view(32, 32)
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(plain, convolution, rtol=tolerance, atol=tolerance)

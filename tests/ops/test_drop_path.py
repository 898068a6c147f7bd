"""Stochastic depth acts on whole images."""

import pytest
import torch

from stepseg.ops.drop_path import DropPath
from stepseg.packed import Segments


def test_an_image_is_dropped_as_a_whole_or_scaled_as_a_whole():
    lengths = [1 + b % 3 for b in range(300)]
    images = Segments.from_lengths(lengths, "cpu").image_ids()
    branch = torch.rand(len(images), 4) + 1
    factor = DropPath(0.25).train()(branch, images, 300) / branch
    dropped = (factor == 0).all(1)
    torch.testing.assert_close(factor[~dropped], torch.full_like(factor[~dropped], 4 / 3))
    for b in range(300):
        assert dropped[images == b].unique().numel() == 1
    assert 0 < dropped.sum() < len(dropped)


def test_images_are_dropped_at_the_rate_and_the_expectation_stays():
    images = torch.arange(20_000)
    out = DropPath(0.3).train()(torch.ones(20_000, 1), images, 20_000)
    # Three standard deviations of 20 000 draws are 0.01.
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)


def test_each_call_draws_anew():
    drop = DropPath(0.5).train()
    images = torch.arange(64)
    draws = [drop(torch.ones(64, 1), images, 64) for _ in range(2)]
    assert not torch.equal(*draws)


@pytest.mark.parametrize("drop", [DropPath(0.5).eval(), DropPath(0.0).train()])
def test_identity_in_evaluation_and_at_rate_zero(drop):
    branch = torch.randn(5, 3)
    assert torch.equal(drop(branch, torch.tensor([0, 0, 1, 1, 1]), 2), branch)


def test_gradient_is_scaled_alike():
    branch = torch.randn(40, 2, requires_grad=True)
    out = DropPath(0.5).train()(branch, torch.arange(40), 40)
    out.sum().backward()
    torch.testing.assert_close(branch.grad, (out / branch).detach())


def test_no_tokens():
    assert DropPath(0.5).train()(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 2).shape == (
        0,
        3,
    )


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=rf"drop path rate .* got {rate}"):
        DropPath(rate)

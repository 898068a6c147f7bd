"""Damaged images for evaluation: by name alone, worse with strength, labels untouched."""

import pytest
import torch

from stepseg.data.corruption import STRENGTHS, Corruption


def image() -> torch.Tensor:
    """Soft colours with fine stripes."""
    coarse = torch.tensor([[0, 60, 200], [90, 255, 30]]).expand(3, 2, 3) * 0.8
    soft = torch.nn.functional.interpolate(coarse[None], (48, 64), mode="bilinear")[0]
    return (soft + torch.arange(64) % 3 * 20).to(torch.uint8)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_is_of_the_name_alone_and_grows_with_strength(kind):
    clean = image()
    weak, strong = (Corruption(kind, strength).apply(clean, "a") for strength in (1, 2))
    assert weak.dtype == torch.uint8
    assert weak.shape == clean.shape
    torch.rand(3)
    assert torch.equal(weak, Corruption(kind, 1).apply(clean, "a"))
    near, far = ((x.float() - clean.float()).abs().mean() for x in (weak, strong))
    assert 1 < near < far
    if kind in ("noise", "fog"):
        assert not torch.equal(weak, Corruption(kind, 1).apply(clean, "b"))
        assert not torch.equal(weak, Corruption(kind, 1, seed=1).apply(clean, "a"))


def test_none_leaves_the_image():
    assert torch.equal(Corruption().apply(image(), "a"), image())


@pytest.mark.parametrize("wrong", [{"kind": "snow"}, {"kind": "fog", "strength": 3}])
def test_says_what_there_is(wrong):
    with pytest.raises(ValueError, match=r"data\.corruption"):
        Corruption(**wrong)

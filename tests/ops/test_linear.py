import pytest
import torch
from torch import nn

import stepseg.ops.linear as module
from stepseg.ops.linear import PackedLinear, pack_linears
from toys import SYSTEMS, toy_images, toy_segmenter

needs_onednn = pytest.mark.skipif(not module._can_pack(), reason="needs oneDNN")


@needs_onednn
@pytest.mark.parametrize("shape", [(5, 24), (1, 24), (2, 7, 24), (1025, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_layer(shape, bias):
    linear, x = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x))
        turned = torch.randn(*shape[:-1], 2, 24).transpose(-1, -2).flatten(-2)[..., 1::2]
        torch.testing.assert_close(PackedLinear(linear)(turned), linear(turned))


@needs_onednn
def test_no_rows_give_no_rows():
    assert PackedLinear(nn.Linear(24, 40))(torch.zeros(0, 24)).shape == (0, 40)


@needs_onednn
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_packed_segmenter_gives_the_same_answers(system):
    model, images = toy_segmenter().prepare_for_inference(), toy_images(2)
    with torch.no_grad():
        expected = model(images, reduction=SYSTEMS[system])
        assert pack_linears(model) > 20
        output = model(images, reduction=SYSTEMS[system])
    assert output.tokens_per_stage == expected.tokens_per_stage
    torch.testing.assert_close(output.scores(), expected.scores(), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_packed_stays(monkeypatch):
    half = nn.Sequential(nn.Linear(16, 16)).bfloat16()
    small = nn.Sequential(nn.Linear(16, 2))
    assert pack_linears(half) == pack_linears(small) == 0
    assert type(half[0]) is type(small[0]) is nn.Linear
    monkeypatch.setattr(module, "_can_pack", lambda: False)
    assert pack_linears(nn.Sequential(nn.Linear(16, 16))) == 0


def test_missing_operators_mean_no_packing(monkeypatch):
    def missing(linear):
        raise AttributeError("no such operator")

    monkeypatch.setattr(module, "PackedLinear", missing)
    assert module._can_pack.__wrapped__() is False

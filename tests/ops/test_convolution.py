"""A convolution and its activation as one kernel: the same numbers, and plain modules elsewhere."""

import copy
import pickle

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stepseg.ops import convolution as module
from stepseg.ops.convolution import ACTIVATIONS, FusedConv, fuses

needs_kernel = pytest.mark.skipif(not module._works(), reason="no oneDNN on this processor")
CONVOLUTIONS = {
    "pointwise": lambda: nn.Conv2d(8, 12, 1),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "dilated": lambda: nn.Conv2d(8, 4, 3, padding=2, dilation=2),
    "same": lambda: Conv2dSame(8, 8, 3, stride=2, groups=8),
    "same, five": lambda: Conv2dSame(8, 6, 5, stride=2),
}
SIZES = [(32, 48), (64, 32), (31, 33), (32, 33), (1, 1)]  # odd ones are padded alike on both sides


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def images(*size, batch=2):
    return torch.randn(batch, 8, *size).to(memory_format=torch.channels_last)


def plain(layer, x):
    return layer.activation(layer.convolution(x))


@pytest.fixture
def calls(monkeypatch):
    """How often the kernel was called."""
    seen, fused = [], FusedConv._fused

    def noted(self, x):
        seen.append(x.shape)
        return fused(self, x)

    monkeypatch.setattr(FusedConv, "_fused", noted)
    return seen


@needs_kernel
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_equals_the_two_modules(convolution, activation, calls):
    layer = FusedConv(CONVOLUTIONS[convolution](), activation())
    for size in [*SIZES, *SIZES]:
        x = images(*size)
        found = layer(x)
        torch.testing.assert_close(found, plain(layer, x), rtol=1e-4, atol=1e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert len(calls) == 2 * len(SIZES)


@needs_kernel
def test_weights_that_change_copies_and_files():
    layer, x = FusedConv(nn.Conv2d(8, 8, 1), nn.ReLU()), images(16, 16)
    layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        other.convolution.weight.mul_(-1)
        torch.testing.assert_close(other(x), plain(other, x))
    layer.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()})
    torch.testing.assert_close(layer(x), plain(layer, x))
    assert layer.double()(x.double()).dtype == torch.float64
    torch.testing.assert_close(layer.float()(x), plain(layer, x))


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_who_asks_for_the_modules_gets_them(calls):
    layer, x = FusedConv(nn.Conv2d(8, 8, 1), nn.ReLU6()), images(16, 16)
    with torch.enable_grad():
        layer(x).sum().backward()
    assert layer.convolution.weight.grad is not None
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 2 * 8 * 8 * 16 * 16
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert copy.deepcopy(layer).bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    torch.export.export(layer, (x,))
    torch.jit.trace(layer, x, check_trace=False)
    assert not fuses(x.to("meta"))
    assert calls == []


@pytest.mark.parametrize("broken", ["missing", "wrong"])
def test_an_operator_that_is_not_what_it_was(broken, monkeypatch, calls):
    real = torch.ops.mkldnn._convolution_pointwise

    def changed(*arguments):
        if broken == "missing":
            raise AttributeError("no such operator")
        return real(*arguments) + 1

    module._works.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", changed)
    try:
        assert not fuses(images(4, 4))
    finally:
        module._works.cache_clear()
    assert FusedConv.takes(nn.Conv2d(3, 3, 1), nn.ReLU())
    assert not FusedConv.takes(nn.Conv2d(3, 3, 1), nn.GELU())
    assert not FusedConv.takes(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU())

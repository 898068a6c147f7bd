"""A convolution and its activation as one kernel of oneDNN: for x86 CPUs, at inference.

PyTorch's own way writes the result and goes over it again for the activation, lays the weights out
for the kernel in every call, takes a plain matrix product for 1 x 1 convolutions of one thread, and
copies the whole input to pad it more on one side, as TensorFlow does before strided convolutions.
Of EfficientNet-Lite0 at 512 x 512 that is an eighth of the time (ratios of .88 with one thread and
.86 with two, in turns on an idle AMD EPYC), of LCNet nothing.

The operator is private to PyTorch, so that it is tried once on a few numbers before it is used.
Whoever traces, counts, compiles or differentiates sees the two modules.

Letters: B images, F and G features, H x W pixels.
"""

import platform
from collections.abc import Sequence
from functools import cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
}
"""What the kernel can do with its result, as the operator calls it."""
MOST_SHAPES = 4
"""Of images, for which a layer holds weights."""


class FusedConv(nn.Module):
    """A convolution, then an activation.

    Args:
        convolution: of those that `takes` takes.
        activation: one of `ACTIVATIONS`.

    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.convolution, self.activation = convolution, activation
        self._packed: dict[tuple, Tensor] = {}

    @staticmethod
    def takes(convolution: nn.Module, activation: nn.Module) -> bool:
        """Whether these may become one kernel."""
        known = type(convolution) in (nn.Conv2d, Conv2dSame) and type(activation) in ACTIVATIONS
        return known and convolution.padding_mode == "zeros"

    def forward(self, x_BFHW: Tensor) -> Tensor:
        """As the two modules up to rounding, ``[B, G, H / stride, W / stride]``."""
        if fuses(x_BFHW):
            return self._fused(x_BFHW)
        return self.activation(self.convolution(x_BFHW))

    def _fused(self, x_BFHW: Tensor) -> Tensor:
        own = self.convolution
        before, after = _padding(own, x_BFHW.shape[2:])
        lopsided = before != after
        if lopsided and after != [side + 1 for side in before]:
            x_BFHW = F.pad(x_BFHW, (before[1], after[1], before[0], after[0]))
            after, lopsided = [0, 0], False
        geometry = (after, own.stride, own.dilation, own.groups)
        weight = self._weight(x_BFHW.shape, lopsided, *geometry)
        kind = ACTIVATIONS[type(self.activation)]
        return torch.ops.mkldnn._convolution_pointwise(
            x_BFHW, weight, own.bias, *geometry, *kind, ""
        )

    def _weight(self, shape: torch.Size, lopsided: bool, *geometry: Any) -> Tensor:
        """As the kernel for this shape wants it; for as long as the weights stay what they are."""
        weight = self.convolution.weight
        version = 0 if weight.is_inference() else weight._version
        key = (weight.data_ptr(), version, lopsided, shape)
        if key not in self._packed:
            if len(self._packed) == MOST_SHAPES:
                self._packed.clear()
            if lopsided:  # one pixel more after the image than before: one of the kernel before it
                weight = F.pad(weight, (1, 0, 1, 0))
            pack = torch.ops.mkldnn._reorder_convolution_weight
            self._packed[key] = pack(weight.detach().contiguous(), *geometry, list(shape))
        return self._packed[key]

    def _apply(self, *args: Any, **options: Any) -> Self:
        self._packed = {}
        return super()._apply(*args, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": {}}  # copies have weights of their own


def fuses(x: Tensor) -> bool:
    """Whether convolutions of this tensor are one kernel with their activations."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and type(x) is Tensor
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._len_torch_dispatch_stack()  # somebody counts or records operators
        and bool(torch.backends.mkldnn.enabled)
        and _works()
    )


def _padding(convolution: nn.Conv2d, size: Sequence[int]) -> tuple[list[int], list[int]]:
    """Pixels above and left of the image, and below and right of it."""
    if not isinstance(convolution, Conv2dSame):
        around = [int(side) for side in convolution.padding]
        return around, around
    own = (convolution.kernel_size, convolution.stride, convolution.dilation)
    sides = zip(size, *own, strict=True)
    total = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in sides]
    return [side // 2 for side in total], [side - side // 2 for side in total]


@cache
def _works() -> bool:
    """Whether the operator is here, and is right about a few numbers."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(0)
            return all(
                torch.allclose(layer._fused(x), layer.activation(layer.convolution(x)), atol=1e-4)
                for layer in _few_layers()
                for x in [torch.randn(2, 16, 10, 12).to(memory_format=torch.channels_last)]
            )
    except (AttributeError, RuntimeError, TypeError):
        return False


def _few_layers() -> list[FusedConv]:
    return [
        FusedConv(convolution, activation())
        for activation in ACTIVATIONS
        for convolution in (
            nn.Conv2d(16, 24, 1),
            Conv2dSame(16, 16, 3, stride=2, groups=16),
            nn.Conv2d(16, 8, 5, padding=2, groups=2),
        )
    ]

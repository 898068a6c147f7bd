"""Linear layers for inference on a CPU: weights laid out for oneDNN once, not in every call.

PyTorch multiplies float32 matrices by MKL, which repacks the weight each time and on AMD processors
runs at half the speed of oneDNN. The operators are those that `torch.compile` uses on CPUs; where
they do not exist, nothing is packed.
"""

from functools import cache

import torch
from torch import Tensor, nn

TYPICAL_ROWS = 512
"""For which oneDNN chooses the layout; any number of rows works."""

LEAST_OUTPUTS = 8
"""Smaller layers gain nothing (and some are read rather than called)."""


class PackedLinear(nn.Module):
    """What `linear` computes; only on the CPU, in float32 and without gradients.

    The packed weight is neither a parameter nor a buffer: it can be neither moved nor saved.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TYPICAL_ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == 0:  # an image, or a batch, without tokens
            return x.new_zeros(*x.shape[:-1], self.out_features)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def pack_linears(module: nn.Module) -> int:
    """Replace the linear layers within `module` by packed ones, in place, where that is possible.

    Args:
        module: on its device, in its dtype, ready for inference.

    Returns:
        How many were replaced; 0 off the CPU, in other dtypes than float32, or without oneDNN.

    """
    if not _can_pack():
        return 0
    packed = 0
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if (
                type(child) is nn.Linear
                and child.out_features >= LEAST_OUTPUTS
                and child.weight.device.type == "cpu"
                and child.weight.dtype == torch.float32
            ):
                setattr(parent, name, PackedLinear(child))
                packed += 1
    return packed


@cache
def _can_pack() -> bool:
    """Whether the operators exist with the arguments that `PackedLinear` passes, and agree."""
    if not torch.backends.mkldnn.is_available():
        return False
    linear, x = nn.Linear(16, 16), torch.rand(3, 16)
    try:
        with torch.no_grad():
            return torch.allclose(PackedLinear(linear)(x), linear(x), atol=1e-5)
    except (AttributeError, RuntimeError, TypeError):
        return False

"""From the policy's features to the logits of one window size, and what makes them probabilities.

Crops show other windows than whole images do, so a policy that learns from crops is wrong about
whole images by about the same odds everywhere. A correction of the bias mends that (Platt scaling
of slope one). It counts wherever scores decide or are judged and never in the loss, which would
unlearn it.

Letters: B images, F features, Y x X windows.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CORRECTION = "correction"
HALVINGS = 80
"""Of an interval as long as there are windows: enough for the last bit of 32."""


class ExactConv(nn.Conv2d):
    """A convolution of single windows that stays in float32, whatever type the rest is cast to.

    Near a threshold a half-precision score is too coarse to decide, and this costs nothing.
    """

    def forward(self, x_BFYX: Tensor) -> Tensor:
        """Float32."""
        return self._exactly(x_BFYX, self.bias)

    def _exactly(self, x_BFYX: Tensor, bias: Tensor | None) -> Tensor:
        device = x_BFYX.device.type  # meta, where operations are counted, has no autocast
        with torch.autocast(device if device != "meta" else "cpu", enabled=False):
            exact = self.weight.dtype if self.weight.dtype == torch.float64 else torch.float32
            x_BFYX = x_BFYX.to(exact)
            if x_BFYX.is_cuda:
                return self._by_product(x_BFYX, bias)
            return self._conv_forward(x_BFYX, self.weight, bias)

    def _by_product(self, x_BFYX: Tensor, bias: Tensor | None) -> Tensor:
        """As a product of matrices: cuDNN convolves in TF32, which is as coarse as half precision.

        Products stay in float32 unless a user asks PyTorch for less.
        """
        return F.linear(x_BFYX.movedim(1, -1), self.weight.flatten(1), bias).movedim(-1, 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow to another device or to more bits, but never to fewer."""

        def exactly(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.is_floating_point() and moved.itemsize < 4 <= tensor.itemsize:
                return tensor.to(moved.device)
            return moved

        return super()._apply(exactly, recurse)


class WindowClassifier(ExactConv):
    """A linear map of the features of every window; in evaluation mode with the correction.

    Args:
        features: F.

    """

    correction: Tensor
    """[1]; of the bias."""

    def __init__(self, features: int) -> None:
        super().__init__(features, 1, 1)
        self.register_buffer(CORRECTION, torch.zeros(1))

    def forward(self, x_BFYX: Tensor) -> Tensor:
        """Logits ``[B, 1, Y, X]``."""
        assert self.bias is not None
        return self._exactly(x_BFYX, self.bias if self.training else self.bias + self.correction)

    def folded(self) -> ExactConv:
        """The same in evaluation mode, to the last bit, without a correction of its own."""
        assert self.bias is not None
        plain = ExactConv(self.in_channels, 1, 1).train(self.training)
        plain.weight = self.weight
        plain.bias = nn.Parameter(self.bias.detach() + self.correction, self.bias.requires_grad)
        return plain

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        add_corrections(state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args)


def add_corrections(state: dict[str, Tensor]) -> None:
    """Give weights from before there were corrections one of zero, in place."""
    for key in list(state):
        name, _, last = key.rpartition(".")
        if last == "bias" and name.rpartition(".")[0].endswith("classifier"):
            state.setdefault(f"{name}.{CORRECTION}", torch.zeros(1))


def fit_corrections(
    logits: Sequence[Tensor],
    targets: Sequence[Tensor],
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Tensor:
    """What to add to the logits of every size so that scores are right on average.

    Maximises the likelihood with a standard normal prior on the correction, which weighs as much as
    four windows of score .5: so it is zero without windows, and finite where all of them are
    homogeneous, or none. By halving an interval, which always ends, in as many steps on all ranks.

    Args:
        logits: per size any number of windows, uncorrected.
        targets: whether they are homogeneous, alike.
        total: sums a vector over the ranks.

    Returns:
        float64, one per size.

    """
    counts = [torch.stack([t.sum(), torch.full_like(t.sum(), t.numel())]) for t in targets]
    homogeneous_S, windows_S = total(torch.stack(counts, 1).double())
    low_S, high_S = -windows_S, windows_S
    for _ in range(HALVINGS):
        middle_S = (low_S + high_S) / 2
        expected = [(x.double() + b).sigmoid().sum() for x, b in zip(logits, middle_S, strict=True)]
        too_high_S = total(torch.stack(expected)) + middle_S > homogeneous_S
        low_S = torch.where(too_high_S, low_S, middle_S)
        high_S = torch.where(too_high_S, middle_S, high_S)
    return (low_S + high_S) / 2

"""BatchNorm whose batch is that of all processes, on any device and for any mix of image sizes.

PyTorch's own `SyncBatchNorm` needs a GPU, and its conversion drops the activations that timm keeps
within its norms.

Letters: B images, F features, Y x X cells.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm, then whatever children it has: in timm's networks an activation.

    With one process and in evaluation mode this is PyTorch's BatchNorm. Otherwise every process has
    to call it alike: there is one collective in the forward and one in the backward pass.
    """

    def forward(self, x_BFYX: Tensor) -> Tensor:
        """Normalise ``[B, F, Y, X]``."""
        alone = not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
        y_BFYX = super().forward(x_BFYX) if alone or not self.training else self._shared(x_BFYX)
        for child in self.children():
            y_BFYX = child(y_BFYX)
        return y_BFYX

    def _shared(self, x_BFYX: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        # Sums of squares around the running mean: around zero they would cancel.
        origin_F = self.running_mean.clone()
        centred_BFYX = x_BFYX.float() - origin_F[:, None, None]
        count = centred_BFYX.new_full((1,), centred_BFYX.numel() / len(origin_F))
        sums_F, squares_F = centred_BFYX.sum((0, 2, 3)), centred_BFYX.square().sum((0, 2, 3))
        total = _SumOverRanks.apply(torch.cat([sums_F, squares_F, count]))
        mean_F, square_F = (total[:-1] / total[-1]).chunk(2)
        var_F = square_F - mean_F.square()
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased_F = var_F * total[-1] / (total[-1] - 1).clamp(min=1)
            self.running_mean.lerp_(mean_F + origin_F, self.momentum)
            self.running_var.lerp_(unbiased_F, self.momentum)
        scale_F = self.weight * (var_F + self.eps).rsqrt()
        shift_F = self.bias - mean_F * scale_F
        y_BFYX = centred_BFYX * scale_F[:, None, None] + shift_F[:, None, None]
        return y_BFYX.to(x_BFYX.dtype)


class _SumOverRanks(torch.autograd.Function):
    """What is added up going forward is, going back, the gradient of every process's share."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def share_batch_norm(model: nn.Module) -> None:
    """Put a `SharedBatchNorm` in the place of every BatchNorm, with its parameters, in place."""
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, norm in norms.items():
        shared = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum)
        shared.load_state_dict(norm.state_dict())
        for child_name, child in norm.named_children():
            shared.add_module(child_name, child)
        model.set_submodule(name, shared.train(norm.training))

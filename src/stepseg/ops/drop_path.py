"""Stochastic depth per image: a residual branch is dropped for all tokens of an image or for none.

A drop path that draws per row would act per token on a packed ``[T, D]`` tensor.
"""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drop the branch of an image with probability `rate` in training and rescale the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop path rate must lie in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, branch_TD: Tensor, image_ids_T: Tensor, num_images: int) -> Tensor:
        """Scale the rows ``[T, D]`` of each image by 0 or by ``1 / (1 - rate)``."""
        if not self.training or self.rate == 0:
            return branch_TD
        kept = torch.rand(num_images, device=branch_TD.device) >= self.rate
        scale_B = kept.to(branch_TD.dtype) / (1 - self.rate)
        return branch_TD * scale_B[image_ids_T, None]

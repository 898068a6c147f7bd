"""Images and labels of any size on a grid of cells."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiple: int, value: float) -> Tensor:
    """Pad ``[..., H, W]`` at the bottom and right, so that `multiple` divides both sides."""
    bottom, right = (-x.shape[-2] % multiple, -x.shape[-1] % multiple)
    return F.pad(x, (0, right, 0, bottom), value=value) if bottom or right else x

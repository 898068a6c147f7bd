"""The class map in pixels from scores on the patch grid, without the scores in pixels.

The map is the argmax of bilinearly upsampled scores. Materialised, these are 150 x 1024 x 1024
numbers, and making them costs as much as a transformer block. But between four neighbouring cell
centres a score is a mean of the four with weights that all classes share: a class that leads in all
four leads everywhere between them. Only where the leaders differ are pixels computed.

Letters: B images, Y x X cells, Q = (Y + 1) x (X + 1) quads of neighbouring cell centres, C classes.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from stepseg.ops.first_use import FirstUse

CPU_CHUNK = 2**20
"""Numbers that are computed at once: what stays in the cache of a CPU core."""
GPU_CHUNK = 2**26
"""The same on a GPU, where it only bounds the memory (256 MiB in float32)."""


def upsampled_argmax(scores_BYXC: Tensor, factor: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Argmax over classes of ``interpolate(scores, scale_factor=factor, mode="bilinear")``.

    Equal to the two steps up to rounding, where two classes tie.

    Args:
        scores_BYXC: any floating dtype.
        factor: pixels per cell in each direction.
        dtype: of the labels, wide enough for them.

    Returns:
        ``[B, Y * factor, X * factor]``.

    """
    fused = _fused() if scores_BYXC.is_cuda else None
    if fused is None:
        return disputed_argmax(scores_BYXC, factor, dtype)
    kind = (str(scores_BYXC.device), scores_BYXC.dtype, factor, dtype)
    return fused(kind, scores_BYXC, factor, dtype)


@cache
def _fused() -> Callable[..., Tensor] | None:
    """The kernel, where Triton is installed."""
    try:
        from stepseg.ops.map_kernel import label_quads
    except ImportError:
        return None
    return FirstUse("the fused kernel of the class map", label_quads, disputed_argmax, _differ)


def _differ(ours: Tensor, expected: Tensor) -> str | None:
    """Labels differ where rounding decides ties, and nowhere else."""
    if ours.shape != expected.shape or ours.dtype != expected.dtype:
        return f"labels {tuple(ours.shape)} of {ours.dtype}"
    share = float((ours != expected).float().mean())  # host sync: once for a device and type
    return None if share < 0.01 else f"{100 * share:.1f} % of the pixels have another class"


def disputed_argmax(scores_BYXC: Tensor, factor: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """`upsampled_argmax` by quads. Waits once for the device: how many have corners that differ."""
    batch, rows, columns, classes = scores_BYXC.shape
    cells_NC = scores_BYXC.reshape(-1, classes)
    corners_Q4 = _corners(batch, rows, columns, scores_BYXC.device)
    leaders_Q4 = cells_NC.argmax(1)[corners_Q4]
    labels_QP = leaders_Q4[:, :1].repeat(1, factor**2)
    disputed = (leaders_Q4 != leaders_Q4[:, :1]).any(1).nonzero().squeeze(1)  # host sync
    weights_P4 = _weights(factor, scores_BYXC)
    budget = GPU_CHUNK if scores_BYXC.is_cuda else CPU_CHUNK
    step = max(1, budget // (factor**2 * classes))
    for quads in disputed.split(step):
        scores_QPC = weights_P4 @ cells_NC[corners_Q4[quads]]
        labels_QP[quads] = scores_QPC.max(dim=2).indices
    height, width = (rows + 1) * factor, (columns + 1) * factor
    labels = labels_QP.view(batch, rows + 1, columns + 1, factor, factor)
    labels_BHW = labels.transpose(2, 3).reshape(batch, height, width)
    # The quads reach from the centre of a cell outside to one outside on the other side.
    start = factor - factor // 2
    inside = labels_BHW[:, start : start + rows * factor, start : start + columns * factor]
    return inside.to(dtype)


def _corners(batch: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """The four cells around every quad, int64 ``[Q, 4]``; the border repeats outwards."""
    cells = torch.arange(batch * rows * columns, device=device).view(batch, rows, columns)
    y = torch.arange(-1, rows + 1, device=device).clamp(0, rows - 1)
    x = torch.arange(-1, columns + 1, device=device).clamp(0, columns - 1)
    padded = cells[:, y[:, None], x]
    around = (padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:])
    return torch.stack(around, dim=-1).flatten(0, 2)


def _weights(factor: int, like: Tensor) -> Tensor:
    """Bilinear weights of the four corners in every pixel of a quad, ``[factor * factor, 4]``."""
    first = 0.0 if factor % 2 else 0.5  # with odd factors a pixel lies on the centre of its cell
    far = (torch.arange(factor, dtype=like.dtype, device=like.device) + first) / factor
    near_far = torch.stack([1 - far, far], dim=1)
    return (near_far[:, None, :, None] * near_far[None, :, None, :]).reshape(-1, 4)

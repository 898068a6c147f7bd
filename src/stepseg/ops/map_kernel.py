"""The class map in pixels as one kernel, for GPUs: bilinear upsampling and argmax at once.

Nothing but labels is written and nobody waits. A program takes a quad of neighbouring cell centres
and goes through the classes with their best so far in registers.

Needs Triton, which PyTorch for CUDA brings along; on a CPU only Triton's interpreter runs it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _label_quads(  # type: ignore[no-untyped-def]
    scores, labels, rows, columns, classes, FACTOR: tl.constexpr, PIXELS: tl.constexpr
):
    quad = tl.program_id(0).to(tl.int64)
    across = columns + 1
    image = quad // ((rows + 1) * across)
    y, x = quad // across % (rows + 1), quad % across
    # The border repeats outwards.
    top, bottom = tl.maximum(y - 1, 0), tl.minimum(y, rows - 1)
    left, right = tl.maximum(x - 1, 0), tl.minimum(x, columns - 1)
    cells = scores + image * rows * columns * classes
    top_left = cells + (top * columns + left) * classes
    top_right = cells + (top * columns + right) * classes
    bottom_left = cells + (bottom * columns + left) * classes
    bottom_right = cells + (bottom * columns + right) * classes

    pixel = tl.arange(0, PIXELS)
    pixel_y, pixel_x = pixel // FACTOR, pixel % FACTOR
    # With odd factors a pixel lies on the centre of its cell.
    first = 0.5 - 0.5 * (FACTOR % 2)
    below, beside = (pixel_y + first) / FACTOR, (pixel_x + first) / FACTOR
    above, before = 1 - below, 1 - beside
    best = tl.full([PIXELS], float("-inf"), tl.float32)
    label = tl.full([PIXELS], 0, tl.int32)
    for index in range(classes):
        upper = before * tl.load(top_left + index).to(tl.float32)
        upper += beside * tl.load(top_right + index).to(tl.float32)
        lower = before * tl.load(bottom_left + index).to(tl.float32)
        lower += beside * tl.load(bottom_right + index).to(tl.float32)
        score = above * upper + below * lower
        leads = score > best  # of equal ones the first leads
        best = tl.where(leads, score, best)
        label = tl.where(leads, index, label)

    # Quads reach from the centre of a cell outside to one outside on the other side.
    height, width = rows * FACTOR, columns * FACTOR
    to_y = y * FACTOR + pixel_y - (FACTOR - FACTOR // 2)
    to_x = x * FACTOR + pixel_x - (FACTOR - FACTOR // 2)
    inside = (to_y >= 0) & (to_y < height) & (to_x >= 0) & (to_x < width)
    inside = inside & (pixel < FACTOR * FACTOR)
    to = labels + (image * height + to_y) * width + to_x
    tl.store(to, label.to(labels.dtype.element_ty), mask=inside)


def label_quads(scores_BYXC: Tensor, factor: int, dtype: torch.dtype) -> Tensor:
    """As `stepseg.ops.upsample.upsampled_argmax`."""
    batch, rows, columns, classes = scores_BYXC.shape
    labels = torch.empty(
        batch, rows * factor, columns * factor, dtype=dtype, device=scores_BYXC.device
    )
    quads = batch * (rows + 1) * (columns + 1)
    if labels.numel():
        with torch.cuda.device_of(scores_BYXC):
            _label_quads[(quads,)](
                scores_BYXC.contiguous(),
                labels,
                rows,
                columns,
                classes,
                FACTOR=factor,
                PIXELS=triton.next_power_of_2(factor * factor),
            )
    return labels

"""From images to label maps under a protocol, in bounded memory.

The scores of all classes in all pixels are large: 150 classes of a 20-megapixel photograph take
12 GB. A label map needs them only for a while: rows that no further window touches are settled, and
scores that are resized can be compared a few classes at a time. The result is the argmax of
`stepseg.protocol.predict_scores`, number for number.

Letters: B images, H x W pixels, C classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from stepseg.protocol import (
    HW,
    Protocol,
    Scorer,
    Window,
    check_work,
    predict_scores,
    resize,
    resized_size,
    window_scores,
    windows_per_pixel,
)
from stepseg.segmentation import Segmentation

CHUNK = 2**24
"""Resized scores that are compared at once (64 MiB)."""


@torch.no_grad()
def predict_map(
    segment: Callable[[Tensor], Segmentation],
    images: Tensor,
    protocol: Protocol,
    output_size: HW | None = None,
) -> Tensor:
    """The class of every pixel, int64 ``[B, *output_size]``.

    Args:
        segment: the model, for float images in 0..1; called once per window, scale and so on.
        images: uint8, ``[B, 3, H, W]``.
        protocol: how to show the images.
        output_size: (height, width) of the result, default the images' own size.

    """
    if protocol.is_plain and output_size in (None, tuple(images.shape[-2:])):
        # one view at full size: its map needs no scores in pixels at all
        return segment(images.float() / 255).prediction()
    return predict_labels(lambda x: segment(x).scores(), images, protocol, output_size)


@torch.no_grad()
def predict_labels(
    scorer: Scorer, images: Tensor, protocol: Protocol, output_size: HW | None = None
) -> Tensor:
    """Class with the highest score per pixel, int64 ``[B, *output_size]``."""
    check_work(images.shape[-2], images.shape[-1], protocol)
    output_size = output_size or (images.shape[-2], images.shape[-1])
    if len(protocol.scales) > 1 or protocol.flip:
        return predict_scores(scorer, images, protocol, output_size).argmax(1)
    if images.dtype == torch.uint8:
        images = images.float() / 255
    size = resized_size(images.shape[-2], images.shape[-1], protocol, protocol.scales[0])
    if protocol.mode == "slide" and size == output_size:
        shown = resize(images, size, antialias=protocol.antialias)
        return _slide_labels(scorer, shown, protocol.windows(*size), protocol)
    scores = predict_scores(scorer, images, protocol, size)
    return resized_argmax(scores, output_size)


def resized_argmax(scores_BCHW: Tensor, size: HW) -> Tensor:
    """Argmax over classes of the scores resized to `size`, int64 ``[B, *size]``."""
    batch, classes = scores_BCHW.shape[:2]
    step = max(1, CHUNK // (batch * size[0] * size[1]))
    best = labels = None
    for first in range(0, classes, step):
        values, indices = resize(scores_BCHW[:, first : first + step], size).max(1)
        if best is None or labels is None:
            best, labels = values, indices
            continue
        better = values > best
        labels = torch.where(better, indices + first, labels)
        best = torch.where(better, values, best)
    assert labels is not None
    return labels


def _slide_labels(
    scorer: Scorer, images: Tensor, windows: list[Window], protocol: Protocol
) -> Tensor:
    """Argmax of the mean of the window scores; only rows under open windows are held."""
    batch, _, height, width = images.shape
    count_HW = windows_per_pixel(windows, height, width, images.device)
    labels = []
    band: Tensor | None = None
    base = 0  # the image row where the band begins
    for group, scores in window_scores(scorer, images, windows, protocol):
        if band is None:
            band = scores.new_zeros((batch, scores.shape[1], 0, width))
        settled = group[0][1].top - base  # windows come row by row
        if settled > 0:
            labels.append(_settle(band[:, :, :settled], count_HW[base : base + settled]))
            band, base = band[:, :, settled:], base + settled
        missing = group[-1][1].bottom - base - band.shape[2]
        if missing > 0:
            more = band.new_zeros((*band.shape[:2], missing, width))
            band = torch.cat((band, more), 2)
        for (image, w), own_scores in zip(group, scores, strict=True):
            band[image, :, w.top - base : w.bottom - base, w.left : w.right] += own_scores
    assert band is not None
    labels.append(_settle(band, count_HW[base:]))
    return torch.cat(labels, 1)


def _settle(sums_BCHW: Tensor, count_HW: Tensor) -> Tensor:
    return (sums_BCHW / count_HW.to(sums_BCHW)).argmax(1)

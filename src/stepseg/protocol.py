"""Whole-image and sliding-window inference for any model: images in, scores at label size out.

The semantics follow mmsegmentation so that mIoU can be compared: keep-ratio resize, windows on a
regular grid whose last row and column are shifted inside, scores summed and divided by the number
of windows, then resized bilinearly (align_corners=False) to the label's size. Label maps that need
no scores of the whole image are made in `stepseg.label_map`; metrics and colours are not here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST_EDGE = 2**16
"""Pixels; of what an image may be resized to, and of windows."""
LARGEST_SCALE = 64.0
MOST_VIEWS = 256
"""How often each pixel of an image may be computed: windows that overlap, scales, mirroring."""
ALWAYS_ALLOWED = 2**28
"""Pixels that may be computed for any image, however small; half as many at once."""
LEAST_WINDOW = 2**14
"""Pixels that a window counts as at least: a forward pass costs something by itself."""

HW = tuple[int, int]
Scorer = Callable[[Tensor], Tensor]
"""float [B, 3, H, W] in 0..1 -> scores [B, C, H, W]"""


class TooMuchWorkError(ValueError):
    """A protocol asks for absurdly much on an image of this size."""


@dataclass(frozen=True)
class Protocol:
    """How an image is shown to the model; goes into every result file."""

    mode: str = "whole"
    """Either "whole" (the image at once) or "slide" (windows of `crop` every `stride` pixels)."""
    resize_short: int | tuple[int, int] | None = None
    """Short edge in pixels, or (long, short) limits to fit the image into; None keeps the size."""
    crop: HW | None = None
    """Window (height, width), slide only."""
    stride: HW | None = None
    """Step between windows (vertical, horizontal), slide only; None: two thirds of the crop."""
    even: bool = False
    """Instead of a stride: as few windows as cover the image, evenly spread, as EoMT does it."""
    antialias: bool = False
    """Resize images as transformers and Pillow do, averaging where they shrink; mmsegmentation does
    not."""
    scales: tuple[float, ...] = (1.0,)
    """Factors on the resized image; the scores of all are averaged."""
    flip: bool = False
    """Also average over the mirrored image."""
    window_batch: int = 8
    """Windows per forward pass."""
    accumulate_on_cpu: bool = False
    """Keep the sum of scores in main memory: for many classes on large images."""

    def __post_init__(self) -> None:
        for name in ("crop", "stride", "resize_short"):  # YAML brings lists
            value = getattr(self, name)
            if isinstance(value, (list, tuple)):
                object.__setattr__(self, name, tuple(int(v) for v in value))
        for name in ("crop", "stride"):
            if isinstance(getattr(self, name), int):
                object.__setattr__(self, name, (getattr(self, name),) * 2)
        if self.mode == "slide" and self.crop is not None and self.stride is None and not self.even:
            # 341 of 512 and 512 of 768, the steps of the published ViT results
            object.__setattr__(self, "stride", tuple(max(1, edge * 2 // 3) for edge in self.crop))
        object.__setattr__(self, "scales", tuple(float(s) for s in self.scales))
        self._validate()

    def _validate(self) -> None:
        if self.mode not in ("whole", "slide"):
            raise ValueError(f"mode is 'whole' or 'slide', got {self.mode!r}")
        if self.mode == "whole" and (self.crop or self.stride or self.even):
            raise ValueError(
                "crop and stride belong to mode 'slide'; remove them (and even) or set mode: slide"
            )
        if self.even and self.stride is not None:
            raise ValueError("windows are either even or a stride apart: set stride or even alone")
        if self.mode == "slide":
            if self.crop is None:
                raise ValueError("mode 'slide' needs crop (height, width)")
            if self.stride is not None and (
                min(self.stride) < 1
                or any(s > c for s, c in zip(self.stride, self.crop, strict=True))
            ):
                raise ValueError(
                    f"stride {self.stride} must lie in 1..crop {self.crop}, or pixels stay unseen"
                )
            if not 1 <= min(self.crop) <= max(self.crop) <= LARGEST_EDGE:
                raise ValueError(f"crop {self.crop} is at most {LARGEST_EDGE} pixels long")
        short = self.resize_short
        edges = short if isinstance(short, tuple) else (1 if short is None else short,) * 2
        if len(edges) != 2 or not all(1 <= edge <= LARGEST_EDGE for edge in edges):
            raise ValueError(
                f"resize_short is a number of pixels in 1..{LARGEST_EDGE} or (long, short), got "
                f"{short}"
            )
        if not self.scales or not all(0 < scale <= LARGEST_SCALE for scale in self.scales):
            raise ValueError(
                f"scales must be positive and at most {LARGEST_SCALE:g}, got {_short(self.scales)}"
            )
        if self.window_batch < 1:
            raise ValueError(f"window_batch must be at least 1, got {self.window_batch}")

    def windows(self, height: int, width: int) -> list[Window]:
        """What is shown of an image of this size: all of it, or the windows row by row."""
        if self.mode == "whole":
            return [Window(0, 0, height, width)]
        assert self.crop is not None
        if self.stride is not None:
            return sliding_windows(height, width, self.crop, self.stride)
        return [
            Window(top, left, min(top + self.crop[0], height), min(left + self.crop[1], width))
            for top in _even_starts(height, self.crop[0])
            for left in _even_starts(width, self.crop[1])
        ]

    def number_of_windows(self, height: int, width: int) -> int:
        """How many `windows` there are, without making them."""
        assert self.crop is not None
        if self.stride is None:
            return -(-height // self.crop[0]) * -(-width // self.crop[1])
        return math.prod(map(_count, (height, width), self.crop, self.stride))

    @property
    def is_plain(self) -> bool:
        """Whether the model sees an image once, whole and in its own size."""
        return (
            self.mode == "whole"
            and self.resize_short is None
            and self.scales == (1.0,)
            and not self.flip
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for result.json."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


class Window(NamedTuple):
    """Rows top..bottom and columns left..right of an image, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> HW:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left


def sliding_windows(height: int, width: int, crop: HW, stride: HW) -> list[Window]:
    """Windows over an image, row by row.

    The last window of a row or column is shifted back inside; an axis shorter than the crop gets
    one window of its own length.
    """
    tops, lefts = _starts(height, crop[0], stride[0]), _starts(width, crop[1], stride[1])
    return [
        Window(top, left, min(top + crop[0], height), min(left + crop[1], width))
        for top in tops
        for left in lefts
    ]


def _starts(length: int, crop: int, stride: int) -> list[int]:
    if length <= crop:
        return [0]
    return [min(step * stride, length - crop) for step in range(_count(length, crop, stride))]


def _even_starts(length: int, crop: int) -> list[int]:
    steps = -(-length // crop) - 1
    return [0] if steps < 1 else [step * (length - crop) // steps for step in range(steps + 1)]


def resized_size(height: int, width: int, protocol: Protocol, scale: float = 1.0) -> HW:
    """(height, width) that the model sees at one of the protocol's scales."""
    target = protocol.resize_short
    if target is None:
        factor = 1.0
    elif isinstance(target, int):
        factor = target / min(height, width)
    else:
        factor = min(max(target) / max(height, width), min(target) / min(height, width))
    factor *= scale
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def show_first(images_B3HW: Tensor, protocol: Protocol) -> Tensor:
    """Whole uint8 images as floats in 0..1, in the size in which they are shown first."""
    size = resized_size(images_B3HW.shape[2], images_B3HW.shape[3], protocol, protocol.scales[0])
    return resize(images_B3HW.float() / 255, size, antialias=protocol.antialias)


def check_work(height: int, width: int, protocol: Protocol) -> None:
    """Refuse a protocol that would not end, or not fit, on an image of this size.

    A checkpoint brings its own protocol along, and an image may be one pixel high and resized by
    its short edge. Counts alone, so that nothing is made of what is refused.

    Raises:
        TooMuchWorkError: names the size and the values.

    """
    most = max(ALWAYS_ALLOWED, MOST_VIEWS * height * width)
    at_once = max(ALWAYS_ALLOWED // 2, height * width)
    work = 0
    for scale in protocol.scales:
        seen = resized_size(height, width, protocol, scale)
        number, pixels = 1, seen[0] * seen[1]
        together = pixels
        if protocol.mode == "slide":
            assert protocol.crop is not None
            number = protocol.number_of_windows(*seen)
            pixels = math.prod(map(min, seen, protocol.crop))
            together = max(together, pixels * min(protocol.window_batch, number))
        work += number * max(pixels, LEAST_WINDOW) * (2 if protocol.flip else 1)
        for asked, limit, when in ((work, most, "in all"), (together, at_once, "at once")):
            if asked > limit:
                values = ", ".join(f"{k}={_short(v)}" for k, v in protocol.as_dict().items() if v)
                raise TooMuchWorkError(
                    f"an image of {width} x {height} pixels would be computed in {asked:.3g} "
                    f"pixels {when} and more, at most {limit:.3g} are allowed; the protocol is "
                    f"{values}: give other values"
                )


def _count(length: int, crop: int, stride: int) -> int:
    """How many windows `_starts` begins along an axis."""
    return 1 + max(0, -(-(length - crop) // stride))


def _short(value: Any) -> str:
    return str(value) if len(str(value)) <= 40 else f"{str(value)[:40]}..."


def forward_sizes(height: int, width: int, protocol: Protocol) -> list[HW]:
    """(height, width) of every model input for one image, so that MACs can be summed over them."""
    sizes = []
    for scale in protocol.scales:
        seen = resized_size(height, width, protocol, scale)
        inputs = [window.size for window in protocol.windows(*seen)]
        sizes += inputs * (2 if protocol.flip else 1)
    return sizes


@torch.no_grad()
def predict_scores(
    scorer: Scorer, images: Tensor, protocol: Protocol, output_size: HW | None = None
) -> Tensor:
    """Scores of a batch of images of one size.

    Args:
        scorer: the model, see `Scorer`.
        images: uint8 or float in 0..1, [B, 3, H, W].
        protocol: how to show the images.
        output_size: (height, width) of the result, default the images' own size.

    Returns:
        Scores [B, C, *output_size], averaged over scales and mirroring as the scorer returns them.
    """
    height, width = images.shape[-2:]
    check_work(height, width, protocol)
    if images.dtype == torch.uint8:
        images = images.float() / 255
    output_size = output_size or (height, width)
    total: Tensor | None = None
    views = 0
    for scale in protocol.scales:
        size = resized_size(height, width, protocol, scale)
        resized = resize(images, size, antialias=protocol.antialias)
        for mirrored in (False, True) if protocol.flip else (False,):
            scores = _scores_at_size(scorer, resized.flip(-1) if mirrored else resized, protocol)
            scores = resize(scores.flip(-1) if mirrored else scores, output_size)
            # Not in place: the tensor may be the scorer's own.
            total = scores if total is None else total + scores
            views += 1
    assert total is not None
    return total if views == 1 else total / views


def _scores_at_size(scorer: Scorer, images: Tensor, protocol: Protocol) -> Tensor:
    if protocol.mode == "whole":
        return for_summing(scorer(images), protocol)
    windows = protocol.windows(images.shape[-2], images.shape[-1])
    return _slide(scorer, images, windows, protocol)


def _slide(scorer: Scorer, images: Tensor, windows: list[Window], protocol: Protocol) -> Tensor:
    """Mean of the window scores per pixel, [B, C, H, W]."""
    batch, _, height, width = images.shape
    total: Tensor | None = None
    for group, scores in window_scores(scorer, images, windows, protocol):
        if total is None:
            total = scores.new_zeros((batch, scores.shape[1], height, width))
        for (image, w), own_scores in zip(group, scores, strict=True):
            total[image, :, w.top : w.bottom, w.left : w.right] += own_scores
    assert total is not None
    return total.div_(windows_per_pixel(windows, height, width, images.device).to(total))


def window_scores(
    scorer: Scorer, images: Tensor, windows: list[Window], protocol: Protocol
) -> Iterator[tuple[list[tuple[int, Window]], Tensor]]:
    """Scores of all windows of all images, `window_batch` at a time, window after window.

    Yields:
        Which image and window each is, and their scores ``[N, C, h, w]``.

    """
    # All windows have one size (they are shifted inside), so any run of jobs is one batch.
    jobs = [(image, window) for window in windows for image in range(len(images))]
    for first in range(0, len(jobs), protocol.window_batch):
        group = jobs[first : first + protocol.window_batch]
        crops = torch.stack([images[i, :, w.top : w.bottom, w.left : w.right] for i, w in group])
        yield group, for_summing(scorer(crops), protocol)


def windows_per_pixel(
    windows: list[Window], height: int, width: int, device: torch.device
) -> Tensor:
    """How many windows cover each pixel, float32 ``[H, W]``."""
    count_HW = torch.zeros((height, width), device=device)
    for w in windows:
        count_HW[w.top : w.bottom, w.left : w.right] += 1
    return count_HW


def for_summing(scores: Tensor, protocol: Protocol) -> Tensor:
    """Scores of any shape where they are summed, in 32 bits: half precision turns close calls."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return scores.to("cpu" if protocol.accumulate_on_cpu else scores.device, dtype)


def resize(images: Tensor, size: HW, *, antialias: bool = False) -> Tensor:
    """Bilinear, as mmsegmentation resizes images and scores alike: ``[B, C, *size]``."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(
        images, size=size, mode="bilinear", align_corners=False, antialias=antialias
    )

"""Training augmentation: the order and parameters that mmsegmentation publishes.

Random resize, random crop with a category limit, flip, photometric distortion, padding. Every
random number comes from torch's default CPU generator, so seeding that fixes a sample. Colour
arithmetic is in `photometric.py`; normalisation is not here, the networks own it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnF
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from stepseg.data.labels import IGNORE_INDEX
from stepseg.data.photometric import PhotometricDistortion

HW = tuple[int, int]


@dataclass(frozen=True)
class Augmentation:
    """Settings of the training augmentation; the crop size is the data module's."""

    base_size: tuple[int, int] | None = None
    """(long, short) edge limits that factor 1 refers to; None: the image's own size."""
    resize_ratio: tuple[float, float] = (0.5, 2.0)
    """Range of the uniformly drawn resize factor."""
    category_max_ratio: float = 0.75
    """A crop is drawn again while one class covers this share of its labels; 1 disables it."""
    flip: float = 0.5
    """Probability of mirroring left and right."""
    photometric: bool = True
    """Whether to distort brightness, contrast, saturation and hue."""

    def __post_init__(self) -> None:
        for name in ("base_size", "resize_ratio"):  # YAML brings lists
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        low, high = self.resize_ratio
        if not 0 < low <= high:
            raise ValueError(f"resize_ratio needs 0 < low <= high, got {self.resize_ratio}")
        if not 0 <= self.flip <= 1 or not 0 < self.category_max_ratio <= 1:
            raise ValueError(
                f"flip lies in 0..1 and category_max_ratio in (0, 1], got {self.flip} and "
                f"{self.category_max_ratio}"
            )


class TrainTransform:
    """(uint8 [3, H, W], uint8 [H, W]) -> the same of exactly `crop_size` (height, width)."""

    def __init__(self, settings: Augmentation, crop_size: HW) -> None:
        steps: list[v2.Transform] = [
            RandomResizeCrop(
                crop_size, settings.resize_ratio, settings.base_size, settings.category_max_ratio
            ),
            v2.RandomHorizontalFlip(settings.flip),
        ]
        if settings.photometric:
            steps.append(PhotometricDistortion())
        steps.append(PadToSize(crop_size))
        self.steps = v2.Compose(steps)

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        image, label = self.steps(tv_tensors.Image(image), tv_tensors.Mask(label))
        return image.as_subclass(Tensor), label.as_subclass(Tensor)


class RandomResizeCrop(v2.Transform):
    """Resize by a random factor with the aspect ratio kept, then crop where no class dominates.

    A crop passes when it holds at least two classes and the largest covers less than `max_ratio`
    of the labelled pixels; after `tries` refused crops the next one is taken as it comes. A
    resized image that is smaller than the crop stays smaller.

    Only the pixels inside the crop are computed, which for large images saves most of the work.
    """

    def __init__(
        self,
        size: HW,
        ratio: tuple[float, float] = (0.5, 2.0),
        base_size: tuple[int, int] | None = None,
        max_ratio: float = 0.75,
        tries: int = 10,
    ) -> None:
        super().__init__()
        self.size = size
        self.ratio = ratio
        self.base_size = base_size
        self.max_ratio = max_ratio
        self.tries = tries

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, Any]:
        """Draw `resized` (height, width) and the crop's `top`, `left`, `height`, `width` in it."""
        label = next(item for item in flat_inputs if isinstance(item, tv_tensors.Mask))
        low, high = self.ratio
        factor = low + (high - low) * torch.rand(()).item()
        height, width = label.shape[-2:]
        resized = resized_size((height, width), factor, self.base_size)
        crop_h, crop_w = min(self.size[0], resized[0]), min(self.size[1], resized[1])
        for attempt in range(self.tries + 1):
            params: dict[str, Any] = {
                "resized": resized,
                "top": int(torch.randint(resized[0] - crop_h + 1, ())),
                "left": int(torch.randint(resized[1] - crop_w + 1, ())),
                "height": crop_h,
                "width": crop_w,
            }
            if self.max_ratio >= 1 or attempt == self.tries:
                break
            if self.accepts(resize_crop_label(label.as_subclass(Tensor), **params)):
                break
        return params

    def accepts(self, label: Tensor) -> bool:
        """Whether no class dominates the crop, uint8 [h, w]."""
        counts = torch.bincount(label.reshape(-1), minlength=256)
        counts[IGNORE_INDEX] = 0
        return bool((counts > 0).sum() > 1 and counts.max() / counts.sum() < self.max_ratio)

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Apply drawn parameters."""
        resize_crop = resize_crop_label if isinstance(inpt, tv_tensors.Mask) else resize_crop_image
        return tv_tensors.wrap(resize_crop(inpt.as_subclass(Tensor), **params), like=inpt)


def resized_size(size: HW, factor: float, base_size: tuple[int, int] | None) -> HW:
    """(height, width) after scaling by `factor`.

    With `base_size` the image is fitted into (long, short) limits of `base_size * factor`;
    without, the image's own size is scaled.
    """
    if base_size is None:
        scale = factor
    else:
        limits = [int(edge * factor) for edge in base_size]
        scale = min(max(limits) / max(size), min(limits) / min(size))
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def resize_crop_image(
    image: Tensor, resized: HW, top: int, left: int, height: int, width: int
) -> Tensor:
    """Crop of the bilinearly resized image, uint8 [3, height, width].

    Equals resizing (without antialiasing, as OpenCV does) and cropping, up to rounding.
    """
    full_h, full_w = image.shape[-2:]
    step_y, step_x = full_h / resized[0], full_w / resized[1]
    # Source rows and columns that the crop touches, one more on every side for interpolation.
    y0, y1 = max(0, int(top * step_y) - 1), min(full_h, int((top + height) * step_y) + 2)
    x0, x1 = max(0, int(left * step_x) - 1), min(full_w, int((left + width) * step_x) + 2)
    patch = image[:, y0:y1, x0:x1].float().unsqueeze(0)
    rows = (torch.arange(height, dtype=torch.float64) + top + 0.5) * step_y - y0
    columns = (torch.arange(width, dtype=torch.float64) + left + 0.5) * step_x - x0
    # grid_sample wants pixel edges at -1 and 1.
    grid_y = (rows * (2 / (y1 - y0)) - 1).float()[:, None].expand(height, width)
    grid_x = (columns * (2 / (x1 - x0)) - 1).float()[None, :].expand(height, width)
    grid = torch.stack((grid_x, grid_y), dim=-1).unsqueeze(0)
    sampled = nnF.grid_sample(patch, grid, padding_mode="border", align_corners=False)
    return sampled[0].round_().to(torch.uint8)


def resize_crop_label(
    label: Tensor, resized: HW, top: int, left: int, height: int, width: int
) -> Tensor:
    """Crop of the label resized to nearest neighbours, [height, width]."""
    rows = (torch.arange(top, top + height) * label.shape[0]) // resized[0]
    columns = (torch.arange(left, left + width) * label.shape[1]) // resized[1]
    return label.index_select(0, rows).index_select(1, columns)


class PadToSize(v2.Transform):
    """Pad right and bottom up to `size` with black and the ignore index."""

    def __init__(self, size: HW) -> None:
        super().__init__()
        self.size = size

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Pad one image or label."""
        height, width = inpt.shape[-2:]
        right, bottom = max(0, self.size[1] - width), max(0, self.size[0] - height)
        if right == 0 and bottom == 0:
            return inpt
        fill = IGNORE_INDEX if isinstance(inpt, tv_tensors.Mask) else 0
        padded: Tensor = F.pad(inpt, [0, 0, right, bottom], fill=fill)
        return padded

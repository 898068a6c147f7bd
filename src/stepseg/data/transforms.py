"""Training augmentation with the parameters and order that mmsegmentation publishes.

Order: random resize, random crop with a category limit, flip, photometric distortion, padding. All
random numbers come from torch's default CPU generator, so a seeded generator fixes a sample. Crops are
taken before the colour work, which then touches crop pixels only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from stepseg.data.labels import IGNORE_INDEX

HW = tuple[int, int]


@dataclass(frozen=True)
class Augmentation:
    """Settings of the training augmentation; the crop size is the data module's."""

    base_size: tuple[int, int] | None = None
    """(long, short) edge limits that factor 1 refers to; None: the image's own size."""
    resize_ratio: tuple[float, float] = (0.5, 2.0)
    """Range of the uniformly drawn resize factor."""
    category_max_ratio: float = 0.75
    """A crop is drawn again while one class covers this share of its labelled pixels; 1 disables it."""
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
        steps: list[torch.nn.Module] = [
            RandomResize(settings.resize_ratio, settings.base_size),
            CategoryLimitedCrop(crop_size, settings.category_max_ratio),
            v2.RandomHorizontalFlip(settings.flip),
        ]
        if settings.photometric:
            steps.append(PhotometricDistortion())
        steps.append(PadToSize(crop_size))
        self.steps = v2.Compose(steps)

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        image, label = self.steps(tv_tensors.Image(image), tv_tensors.Mask(label))
        return image.as_subclass(Tensor), label.as_subclass(Tensor)


class RandomResize(v2.Transform):
    """Resize by a uniformly drawn factor, keeping the aspect ratio."""

    def __init__(
        self, ratio: tuple[float, float], base_size: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.ratio = ratio
        self.base_size = base_size

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, HW]:
        low, high = self.ratio
        factor = low + (high - low) * torch.rand(()).item()
        height, width = F.get_size(flat_inputs[0])
        return {"size": resized_size((height, width), factor, self.base_size)}

    def transform(self, inpt: Tensor, params: dict[str, HW]) -> Tensor:
        # Without antialiasing, as OpenCV's bilinear resize in the published pipelines.
        return F.resize(inpt, list(params["size"]), antialias=False)


def resized_size(size: HW, factor: float, base_size: tuple[int, int] | None) -> HW:
    """(height, width) after scaling by `factor`.

    With `base_size` the image is fitted into (long, short) limits of `base_size * factor`; without, the
    image's own size is scaled.
    """
    height, width = size
    if base_size is None:
        scale = factor
    else:
        limits = [int(edge * factor) for edge in base_size]
        scale = min(max(limits) / max(size), min(limits) / min(size))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


class CategoryLimitedCrop(v2.Transform):
    """Random crop that avoids one class filling the window.

    A window passes when it holds at least two classes and the largest covers less than `max_ratio` of
    the labelled pixels. After `tries` refused windows the next one is taken as it comes. Smaller images
    stay small.
    """

    def __init__(self, size: HW, max_ratio: float = 0.75, tries: int = 10) -> None:
        super().__init__()
        self.size = size
        self.max_ratio = max_ratio
        self.tries = tries

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, int]:
        label = next(item for item in flat_inputs if isinstance(item, tv_tensors.Mask))
        height, width = label.shape[-2:]
        crop_h, crop_w = min(self.size[0], height), min(self.size[1], width)
        for attempt in range(self.tries + 1):
            top = int(torch.randint(height - crop_h + 1, ()))
            left = int(torch.randint(width - crop_w + 1, ()))
            if self.max_ratio >= 1 or attempt == self.tries:
                break
            if self.accepts(label[top : top + crop_h, left : left + crop_w]):
                break
        return {"top": top, "left": left, "height": crop_h, "width": crop_w}

    def accepts(self, label: Tensor) -> bool:
        """Whether no class dominates the window, uint8 [h, w]."""
        counts = torch.bincount(label.reshape(-1), minlength=256)
        counts[IGNORE_INDEX] = 0
        return bool((counts > 0).sum() > 1 and counts.max() / counts.sum() < self.max_ratio)

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        return F.crop(inpt, **params)


class PhotometricDistortion(v2.Transform):
    """Brightness, contrast, saturation and hue, each with probability 0.5.

    Brightness adds up to +-32 levels, contrast and saturation scale by 0.5 to 1.5, hue turns by up to
    +-18 of 180 units (36 degrees). Contrast comes before or after saturation and hue, with equal odds.
    """

    brightness = 32.0
    contrast = (0.5, 1.5)
    saturation = (0.5, 1.5)
    hue = 18.0

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, float | bool | None]:
        def draw(low: float, high: float) -> float | None:
            switch, value = torch.rand(2).tolist()
            return low + (high - low) * value if switch < 0.5 else None

        return {
            "brightness": draw(-self.brightness, self.brightness),
            "contrast": draw(*self.contrast),
            "saturation": draw(*self.saturation),
            "hue": draw(-self.hue, self.hue),
            "contrast_first": bool(torch.rand(()) < 0.5),
        }

    def transform(self, inpt: Tensor, params: dict[str, float | bool | None]) -> Tensor:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        return tv_tensors.wrap(distort(inpt.as_subclass(Tensor), **params), like=inpt)  # type: ignore[arg-type]


def distort(
    image: Tensor,
    brightness: float | None,
    contrast: float | None,
    saturation: float | None,
    hue: float | None,
    contrast_first: bool,
) -> Tensor:
    """Apply drawn photometric parameters to uint8 [3, H, W]; None skips a step."""
    image = _scale_shift(image, 1.0, brightness or 0.0)
    if contrast is not None and contrast_first:
        image = _scale_shift(image, contrast, 0.0)
    if saturation is not None:
        image = _scale_saturation(image, saturation)
    if hue is not None:
        image = F.adjust_hue(image, hue / 180)
    if contrast is not None and not contrast_first:
        image = _scale_shift(image, contrast, 0.0)
    return image


def _scale_shift(image: Tensor, scale: float, shift: float) -> Tensor:
    """clip(image * scale + shift) as uint8, by a table: one gather instead of three float passes."""
    if scale == 1.0 and shift == 0.0:
        return image
    table = (torch.arange(256, dtype=torch.float32) * scale + shift).clamp_(0, 255).to(torch.uint8)
    return torch.take(table, image.long())


def _scale_saturation(image: Tensor, factor: float) -> Tensor:
    """Scale the saturation of HSV, keeping hue and value: every channel moves along its gap to the max."""
    value = image.amax(0, keepdim=True).float()
    lowest = image.amin(0, keepdim=True).float()
    # HSV saturation is (max - min) / max and stops at 1, so the gap grows to `max` at most.
    limit = value / (value - lowest).clamp_(min=1)
    return (value - (value - image) * limit.clamp_(max=factor)).round_().to(torch.uint8)


class PadToSize(v2.Transform):
    """Pad right and bottom up to `size` with black and the ignore index."""

    def __init__(self, size: HW) -> None:
        super().__init__()
        self.size = size

    def transform(self, inpt: Tensor, params: dict[str, object]) -> Tensor:
        height, width = inpt.shape[-2:]
        right, bottom = max(0, self.size[1] - width), max(0, self.size[0] - height)
        if right == 0 and bottom == 0:
            return inpt
        fill = IGNORE_INDEX if isinstance(inpt, tv_tensors.Mask) else 0
        return F.pad(inpt, [0, 0, right, bottom], fill=fill)

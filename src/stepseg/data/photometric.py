"""Photometric distortion of uint8 RGB images with the parameters that mmsegmentation publishes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


@dataclass(frozen=True)
class Distortion:
    """Drawn parameters; None leaves a step out."""

    brightness: float | None
    """Levels to add, -32..32."""
    contrast: float | None
    """Factor on the levels, 0.5..1.5."""
    saturation: float | None
    """Factor on the HSV saturation, 0.5..1.5."""
    hue: float | None
    """Turn of the hue as a share of the circle, -0.1..0.1 (36 degrees)."""
    contrast_first: bool
    """Contrast before saturation and hue, else after them."""


class PhotometricDistortion(v2.Transform):
    """Brightness, contrast, saturation and hue, each with probability 0.5.

    Brightness comes first; contrast before or after saturation and hue, with equal odds.
    """

    brightness = 32.0
    contrast = (0.5, 1.5)
    saturation = (0.5, 1.5)
    hue = 18 / 180

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, Distortion]:
        """Draw the parameters of one image."""
        return {
            "distortion": Distortion(
                brightness=_draw(-self.brightness, self.brightness),
                contrast=_draw(*self.contrast),
                saturation=_draw(*self.saturation),
                hue=_draw(-self.hue, self.hue),
                contrast_first=bool(torch.rand(()) < 0.5),
            )
        }

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Distort images; labels pass."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        distorted = distort(inpt.as_subclass(Tensor), params["distortion"])
        return tv_tensors.wrap(distorted, like=inpt)


def _draw(low: float, high: float) -> float | None:
    switch, value = torch.rand(2).tolist()
    return low + (high - low) * value if switch < 0.5 else None


def distort(image: Tensor, d: Distortion) -> Tensor:
    """Apply `d` to uint8 [3, H, W]; levels are whole numbers after every step."""
    if d.brightness is not None:
        image = (image.float() + d.brightness).clamp_(0, 255).to(torch.uint8)
    if d.contrast is not None and d.contrast_first:
        image = (image.float() * d.contrast).clamp_(0, 255).to(torch.uint8)
    if d.saturation is not None or d.hue is not None:
        image = adjust_colour(image, 1.0 if d.saturation is None else d.saturation, d.hue or 0.0)
    if d.contrast is not None and not d.contrast_first:
        image = (image.float() * d.contrast).clamp_(0, 255).to(torch.uint8)
    return image


def adjust_colour(image: Tensor, saturation: float, hue: float) -> Tensor:
    """Scale the HSV saturation (it stops at 1) and turn the hue by a share of the circle.

    HSV's value is the largest channel; its saturation the gap to the smallest, relative to the
    value. Both steps only move channels within that gap, so no full conversion is needed.
    """
    channels = image.float()
    value, lowest = channels.amax(0), channels.amin(0)
    gap = value - lowest
    # saturation * factor <= 1 means gap * factor <= value
    factor = (value / gap.clamp(min=1)).clamp_(max=saturation)
    if hue == 0.0:
        return (value - (value - channels) * factor).round_().to(torch.uint8)
    sixths = _hue_sixths(channels, value, gap).add_(6 * hue)
    gap = gap * factor
    turned = torch.empty_like(channels)
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        k = (sixths + offset).remainder_(6)
        distance = torch.minimum(k, 4 - k).clamp_(0, 1)
        torch.sub(value, distance.mul_(gap), out=turned[channel])
    return turned.round_().to(torch.uint8)


def _hue_sixths(channels: Tensor, value: Tensor, gap: Tensor) -> Tensor:
    """Hue in sixths of the circle, -1..5, [H, W]; 0 for greys."""
    red, green, blue = channels
    scale = 1 / gap.clamp(min=1)
    from_red, from_green = (green - blue) * scale, (blue - red) * scale + 2
    from_blue = (red - green) * scale + 4
    return torch.where(value == red, from_red, torch.where(value == green, from_green, from_blue))

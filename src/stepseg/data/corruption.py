"""Corrupted images for evaluation: noise, blur, fog and JPEG, at two strengths.

What is drawn depends on the kind, a seed and the image's name alone: neither the order of images
nor their batch changes it. Kinds as in the literature on robustness; strengths are our own.

Letters: H x W pixels.
"""

import io
import zlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import gaussian_blur

from stepseg.data.dataset import Sample, SegmentationDataset

STRENGTHS = {
    "noise": (0.08, 0.18),  # deviation of Gaussian noise, of the range of a channel
    "blur": (1.5, 3.0),  # deviation of the Gaussian, in pixels
    "fog": (0.45, 0.7),  # mean share of the fog
    "jpeg": (20, 8),  # quality
}
"""By kind, what strength 1 and strength 2 mean."""


@dataclass(frozen=True, slots=True)
class Corruption:
    """How evaluated images are damaged; their labels stay."""

    kind: str | None = None
    """One of `STRENGTHS`; None: not at all."""
    strength: int = 1
    """1 or 2."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in STRENGTHS:
            raise ValueError(
                f"data.corruption.kind={self.kind!r}: choose one of {', '.join(STRENGTHS)}, or null"
            )
        if self.strength not in (1, 2):
            raise ValueError(f"data.corruption.strength is 1 or 2, got {self.strength}")

    def apply(self, image_3HW: Tensor, name: str) -> Tensor:
        """Damage a uint8 image, known by its name."""
        if self.kind is None:
            return image_3HW
        amount = STRENGTHS[self.kind][self.strength - 1]
        if self.kind == "jpeg":
            return _jpeg(image_3HW, int(amount))
        values = image_3HW.float() / 255
        if self.kind == "blur":
            values = gaussian_blur(values, [2 * round(3 * amount) + 1] * 2, [amount] * 2)
        else:
            drawn_for = f"{self.seed} {self.kind} {name}"
            draw = torch.Generator().manual_seed(zlib.crc32(drawn_for.encode()))
            height, width = image_3HW.shape[1:]
            if self.kind == "noise":
                values = values + amount * torch.randn(3, height, width, generator=draw)
            else:
                fog_HW = amount * (0.5 + _clouds(height, width, draw))
                values = values * (1 - fog_HW) + 0.9 * fog_HW
        return (values.clamp(0, 1) * 255).round().to(torch.uint8)


class CorruptedDataset(Dataset[Sample]):
    """The samples of another data set with damaged images."""

    def __init__(self, dataset: SegmentationDataset, corruption: Corruption) -> None:
        self.dataset, self.corruption = dataset, corruption

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return Sample({**sample, "image": self.corruption.apply(sample["image"], sample["name"])})


def _jpeg(image_3HW: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(image_3HW.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file, formats=["JPEG"]))).permute(2, 0, 1)


def _clouds(height: int, width: int, draw: torch.Generator) -> Tensor:
    """Soft structures of all sizes in [0, 1], ``[H, W]``: coarse noise weighs most."""
    clouds_HW = torch.zeros(height, width)
    for octave in range(1, 7):
        coarse = torch.rand(1, 1, 2**octave, 2**octave, generator=draw)
        fine = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
        clouds_HW += fine[0, 0] / 2**octave
    least, most = clouds_HW.min(), clouds_HW.max()
    return (clouds_HW - least) / (most - least)

"""Where the tokens went, and what they cost, over a whole data set."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torchmetrics import Metric

from stepseg.model import Segmentation, StepSegmenter
from stepseg.profile.macs import count_macs, part_names


class TokenMetric(Metric):
    """Mean tokens per stage, superpatches per size, exits per head and GMACs per image.

    An image that is shown in several windows, scales or mirrored counts all of them.

    Args:
        stages: the blocks after which heads run, the decoder's included.
        windows: window sides of the policy, without 1.

    """

    full_state_update = False
    images: Tensor
    tokens: Tensor
    superpatches: Tensor
    macs: Tensor
    macs_squared: Tensor

    def __init__(self, stages: Sequence[int], windows: Sequence[int] = (2, 4, 8, 16)) -> None:
        super().__init__()
        self.stages, self.windows = tuple(stages), (1, *windows)
        self.part_names = part_names(self.stages)
        numbers = torch.float64  # exact for integers up to 2**53
        self.add_state("images", torch.tensor(0), "sum")
        self.add_state("tokens", torch.zeros(len(stages), dtype=numbers), "sum")
        self.add_state("superpatches", torch.zeros(len(self.windows), dtype=numbers), "sum")
        self.add_state("macs", torch.zeros(len(self.part_names), dtype=numbers), "sum")
        self.add_state("macs_squared", torch.tensor(0.0, dtype=numbers), "sum")

    def update(
        self, model: StepSegmenter, outputs: Sequence[Segmentation], num_images: int
    ) -> None:
        """Count the forward passes of a batch; rows cycle through its images."""
        per_image = [0.0] * num_images
        sums = dict.fromkeys(self.part_names, 0.0)
        row = 0
        for output in outputs:
            parts = count_macs(model, output)
            for index, total in enumerate(zip(*parts.values(), strict=True), start=row):
                per_image[index % num_images] += sum(total)
            row += output.layout.segments.num_images
            for name, values in parts.items():
                sums[name] += sum(values)
            stages = [float(sum(lengths)) for lengths in output.tokens_per_stage]
            self.tokens += torch.tensor(stages, dtype=self.tokens.dtype, device=self.tokens.device)
            sides = output.layout.window_T0[:, None]
            known = torch.tensor(self.windows, device=sides.device)
            self.superpatches += (sides == known).sum(0).to(self.superpatches)
        self.images += num_images
        self.macs += torch.tensor(list(sums.values())).to(self.macs)
        self.macs_squared += sum(total**2 for total in per_image)

    def compute(self) -> dict[str, float | list[float] | Mapping[str, float]]:
        """Means per image, under the names of `result.json`."""
        images = max(int(self.images), 1)
        tokens = (self.tokens / images).tolist()
        gmacs = (self.macs / images / 1e9).tolist()
        mean = sum(gmacs)
        variance = float(self.macs_squared) / images / 1e18 - mean**2
        counts = (self.superpatches / images).tolist()
        return {
            "images": int(self.images),
            "gmacs_mean": mean,
            "gmacs_std": max(variance, 0.0) ** 0.5,
            "gmacs_by_part": dict(zip(self.part_names, gmacs, strict=True)),
            "tokens_mean": tokens[0],
            "tokens_per_stage": tokens,
            "exited_per_head": [a - b for a, b in pairwise(tokens)],
            "superpatches": {str(s): n for s, n in zip(self.windows, counts, strict=True)},
        }

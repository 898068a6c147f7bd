"""Where the tokens went, and what they cost, over a whole data set."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from stepseg.macs import count_macs, part_names
from stepseg.metrics.joining import GREATEST, LEAST
from stepseg.model import Segmentation, StepSegmenter
from stepseg.packed import upload


class TokenMetric(Metric):
    """Tokens per stage, superpatches per size, exits per head and GMACs of an image.

    Means, and of the counts also the least and the greatest. An image that is shown in several
    windows, scales or mirrored counts all of them.

    Args:
        stages: the blocks after which heads run, the decoder's included.
        windows: window sides of the policy, without 1.
        inside: whether the reduction acts inside the blocks, at a cost of its own.

    """

    full_state_update = False
    images: Tensor
    tokens: Tensor
    superpatches: Tensor
    macs: Tensor
    macs_squared: Tensor
    macs_max: Tensor
    counts_min: Tensor
    """Of an image, as `counts_max`: tokens by stage, superpatches by size, gone after each head."""
    counts_max: Tensor

    def __init__(
        self, stages: Sequence[int], windows: Sequence[int] = (2, 4, 8, 16), *, inside: bool = False
    ) -> None:
        super().__init__()
        self.stages, self.windows = tuple(stages), (1, *windows)
        self.part_names = part_names(self.stages, inside=inside)
        numbers = torch.float64  # exact for integers up to 2**53
        self.add_state("images", torch.tensor(0), "sum")
        self.add_state("tokens", torch.zeros(len(stages), dtype=numbers), "sum")
        self.add_state("superpatches", torch.zeros(len(self.windows), dtype=numbers), "sum")
        self.add_state("macs", torch.zeros(len(self.part_names), dtype=numbers), "sum")
        self.add_state("macs_squared", torch.tensor(0.0, dtype=numbers), "sum")
        self.add_state(f"macs{GREATEST}", torch.tensor(0.0, dtype=numbers), "max")
        counts = torch.zeros(2 * len(stages) - 1 + len(self.windows), dtype=numbers)
        self.add_state(f"counts{LEAST}", counts + torch.inf, "min")
        self.add_state(f"counts{GREATEST}", counts, "max")

    def update(
        self, model: StepSegmenter, outputs: Sequence[Segmentation], num_images: int
    ) -> None:
        """Count the forward passes of a batch; rows cycle through its images. Waits for nothing."""
        macs = [0.0] * num_images
        sums = dict.fromkeys(self.part_names, 0.0)
        tokens = self.tokens.new_zeros(num_images, len(self.stages))
        superpatches = self.superpatches.new_zeros(num_images, len(self.windows))
        sides = upload(self.windows, torch.int64, superpatches.device)
        row = 0
        for output in outputs:
            parts = count_macs(model, output)
            for index, total in enumerate(zip(*parts.values(), strict=True), start=row):
                macs[index % num_images] += sum(total)
            for name, values in parts.items():
                sums[name] += sum(values)
            segments = output.layout.segments
            rows = torch.arange(row, row + segments.num_images, device=tokens.device) % num_images
            row += segments.num_images
            stages = upload(output.tokens_per_stage, tokens.dtype, tokens.device)
            tokens.index_add_(0, rows, stages.T)
            is_side = output.layout.window_T0[:, None] == sides
            superpatches.index_add_(0, rows[segments.image_ids()], is_side.to(superpatches))
        self.images += num_images
        self.tokens += tokens.sum(0)
        self.superpatches += superpatches.sum(0)
        self.macs += upload(list(sums.values()), self.macs.dtype, self.macs.device)
        self.macs_squared += sum(total**2 for total in macs)
        self.macs_max = self.macs_max.clamp(min=max(macs, default=0.0))
        gone = tokens[:, :1] - tokens[:, 1:]
        counts = torch.cat([tokens, superpatches, gone], 1)
        self.counts_min = torch.minimum(self.counts_min, counts.amin(0))
        self.counts_max = torch.maximum(self.counts_max, counts.amax(0))

    def compute(self) -> dict[str, Any]:
        """Means, least and greatest per image, under the names of `result.json`."""
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
            "gmacs_max": float(self.macs_max) / 1e9,
            "gmacs_by_part": dict(zip(self.part_names, gmacs, strict=True)),
            "tokens_mean": tokens[0],
            "tokens_per_stage": tokens,
            "exited_per_head": [a - b for a, b in pairwise(tokens)],
            "superpatches": self._by_side(counts),
            **self._extremes(LEAST, self.counts_min),
            **self._extremes(GREATEST, self.counts_max),
        }

    def _extremes(self, which: str, counts: Tensor) -> dict[str, Any]:
        if not int(self.images):
            return {}
        sizes = [len(self.stages), len(self.windows), len(self.stages) - 1]
        tokens, superpatches, gone = (part.tolist() for part in counts.split(sizes))
        return {
            f"tokens_per_stage{which}": tokens,
            f"superpatches{which}": self._by_side(superpatches),
            f"exited_until{which}": gone,
        }

    def _by_side(self, numbers: Sequence[float]) -> dict[str, float]:
        return {str(side): n for side, n in zip(self.windows, numbers, strict=True)}

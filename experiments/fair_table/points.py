"""The methods, each set to a share of the dense operations on training images."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepseg.files.writing import write_json
from stepseg.metrics.tokens import TokenMetric
from stepseg.model import Reduction, StepSegmenter
from stepseg.model_config import ReductionConfig
from stepseg.tuning.families import Family, families

DRAWN = {"windows": [2], "thresholds": None, "top_k": 100, "top_k_cells": 1024}
METHODS: dict[str, dict[str, Any]] = {
    "smaller": {"input": {"cell": 19}},
    "random": {"merge": {**DRAWN, "by": "random"}},
    "cts": {"merge": {**DRAWN, "by": "policy"}},
    "tome": {"inside": {"rule": "tome", "r": 0.146}},
    "algm": {"inside": {"rule": "algm", "threshold": 0.98}},
    "cropr": {"inside": {"rule": "cropr", "r": 0.253}},
    "dcts": {"merge": {"windows": [2, 4, 8, 16], "thresholds": [0.6, 0.8, 0.9, 0.9]}},
    "step": {
        "merge": {"windows": [2, 4, 8, 16], "thresholds": [0.6, 0.8, 0.9, 0.9]},
        "exit": {"blocks": [3, 4], "rule": "confidence", "threshold": 0.9},
    },
}
BY_IMAGE = ("algm", "dcts", "step")
"""Methods whose cost depends on the image."""


@dataclass(frozen=True)
class Scale:
    """Where methods are set: a model, and the images that say what they cost.

    Args:
        model: with the policy and the exit heads that the methods need.
        name: of the model, for the file.
        images: of the training part, ``[1, 3, H, W]`` of 0 to 1, as the model is shown them.
        file: what was found; it is not searched again, so that all parts take the same points.

    """

    model: StepSegmenter
    name: str
    images: list[Tensor]
    file: Path

    def points(self, shares: dict[int, float]) -> dict[str, Reduction]:
        """Every method but Cropr, whose scorers need a training, at the points."""
        every = {"windows": [2], "thresholds": None, "by": "uniform"}
        rows = {"none": Reduction(), "uniform": ReductionConfig.from_dict({"merge": every}).build()}
        for name in METHODS:
            if name != "cropr":
                chosen = self.tuned(name, shares.values())
                rows |= {f"{name} {p}": r for p, r in zip(shares, chosen, strict=True)}
        return rows

    def tuned(self, name: str, shares: Iterable[float], cell: int | None = None) -> list[Reduction]:
        """A method at shares of the dense operations, in the mean of the images.

        Dense on the images as they are, the method with a patch for every so many pixels.
        """
        images = self.images if name in BY_IMAGE else self.images[:1]
        scale = replace(self, images=images)
        side = cell or self.model.patch_size
        cells = (images[0].shape[2] // side) * (images[0].shape[3] // side)
        given = METHODS[name] | ({"input": {"cell": cell}} if cell else {})
        base = ReductionConfig.from_dict(given)
        found = families(base, self.model.exit_head_blocks, self.model.patch_size, cells)
        family = next(f for f in found if f.name.startswith("exits after 3+4") or not base.exit)
        keys = [f"{self.name} {name} {share:.5f} {cell or ''}".strip() for share in shares]
        kept = json.loads(self.file.read_text()) if self.file.is_file() else {}
        if not kept.keys() >= {*keys}:
            kept |= dict(zip(keys, scale.numbers(family, shares), strict=True))
            write_json(self.file, kept)
        return [family.at(kept[key]).build() for key in keys]

    def numbers(self, family: Family, shares: Iterable[float]) -> list[float]:
        """What a family is set to."""
        known: dict[float, float] = {}

        def at(number: float) -> float:
            """The family's cost, which takes forward passes, once per number."""
            if number not in known:
                known[number] = cost(self.model, family.at(number).build(), self.images)
            return known[number]

        for number in (0.1, 0.3, 0.5, 0.7, 0.9):
            at(number)
        dense, chosen = cost(self.model, Reduction(), self.images), []
        for target in (share * dense for share in shares):
            for turn in range(10):
                dearer = max((t for t, c in known.items() if c >= target), default=0.0)
                cheaper = min((t for t, c in known.items() if c < target), default=1.0)
                ends = [at(dearer), at(cheaper)]
                if min(abs(end - target) for end in ends) < 0.01 * target:
                    break
                if not ends[0] >= target > ends[1]:
                    break  # out of reach: exits alone save more, or nothing saves enough
                # The straight line between the two; every third time the middle, where it is bent.
                way = 0.5 if turn % 3 == 2 else (ends[0] - target) / max(ends[0] - ends[1], 1e-9)
                middle = dearer + (cheaper - dearer) * way
                if middle in known:
                    break
                at(middle)
            chosen.append(min(known, key=lambda t: abs(known[t] - target)))
        return chosen


@torch.no_grad()
def cost(model: StepSegmenter, reduction: Reduction, images: list[Tensor]) -> float:
    """Mean GMACs of images ``[1, 3, H, W]`` in [0, 1]."""
    inside = reduction.inside is not None
    metric = TokenMetric((*reduction.exit_blocks, model.backbone.depth), inside=inside)
    for image in images:
        metric.update(model, [model(image, reduction=reduction)], 1)
    return float(metric.compute()["gmacs_mean"])

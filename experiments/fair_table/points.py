"""The methods, each set to a share of the dense operations on training images."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from stepseg.metrics.tokens import TokenMetric
from stepseg.model import Reduction, StepSegmenter
from stepseg.model_config import ReductionConfig
from stepseg.tuning.families import families

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


def points(model: StepSegmenter, images: list[Tensor], shares: dict[int, float]) -> dict:
    """Every method but Cropr, whose scorers need a training, at the points."""
    every = {"windows": [2], "thresholds": None, "by": "uniform"}
    rows = {"none": Reduction(), "uniform": ReductionConfig.from_dict({"merge": every}).build()}
    for name in METHODS:
        if name != "cropr":
            chosen = tuned(model, name, shares.values(), images)
            rows |= {f"{name} {p}": r for p, r in zip(shares, chosen, strict=True)}
    return rows


def tuned(
    model: StepSegmenter,
    name: str,
    shares: Iterable[float],
    images: list[Tensor],
    cell: int | None = None,
) -> list[Reduction]:
    """A method at shares of the dense operations, in the mean of images ``[1, 3, H, W]``.

    Dense on the images as they are, the method with a patch for every so many pixels.
    """
    images = [image.float() / 255 for image in images[: len(images) if name in BY_IMAGE else 1]]
    side = cell or model.patch_size
    cells = (images[0].shape[2] // side) * (images[0].shape[3] // side)
    base = ReductionConfig.from_dict(METHODS[name] | ({"input": {"cell": cell}} if cell else {}))
    found = families(base, model.exit_head_blocks, model.patch_size, cells)
    family = next(f for f in found if f.name.startswith("exits after 3+4") or not base.exit)

    known: dict[float, float] = {}

    def at(number: float) -> float:
        """The family's cost, which takes forward passes, once per number."""
        if number not in known:
            known[number] = cost(model, family.at(number).build(), images)
        return known[number]

    for number in (0.1, 0.3, 0.5, 0.7, 0.9):
        at(number)
    dense, chosen = cost(model, Reduction(), images), []
    for target in (share * dense for share in shares):
        for turn in range(10):
            dearer = max((t for t, c in known.items() if c >= target), default=0.0)
            cheaper = min((t for t, c in known.items() if c < target), default=1.0)
            ends = [at(dearer), at(cheaper)]
            if min(abs(end - target) for end in ends) < 0.01 * target:
                break
            # The straight line between the two; every third time the middle, where it is bent.
            way = 0.5 if turn % 3 == 2 else (ends[0] - target) / max(ends[0] - ends[1], 1e-9)
            middle = dearer + (cheaper - dearer) * way
            if middle in known:
                break
            at(middle)
        nearest = min(known, key=lambda t: abs(known[t] - target))
        chosen.append(family.at(nearest).build())
    return chosen


@torch.no_grad()
def cost(model: StepSegmenter, reduction: Reduction, images: list[Tensor]) -> float:
    """Mean GMACs of images ``[1, 3, H, W]`` in [0, 1]."""
    inside = reduction.inside is not None
    metric = TokenMetric((*reduction.exit_blocks, model.backbone.depth), inside=inside)
    for image in images:
        metric.update(model, [model(image, reduction=reduction)], 1)
    return float(metric.compute()["gmacs_mean"])

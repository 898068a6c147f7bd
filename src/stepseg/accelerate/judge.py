"""How an accelerated model compares with the dense one: same pixels, operations, time.

The honest rival is a smaller input of the same cost: it needs no policy at all.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stepseg.accelerate.samples import Samples
from stepseg.model import Reduction
from stepseg.model_config import ReductionConfig
from stepseg.predict.segmenter import Segmenter
from stepseg.profile.benchmark import prescribed_cost
from stepseg.protocol import HW, forward_sizes
from stepseg.tuning.changes import Changes, changes_of
from stepseg.tuning.families import families
from stepseg.tuning.search import Row, Search
from stepseg.tuning.split import SCOUTED


def compare(segmenter: Segmenter, reduction: Reduction, samples: Samples) -> dict[str, Any]:
    """Means over images of a reduction beside the dense label maps."""
    segmenter = segmenter.with_reduction(reduction)
    equal, gmacs, seconds, tokens = [], [], [], []
    for index in range(len(samples)):
        pixels, dense = samples.read(index)
        (found,) = segmenter.predict_pixels([pixels])
        equal.append(float((found.labels == dense).mean()))
        gmacs.append(found.gmacs)
        seconds.append(found.seconds)
        tokens.append(found.tokens)
    return {
        "agreement": 100 * float(np.mean(equal)),
        "agreement_least": 100 * float(np.min(equal)),
        "gmacs_mean": float(np.mean(gmacs)),
        "tokens_mean": float(np.mean([stages[0] for stages in tokens])),
        "tokens_per_stage": np.mean(tokens, axis=0).tolist(),
        "seconds_per_image": float(np.median(seconds)),
        "images": len(samples),
    }


def changes_in(
    segmenter: Segmenter, reductions: Sequence[ReductionConfig], samples: Samples, index: int
) -> Changes:
    """What reductions change in an image against its dense label map."""
    pixels, dense = samples.read(index)
    image_3HW = torch.from_numpy(pixels.copy()).permute(2, 0, 1).to(segmenter.device)
    dense_HW = torch.from_numpy(dense.copy()).to(segmenter.device)
    built = [reduction.build() for reduction in reductions]
    return changes_of(segmenter.model, built, image_3HW, segmenter.protocol, dense_HW)


def search_for(segmenter: Segmenter, base: ReductionConfig, samples: Samples) -> Search:
    """A search by agreement with the dense model, all families scouted.

    Args:
        segmenter: with the policy, and the exit heads if there are any.
        base: whose thresholds are in the middle.

    """
    model, scouted = segmenter.model, max(1, round(SCOUTED * len(samples)))

    def walk(part: str, reductions: Sequence[ReductionConfig]) -> list[Row]:
        count = len(samples) if part == "calibration" else scouted
        seen = [changes_in(segmenter, reductions, samples, index) for index in range(count)]
        agreement = 100 * (1 - np.mean([changes.shares for changes in seen], axis=0))
        gmacs = np.mean([changes.gmacs for changes in seen], axis=0)
        return [
            {"agreement": float(a), "gmacs_mean": float(g), "images": count}
            for a, g in zip(agreement, gmacs, strict=True)
        ]

    search = Search(
        families(base, model.exit_head_blocks, model.patch_size, samples.cells(segmenter)),
        walk,
        cost=lambda row: float(row["gmacs_mean"]),
        share=scouted / len(samples),
        score="agreement",
    )
    search.scout()
    search.limit += search.used  # of a handful of images one is a large share
    return search


def smaller_of_cost(segmenter: Segmenter, gmacs: float, sizes: Sequence[HW]) -> Reduction:
    """A smaller input that costs as much, or a little more where none costs exactly that.

    Args:
        gmacs: mean per image.
        sizes: (height, width) of the images.

    """
    model = segmenter.model
    chosen = Reduction(cell=model.patch_size)
    for cell in range(model.patch_size + 1, 4 * model.patch_size):
        smaller = Reduction(cell=cell)
        costs = [
            sum(
                prescribed_cost(model, smaller, view)["gmacs"]
                for view in forward_sizes(*size, segmenter.protocol)
            )
            for size in sizes
        ]
        if float(np.mean(costs)) < gmacs:
            break
        chosen = smaller
    return chosen

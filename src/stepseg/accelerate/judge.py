"""How an accelerated model compares with the dense one: same pixels, operations, time.

The honest rival is a smaller input of the same cost: it needs no policy at all.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stepseg.accelerate.samples import Samples
from stepseg.dcts.merge import moved
from stepseg.model import Reduction
from stepseg.predict.segmenter import Segmenter
from stepseg.profile.benchmark import prescribed_cost
from stepseg.protocol import HW, forward_sizes

SHIFTS = tuple(0.5 * number for number in range(-8, 13))
"""Logits by which thresholds are tried to move, from bold to careful."""


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
        tokens.append(found.tokens[0])
    return {
        "agreement": 100 * float(np.mean(equal)),
        "agreement_least": 100 * float(np.min(equal)),
        "gmacs_mean": float(np.mean(gmacs)),
        "tokens_mean": float(np.mean(tokens)),
        "seconds_per_image": float(np.median(seconds)),
        "images": len(samples),
    }


def choose_thresholds(
    segmenter: Segmenter, reduction: Reduction, samples: Samples, lose: float
) -> tuple[Reduction, list[dict[str, Any]]]:
    """Move all thresholds together to merge as much as the loss allows.

    Halves `SHIFTS`, because what is lost falls with them: five passes over the samples.

    Args:
        segmenter: with the policy.
        reduction: whose thresholds are in the middle.
        samples: that may be looked at.
        lose: percent of the pixels that may get another label than from the dense model.

    Returns:
        The reduction, and what was tried. The most careful one, where all lose more.

    """
    tried = []
    low, high = 0, len(SHIFTS) - 1
    while low < high:
        middle = (low + high) // 2
        row = compare(segmenter, _shifted(reduction, SHIFTS[middle]), samples)
        tried.append({"shift": SHIFTS[middle], **row})
        if 100 - row["agreement"] <= lose:
            high = middle
        else:
            low = middle + 1
    return _shifted(reduction, SHIFTS[low]), tried


def smaller_of_cost(segmenter: Segmenter, gmacs: float, sizes: Sequence[HW]) -> Reduction:
    """A smaller input that costs as much, or a little more where none costs exactly that.

    Args:
        segmenter: whose model and protocol count.
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


def _shifted(reduction: Reduction, shift: float) -> Reduction:
    """All merge thresholds moved in logits; 1 is off, and stays off."""
    merge = reduction.merge
    assert merge is not None and merge.thresholds is not None
    thresholds = (t if t in (0, 1) else round(moved(t, shift), 4) for t in merge.thresholds)
    return replace(reduction, merge=replace(merge, thresholds=tuple(thresholds)))

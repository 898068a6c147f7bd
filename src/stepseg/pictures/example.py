"""One image with everything STEP did to it, as masks for a tracker and as one row of pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stepseg.data.specs import DatasetSpec
from stepseg.pictures.drawing import Picture
from stepseg.pictures.figures import exit_figure
from stepseg.pictures.token_maps import TokenMaps
from stepseg.segmentation import Segmentation


@dataclass(frozen=True, slots=True)
class Mask:
    """A map of ids over an image."""

    ids_HW: NDArray[np.uint8]
    names: Mapping[int, str]
    """What the ids mean."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An image, its maps and a picture of them, all thinned out by the same factor."""

    name: str
    caption: str
    image_HW3: Picture
    masks: Mapping[str, Mask]
    """prediction, ground_truth, superpatches (side of the window), exits (which head spoke)."""
    row: Picture
    """Captioned panels with a legend."""


def take_snapshot(
    name: str,
    image_HW3: Picture,
    label_HW: NDArray[np.uint8],
    prediction_HW: NDArray[np.uint8],
    output: Segmentation,
    spec: DatasetSpec,
    max_side: int = 1024,
) -> Snapshot:
    """Describe the only image of a batch.

    Args:
        image_HW3: as the model saw it.
        label_HW: training ids, likewise.
        prediction_HW: training ids.
        max_side: larger pictures are thinned out by 2, 4, 8 or 16.

    """
    thin = thinning(max(image_HW3.shape[:2]), max_side, output.patch_size)
    image_HW3, label_HW, prediction_HW = (
        np.ascontiguousarray(array[::thin, ::thin])
        for array in (image_HW3, label_HW, prediction_HW)
    )
    maps = TokenMaps.of(output).thinned(thin)
    classes = dict(enumerate(spec.classes)) | {spec.ignore_index: "ignore"}
    sides = {side: f"{side}x{side} patches" for side in (1, 2, 4, 8, 16)}
    masks = {
        "prediction": Mask(prediction_HW, classes),
        "ground_truth": Mask(label_HW, classes),
        "superpatches": Mask(maps.superpatch_HW.astype(np.uint8), sides),
        "exits": Mask(maps.exit_HW.astype(np.uint8), head_names(output)),
    }
    counts = " > ".join(str(lengths[0]) for lengths in output.tokens_per_stage)
    blocks = [head.block for head in output.heads[:-1]]
    figure = exit_figure(
        image_HW3, maps, blocks, prediction_HW, spec.classes, spec.palette, label_HW
    )
    return Snapshot(
        name=name,
        caption=f"{name}: tokens {counts}",
        image_HW3=image_HW3,
        masks=masks,
        row=np.asarray(figure.convert("RGB")),
    )


def head_names(output: Segmentation) -> dict[int, str]:
    """What the ids of an exit map mean."""
    names = {
        i: f"left for good after block {head.block}" for i, head in enumerate(output.heads[:-1])
    }
    return names | {len(names): f"decoder after block {output.heads[-1].block}"}


def thinning(side: int, max_side: int, patch_size: int) -> int:
    """Keep every n-th pixel: the smallest power of two that fits and divides the patch."""
    factor = 1
    while side > max_side * factor and patch_size % (2 * factor) == 0:
        factor *= 2
    return factor

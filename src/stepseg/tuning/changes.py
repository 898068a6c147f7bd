"""What reductions change against the dense run, image by image: the losses of a certificate."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepseg.evaluation import predict_all
from stepseg.grid import segment_all
from stepseg.macs import count_macs, total_macs
from stepseg.model import StepSegmenter
from stepseg.protocol import Protocol
from stepseg.reduction import Reduction


@dataclass(frozen=True, slots=True)
class Changes:
    """Of one image under some reductions."""

    shares: list[float]
    """Pixels whose class is another than the dense run's, as shares of the image."""
    gmacs: list[float]
    dense_gmacs: float | None = None
    """Without reduction; None: its map was known, and it did not run."""


@torch.no_grad()
def changes_of(
    model: StepSegmenter,
    reductions: Sequence[Reduction],
    image_3HW: Tensor,
    protocol: Protocol,
    dense_HW: Tensor | None = None,
) -> Changes:
    """Compare an image's maps with the dense one; what the reductions share is computed once.

    Args:
        model: ready for inference.
        reductions: checked by `StepSegmenter.check`.
        image_3HW: uint8, where the model is.
        protocol: how images are shown.
        dense_HW: the dense map, where it is known; None: it is made here.

    """
    everyone = [*([] if dense_HW is not None else [Reduction()]), *reductions]
    shares, gmacs = [0.0] * len(everyone), [0.0] * len(everyone)
    dtype = next(model.parameters()).dtype
    for indices, run, map_BHW in predict_all(
        lambda images: segment_all(model, everyone, images.to(dtype)),
        image_3HW[None],
        protocol,
        (image_3HW.shape[1], image_3HW.shape[2]),
    ):
        dense_HW = map_BHW[0] if dense_HW is None else dense_HW  # the first is the dense run
        changed = float((map_BHW[0] != dense_HW).float().mean())  # host sync
        macs = sum(sum(total_macs(count_macs(model, output))) for output in run)
        for index in indices:
            shares[index], gmacs[index] = changed, macs / 1e9
    first = len(everyone) - len(reductions)
    return Changes(shares[first:], gmacs[first:], gmacs[0] if first else None)

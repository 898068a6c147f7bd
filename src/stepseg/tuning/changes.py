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


@torch.no_grad()
def changes_of(
    model: StepSegmenter,
    reductions: Sequence[Reduction],
    image_3HW: Tensor,
    protocol: Protocol,
) -> Changes:
    """Compare an image's maps with the dense one; what the reductions share is computed once.

    Args:
        model: ready for inference.
        reductions: checked by `StepSegmenter.check`.
        image_3HW: uint8, where the model is.
        protocol: how images are shown.

    """
    everyone = [Reduction(), *reductions]
    shares, gmacs = [0.0] * len(everyone), [0.0] * len(everyone)
    dense: Tensor | None = None
    for indices, run, map_BHW in predict_all(
        lambda images: segment_all(model, everyone, images),
        image_3HW[None],
        protocol,
        (image_3HW.shape[1], image_3HW.shape[2]),
    ):
        dense = map_BHW if dense is None else dense  # the first is the dense run
        changed = float((map_BHW != dense).float().mean())  # host sync
        macs = sum(sum(total_macs(count_macs(model, output))) for output in run)
        for index in indices:
            shares[index], gmacs[index] = changed, macs / 1e9
    return Changes(shares[1:], gmacs[1:])

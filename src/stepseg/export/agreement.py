"""Does an exported model say what the original says? Compared on images, score by score.

Two runtimes round differently, so a pixel whose two best classes tie may change hands; that is
told apart from a wrong answer by the margin between the two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepseg.model import Reduction, StepSegmenter

Runner = Callable[[Tensor], list[NDArray[Any]]]
"""Images [B, 3, H, W] -> labels and, perhaps, scores."""

LEAST_AGREEMENT = 0.999
LARGEST_MARGIN = 1e-3
"""Of probability, between what both name, in a pixel where they differ."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over all pixels of some images."""

    pixels: int
    equal: float
    """Share of pixels with the same class."""
    largest_margin: float
    """Where they differ, how far apart the original has its class and the other's; 0: nowhere."""
    largest_score_difference: float | None
    """Over all classes and pixels; None: the exported model returns no scores."""

    @property
    def is_close(self) -> bool:
        """Whether the two differ by rounding only."""
        return self.equal >= LEAST_AGREEMENT and self.largest_margin <= LARGEST_MARGIN


@torch.no_grad()
def compare(
    model: StepSegmenter,
    reduction: Reduction,
    run: Runner,
    images_B3HW: Tensor,
    batch_size: int = 1,
) -> Agreement:
    """Compare the packed model with an exported one, image by image.

    Args:
        model: prepared for inference.
        reduction: what was exported.
        run: the exported model.
        images_B3HW: of the exported size, float in [0, 1].
        batch_size: of the exported model; it sees each image as often.

    """
    pixels, differing, margin, difference = 0, 0, 0.0, None
    for image in images_B3HW.split(1):
        output = model(image, reduction=reduction)
        ours_CHW, own_HW = output.scores()[0], output.prediction()[0]
        labels, *rest = run(image.repeat(batch_size, 1, 1, 1))
        theirs_HW = torch.from_numpy(np.array(labels[0]))
        other_HW = own_HW != theirs_HW
        best_N = ours_CHW.gather(0, own_HW[None])[0][other_HW]
        named_N = ours_CHW.gather(0, theirs_HW[None])[0][other_HW]
        pixels, differing = pixels + own_HW.numel(), differing + int(other_HW.sum())
        margin = max([margin, *(best_N - named_N).abs().tolist()])
        for scores in rest:
            largest = float((ours_CHW - torch.from_numpy(np.array(scores[0]))).abs().max())
            difference = max(difference or 0.0, largest)
    return Agreement(pixels, 1 - differing / pixels, margin, difference)


def onnx_runner(path: Path) -> Runner:
    """Run an ONNX file with ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: list(session.run(None, {"images": images.numpy()}))


def program_runner(path: Path) -> Runner:
    """Run a ``.pt2`` file."""
    module = torch.export.load(path).module()

    def run(images_B3HW: Tensor) -> list[NDArray[Any]]:
        with torch.no_grad():
            outputs = module(images_B3HW)
        return [x.numpy() for x in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run

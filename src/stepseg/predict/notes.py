"""What is remembered of the forward passes of a batch, whose scores are let go."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from stepseg.macs import count_macs, total_macs
from stepseg.model import Segmentation, StepSegmenter
from stepseg.pictures.token_maps import View
from stepseg.protocol import HW, Protocol, Window, resized_size
from stepseg.segmentation import NonFiniteScoresError


class Notes:
    """Tokens, operations and maps of every image of a batch.

    Args:
        windows: of `views_of_size`.

    """

    def __init__(
        self,
        model: StepSegmenter,
        num_images: int,
        windows: Sequence[Window | None],
        device: torch.device,
    ) -> None:
        self.model, self.num_images, self.windows, self.device = model, num_images, windows, device
        self.row = 0
        self.seconds = 0.0
        self.macs = [0] * num_images
        self.tokens: list[np.ndarray] = [np.zeros(1, np.int64)] * num_images
        sides = (1, *(model.policy.windows if model.policy else ()))
        self.superpatches = [dict.fromkeys(sides, 0) for _ in range(num_images)]
        self.views: list[list[View]] = [[] for _ in range(num_images)]

    def take(self, output: Segmentation) -> None:
        """Note a forward pass; the images of the batch come round and round, window by window.

        Raises:
            NonFiniteScoresError: of any image.

        """
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # so that taking notes is timed apart
        start = time.perf_counter()
        macs = total_macs(count_macs(self.model, output))
        tokens = np.array(output.tokens_per_stage)
        count = output.layout.segments.num_images
        views = View.of_batch(
            output,
            {i: self.windows[(self.row + i) // self.num_images] for i in range(count)},
        )
        # Scores of the grid are on the host by now: a map of what is no number would mislead.
        if not all(np.isfinite(view.confidence_YX).all() for view in views):
            raise NonFiniteScoresError
        for index, view in enumerate(views):
            window = self.windows[(self.row + index) // self.num_images]
            image = (self.row + index) % self.num_images
            self.macs[image] += macs[index]
            self.tokens[image] = self.tokens[image] + tokens[:, index]
            for side in self.superpatches[image]:
                covered = int((view.superpatches_YX == side).sum())
                self.superpatches[image][side] += covered // side**2
            if window is not None:
                self.views[image].append(view)
        self.row += count
        self.seconds += time.perf_counter() - start


def views_of_size(size: HW, protocol: Protocol) -> list[Window | None]:
    """The windows in which an image is shown, in order; None: not part of the token maps.

    The maps are those of the first scale, not mirrored.
    """
    found: list[Window | None] = []
    for index, scale in enumerate(protocol.scales):
        height, width = resized_size(*size, protocol, scale)
        windows = protocol.windows(height, width)
        found += windows if index == 0 else [None] * len(windows)
        found += [None] * len(windows) if protocol.flip else []
    return found

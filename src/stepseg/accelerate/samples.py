"""Images with the label maps that the dense model gave them, as the model sees both.

Letters: B images, H x W pixels.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg.data.files import Pixels
from stepseg.metrics.calibration import resize_labels
from stepseg.pictures.drawing import Labels
from stepseg.predict.inputs import File, items_of
from stepseg.predict.outputs import OutputFolder
from stepseg.predict.segmenter import Segmenter
from stepseg.protocol import Protocol, show_first
from stepseg.tuning.families import grid_cells


@dataclass(frozen=True, slots=True)
class Samples:
    """Files whose label maps lie in a folder of results."""

    files: Sequence[File]
    dense: OutputFolder

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[Pixels, Labels]:
        """An image and its label map, both in the size of the file."""
        (item,) = items_of([self.files[index]])
        return item.read(), self.dense.labels(item.name)

    def spread(self, most: int) -> "Samples":
        """At most so many of them, evenly from all."""
        count = min(most, len(self))
        return Samples([self.files[i * len(self) // count] for i in range(count)], self.dense)

    def cells(self, segmenter: Segmenter) -> int:
        """Patches that the model is shown at once of the first image, which stands for all."""
        return grid_cells(self.files[0].path, segmenter.protocol, segmenter.model.patch_size)

    def tensors(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One after the other: uint8 ``[1, 3, H, W]`` and int64 ``[1, H, W]``."""
        for index in range(len(self)):
            yield _tensors(*self.read(index))

    def crops(
        self, protocol: Protocol, side: int, batch_size: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches without end: squares out of images in the size in which they are shown.

        Args:
            side: of the squares; smaller images give what they have, filled up with ignore.
            seed: of order, places and mirroring.

        Yields:
            RGB in [0, 1], ``[B, 3, side, side]``, and labels, int64 ``[B, side, side]``.

        """
        draw = random.Random(seed)
        order: list[int] = []
        while True:
            batch = []
            for _ in range(batch_size):
                order = order or draw.sample(range(len(self)), len(self))
                batch.append(self._crop(order.pop(), protocol, side, draw))
            images, labels = zip(*batch, strict=True)
            yield torch.stack(images), torch.stack(labels)

    def _crop(
        self, index: int, protocol: Protocol, side: int, draw: random.Random
    ) -> tuple[Tensor, Tensor]:
        image, label = _tensors(*self.read(index))
        image = show_first(image, protocol)
        size = (image.shape[2], image.shape[3])
        label = resize_labels(label, size)
        top, left = (draw.randint(0, max(0, edge - side)) for edge in size)
        image, label = (x[0, ..., top : top + side, left : left + side] for x in (image, label))
        missing = (0, side - label.shape[1], 0, side - label.shape[0])
        image, label = F.pad(image, missing, value=0.5), F.pad(label, missing, value=255)
        return (image.flip(-1), label.flip(-1)) if draw.random() < 0.5 else (image, label)


def _tensors(image: Pixels, label: Labels) -> tuple[Tensor, Tensor]:
    shown = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    return shown, torch.from_numpy(label.copy()).long()[None]

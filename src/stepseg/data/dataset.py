"""One data set class for all data sets: files -> dict(image, label, name).

No normalisation happens here: every sub-network owns its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stepseg.data.files import ImageFileError, read_image, read_label
from stepseg.data.layouts import Pair
from stepseg.data.sampler import SampleKey, mixed_seed
from stepseg.data.specs import DatasetSpec


class Sample(TypedDict):
    """One image with its label."""

    image: Tensor
    """uint8 [3, H, W], RGB"""
    label: Tensor
    """uint8 [H, W], training ids 0..C-1 and 255"""
    name: str
    broken: NotRequired[list[str]]
    """Messages about the unreadable files in whose place this sample stands."""


class Batch(TypedDict):
    """Samples of one size, stacked."""

    image: Tensor
    """uint8 [B, 3, H, W], RGB"""
    label: Tensor
    """uint8 [B, H, W], training ids 0..C-1 and 255"""
    name: list[str]
    broken: NotRequired[list[str]]
    """Messages about files that were left out."""


Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def unchanged(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The transform that leaves a sample as it is."""
    return image, label


class SegmentationDataset(Dataset[Sample]):
    """Images and labels of one split, full size, in name order.

    Raises:
        LayoutError: the root does not hold the split.
    """

    def __init__(self, spec: DatasetSpec, root: Path | str, split: str) -> None:
        self.spec = spec
        self.root = Path(root)
        self.split = split
        self.pairs: list[Pair] = spec.layout.pairs(self.root, split)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        label = load_label(pair, self.spec, (image.shape[1], image.shape[2]))
        return Sample(image=image, label=label, name=pair.name)


ON_ERROR = ("raise", "skip")
MAX_SKIPPED = 20
"""Unreadable images one after the other: beyond this it is not single files."""


class AugmentedDataset(Dataset[Sample]):
    """Training view: the random numbers of a sample depend on (seed, position in training) alone.

    Neither the number of workers nor a restart in mid-training changes what a position yields.

    Args:
        dataset: full-size samples.
        on_error: what an unreadable file does: `raise`, or `skip` to the next sample.

    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        transform: Transform,
        seed: int,
        on_error: str = "raise",
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.on_error = on_error

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Sample:
        sample = self._read(key.row)
        # CPU generator only: reseeding all devices would disturb dropout when num_workers=0.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mixed_seed(self.seed, key.position))
            image, label = self.transform(sample["image"], sample["label"])
        return Sample({**sample, "image": image, "label": label})

    def _read(self, row: int) -> Sample:
        """The sample of a row; with `on_error="skip"` the next one that can be read."""
        broken: list[str] = []
        while True:
            try:
                sample = self.dataset[(row + len(broken)) % len(self.dataset)]
            except ImageFileError as error:
                if self.on_error == "raise":
                    raise
                broken.append(str(error))
                if len(broken) == min(MAX_SKIPPED, len(self.dataset)):
                    raise ImageFileError(
                        f"{len(broken)} images in a row cannot be read, the last one: {error}"
                    ) from error
                continue
            return Sample({**sample, "broken": broken}) if broken else sample


def load_label(pair: Pair, spec: DatasetSpec, size: tuple[int, int] | None = None) -> Tensor:
    """Training ids of a pair's label file, uint8 [H, W], for an image of (height, width)."""
    ids_HW = read_label(pair.label, size)
    return torch.from_numpy(spec.label_maps[pair.encoding].apply(ids_HW, pair.label))


def collate(samples: list[Sample]) -> Batch:
    """Stack samples of one size.

    Raises:
        ValueError: sizes differ.
    """
    sizes = {tuple(sample["label"].shape) for sample in samples}
    if len(sizes) > 1:
        described = ", ".join(
            f"{s['name']} {s['label'].shape[1]}x{s['label'].shape[0]}" for s in samples[:4]
        )
        raise ValueError(
            f"images of one batch have different sizes ({described}); evaluation keeps the labels' "
            "full size, so use data.val_batch_size=1 for this data set"
        )
    batch = Batch(
        image=torch.stack([sample["image"] for sample in samples]),
        label=torch.stack([sample["label"] for sample in samples]),
        name=[sample["name"] for sample in samples],
    )
    broken = [message for sample in samples for message in sample.get("broken", [])]
    return Batch({**batch, "broken": broken}) if broken else batch

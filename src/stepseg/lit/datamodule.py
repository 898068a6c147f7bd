"""The data set of a run as a Lightning data module: loaders for training, validation and test.

Run the trainer with `use_distributed_sampler=False`: the samplers here already divide the samples
over the ranks, in evaluation without the padding that would count images twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Subset

from stepseg.data.corruption import CorruptedDataset, Corruption
from stepseg.data.dataset import (
    ON_ERROR,
    AugmentedDataset,
    SegmentationDataset,
    collate,
    unchanged,
)
from stepseg.data.loader import TrainLoader
from stepseg.data.sampler import EvaluationSampler, InfiniteBatchSampler, SampleKey
from stepseg.data.specs import DatasetSpec, get_spec
from stepseg.data.synthetic import KINDS, SceneParameters, ensure_scenes, scene_root
from stepseg.data.transforms import Augmentation, TrainTransform
from stepseg.plain_types import from_values, is_whole
from stepseg.protocol import Protocol
from stepseg.telling import tell


class SegmentationDataModule(L.LightningDataModule):
    """Batches are dict(image=uint8 [B,3,H,W], label=uint8 [B,H,W], name=list of str).

    Args:
        name: data set, see `stepseg.data.specs.available()`.
        root: its folder; of generated scenes that of their cache.
        crop_size: (height, width) of training samples, or one number for both.
        batch_size: training samples per rank and step.
        val_batch_size: evaluation samples per step; above 1 needs images of one size.
        num_workers: loader processes; 0 loads in the main process.
        seed: of order and augmentation.
        evaluation: the evaluation protocol, published as `protocol`.
        image_size: (height, width) of generated scenes; for these only, as the next two.
        train_images: number of generated training scenes.
        val_images: number of generated validation scenes.
        pin_memory: page-locked batches, where there is a GPU.
        on_error: what an unreadable training image does: `raise` or `skip`. In evaluation it always
            raises, because figures over fewer images would be other figures.
        corruption: damages the images of the test.

    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        *,
        crop_size: int | tuple[int, int] = (512, 512),
        batch_size: int = 4,
        val_batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        augmentation: Augmentation | Mapping[str, Any] | None = None,
        evaluation: Protocol | Mapping[str, Any] | None = None,
        image_size: tuple[int, int] | None = None,
        train_images: int | None = None,
        val_images: int | None = None,
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "val",
        pin_memory: bool = False,
        on_error: str = "raise",
        corruption: Corruption | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.root = Path(root).expanduser()
        self.crop_size = _sides(crop_size)
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.augmentation = _settings(Augmentation, augmentation, "data.augmentation")
        self.protocol = _settings(Protocol, _windows(evaluation), "data.evaluation")
        self.splits = {"train": train_split, "val": val_split, "test": test_split}
        self.on_error = on_error
        self.corruption = _settings(Corruption, corruption, "data.corruption")
        self.pin_memory = pin_memory and torch.cuda.is_available()
        given = {"image_size": image_size, "train_images": train_images, "val_images": val_images}
        self.scenes = _scene_parameters(name, given)
        for key, least in (("batch_size", 1), ("val_batch_size", 1), ("num_workers", 0)):
            value = getattr(self, key)
            if not is_whole(value):
                raise ValueError(f"data.{key} is a whole number, at least {least}, got {value!r}")
            if value < least:
                raise ValueError(f"data.{key} is at least {least}, got {value}")
        if not is_whole(seed):
            raise ValueError(f"data.seed is a whole number, got {seed!r}")
        if on_error not in ON_ERROR:
            raise ValueError(f"data.on_error={on_error!r}: choose one of {', '.join(ON_ERROR)}")
        self.spec: DatasetSpec = get_spec(name, self.root)
        self._seen: frozenset[str] = frozenset()
        self._tested: frozenset[str] | None = None

    @property
    def num_classes(self) -> int:
        return self.spec.num_classes

    def prepare_data(self) -> None:
        """Draw the generated scenes if they are not cached yet; other data sets must be there."""
        if self.scenes is None:
            return
        root = scene_root(self.root, self.scenes)
        if not root.exists():  # thousands take minutes
            tell(f"scenes  {sum(self.scenes.counts.values())} are drawn, once, into {root}")
        ensure_scenes(self.root, self.scenes)

    def dataset(self, split: str) -> SegmentationDataset:
        """Full-size samples of "train", "val" or "test" without augmentation."""
        root = self.root if self.scenes is None else scene_root(self.root, self.scenes)
        found = SegmentationDataset(self.spec, root, self.splits[split])
        if split == "test" and self._tested is not None:
            found.pairs = [pair for pair in found.pairs if pair.name in self._tested]
        return found

    def test_only(self, names: Iterable[str] | None) -> None:
        """Let the tests that follow be of these images alone; None: of all."""
        self._tested = None if names is None else frozenset(names)

    def train_dataloader(self) -> TrainLoader:
        """Endless; rank r takes the r-th part of every global batch of world * batch_size."""
        rank, world = self._rank_and_world()
        transform = TrainTransform(self.augmentation, self.crop_size)
        dataset = AugmentedDataset(self.dataset("train"), transform, self.seed, self.on_error)
        sequence = InfiniteBatchSampler(len(dataset), self.batch_size, self.seed, rank, world)
        return TrainLoader(
            dataset,
            sequence,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            batches_used=self._batch_counter(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Full-size validation samples, every one on exactly one rank."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Full-size test samples, every one on exactly one rank."""
        return self._evaluation_loader("test", self._seen)

    def whole_train_images(self, count: int) -> DataLoader[Any]:
        """Full-size training samples one by one, evenly from all of them: this rank's share.

        Ranks may have different numbers of them, and none.
        """
        dataset = AugmentedDataset(self.dataset("train"), unchanged, self.seed, self.on_error)
        count = min(count, len(dataset))
        keys = [SampleKey(row * len(dataset) // count, position=0) for row in range(count)]
        rank, world = self._rank_and_world()
        return DataLoader(
            dataset,
            sampler=keys[rank::world],
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            collate_fn=collate,
        )

    def skip(self, names: Iterable[str]) -> None:
        """Leave these images out of the tests that follow: they have been counted before."""
        self._seen = frozenset(names)

    def _evaluation_loader(
        self, split: str, seen: Collection[str] = frozenset()
    ) -> DataLoader[Any]:
        pairs = self.dataset(split)
        damaged = CorruptedDataset(pairs, self.corruption if split == "test" else Corruption())
        dataset = Subset(damaged, [i for i, p in enumerate(pairs.pairs) if p.name not in seen])
        rank, world = self._rank_and_world()
        if len(dataset) < world:
            # A rank without images would log nothing and leave the others waiting for it.
            raise ValueError(
                f"split {self.splits[split]!r} of {self.name} has {len(dataset)} image(s) for "
                f"{world} processes: use at most {len(dataset)} (trainer.devices)"
            )
        return DataLoader(
            dataset,
            batch_size=self.val_batch_size,
            sampler=EvaluationSampler(len(dataset), rank, world),
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            collate_fn=collate,
            persistent_workers=self.num_workers > 0,
        )

    def _rank_and_world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _batch_counter(self) -> Callable[[], int] | None:
        """Counts the batches trained from now on; the trainer may hold one more ahead."""
        if self.trainer is None:
            return None
        total: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        before = int(total.processed)
        return lambda: int(total.processed) - before


def _sides(given: Any) -> tuple[int, int]:
    """A crop's height and width."""
    sides = (given, given) if is_whole(given) else given
    if not (isinstance(sides, list | tuple) and len(sides) == 2 and all(map(is_whole, sides))):
        raise ValueError(
            f"data.crop_size is [height, width] in pixels, or one number for both, got {given!r}"
        )
    height, width = sides
    if min(height, width) < 16:
        raise ValueError(f"data.crop_size needs 16 x 16 px or more, got {(height, width)}")
    return height, width


def _windows(evaluation: Any) -> Any:
    """A window is often the crop, which may be one number for both sides."""
    if not isinstance(evaluation, Mapping):
        return evaluation
    return {
        key: (value, value) if key in ("crop", "stride") and is_whole(value) else value
        for key, value in evaluation.items()
    }


def _scene_parameters(name: str, given: Mapping[str, Any]) -> SceneParameters | None:
    """Parameters of the generated scenes, None for other data sets."""
    chosen = {key: value for key, value in given.items() if value is not None}
    if name in KINDS:
        return from_values(SceneParameters, {**chosen, "kind": name}, "data")
    if chosen:
        raise ValueError(
            f"{sorted(chosen)} describe generated scenes; remove them for data {name!r}"
        )
    return None


def _settings(kind: type[Any], value: Any, where: str) -> Any:
    """`value` as a settings object: given as such, as plain values, or None for the defaults."""
    if value is None:
        return kind()
    return value if isinstance(value, kind) else from_values(kind, value, where)
